"""The pictures of all cells, prompt by prompt: the same prompt and noise side by side, with what gold says of each."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from bench.results.figures import split_tiles
from bench.results.records.cell_reader import CellResult, damaged, named_file
from bench.results.records.schema import SampleGrid
from bench.results.report.markdown import format_number
from bench.results.report.words import marked, scorer_decimals
from bench.results.statistics.analysis import REPORT, Analysis

__all__ = ["Gallery", "Picture", "PromptRow", "picture_sources", "read_galleries"]

ROOM = 6_000_000  # bytes of all pictures of a page: above it they are made smaller, and the page says so
SMALLEST = 64  # pixels, below which no picture is made


@dataclass(frozen=True, eq=False)
class Tiles:
    """The pictures of one cell, which lie in a row in one file; decoded when they are asked for."""

    cell: CellResult
    kept: SampleGrid

    @cached_property
    def pixels(self) -> list[np.ndarray]:
        """Each picture uint8 (H, W, 3); raises DataError where the file is no whole picture."""
        path = named_file(self.cell, self.kept.file)
        try:
            return split_tiles(path.read_bytes(), self.kept.tile, len(self.kept.captions))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on bytes that are no whole picture
            raise damaged(path, "a PNG", error) from error

    @cached_property
    def digest(self) -> str:
        """The hash of the file; the reader has held it to the record's, where that has one."""
        return self.kept.sha256 or sha256(named_file(self.cell, self.kept.file).read_bytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Picture:
    """One cell's picture of a prompt. verdict: by gold; is_right: None where gold gives a score."""

    method: str
    name: str
    seed: int
    tiles: Tiles
    place: int
    verdict: str
    is_right: bool | None

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return self.tiles.pixels[self.place]


@dataclass(frozen=True)
class PromptRow:
    """One prompt with its pictures by method. tags: what the filter by verdict finds it under."""

    index: int
    caption: str
    category: str
    pictures: Mapping[str, tuple[Picture, ...]]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The rows of one task. choices: tag to words, of the filter by verdict."""

    task: str
    gold: str
    kind: str
    note: str
    rows: tuple[PromptRow, ...]
    choices: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """All of it as plain data, pictures by the hash of their file and their place in it."""
        rows = [
            [row.index, row.caption, row.category, list(row.tags)]
            + [
                [one.name, one.seed, one.verdict, one.tiles.digest, one.place]
                for of in row.pictures.values()
                for one in of
            ]
            for row in self.rows
        ]
        return {"task": self.task, "gold": self.gold, "note": self.note, "rows": rows, "choices": dict(self.choices)}


def read_galleries(analysis: Analysis) -> list[Gallery]:
    """One gallery a task whose cells kept pictures; raises DataError where a file of these is missing."""
    found = (_gallery(analysis, task) for task in analysis.tasks)
    return [gallery for gallery in found if gallery.rows]


def _gallery(analysis: Analysis, task: str) -> Gallery:
    cells = [c for c in analysis.experiment.results if c.header.task == task and c.status == "done" and c.pictures]
    order = list(analysis.methods(task))
    cells.sort(key=lambda cell: (order.index(cell.header.method), cell.header.seed))
    gold = _gold(analysis, task)
    scores = _Scores(analysis, task, gold)
    captions: dict[int, str] = {}
    pictures: dict[int, dict[str, list[Picture]]] = {}
    for cell in cells:
        assert cell.pictures is not None  # others were left out above
        head, tiles = cell.header, Tiles(cell, cell.pictures)
        name = marked(analysis, task, head.method)
        for place, (index, caption) in enumerate(zip(tiles.kept.prompt_indices, tiles.kept.captions, strict=True)):
            captions.setdefault(index, caption)
            one = Picture(head.method, name, head.seed, tiles, place, *scores.told(head.method, head.seed, index))
            pictures.setdefault(index, {}).setdefault(head.method, []).append(one)
    samples = analysis.experiment.samples
    own = samples[(samples["task"] == task) & (samples["split"] == REPORT)].drop_duplicates("prompt_index")
    categories = {int(index): str(name) for index, name in zip(own["prompt_index"], own["category"], strict=True)}
    rows = tuple(
        PromptRow(
            index, captions[index], categories.get(index, "other"),
            {method: tuple(of) for method, of in pictures[index].items()}, scores.tags(pictures[index], index),
        )
        for index in sorted(pictures)
    )  # fmt: skip
    kind = "gold" if analysis.info(gold).gold else "proxy: no gold scorer judged this task"
    return Gallery(task, gold, kind, _note(cells, len(rows), len(categories)), rows, scores.choices())


def _note(cells: list[CellResult], shown: int, judged: int) -> str:
    kept = cells[0].pictures if cells else None
    if kept is None:
        return ""
    return (
        f"The first {shown} of {judged} prompts, not chosen: a run keeps the pictures of no others. Guidance "
        f"{kept.guidance:g}, {kept.steps} steps; the same prompt and the same initial noise for all."
    )


def _gold(analysis: Analysis, task: str) -> str:
    """The scorer that says who got a prompt right: the headline's if it is gold, else the first gold one."""
    names = [analysis.primary(task), *analysis.scorers(task)]
    return next((name for name in names if analysis.info(name).gold), names[0])


class _Scores:
    """What gold says of each picture: right or wrong where it passes or fails, else its score."""

    def __init__(self, analysis: Analysis, task: str, gold: str) -> None:
        self._methods = [(method, marked(analysis, task, method)) for method in analysis.methods(task)]
        self._tables = {method: analysis.scores(task, method, gold) for method, _ in self._methods}
        self._tables = {method: table for method, table in self._tables.items() if table.size}
        values = [np.unique(table.to_numpy()) for table in self._tables.values()]
        self._passes = bool(values) and set(np.concatenate(values).tolist()) <= {0.0, 1.0}
        self._decimals = scorer_decimals(analysis, task, gold)
        self._sign = 1 if analysis.info(gold).higher_is_better else -1
        self._at = {  # the row of each seed, the column of each prompt
            method: (_places(table.index), _places(table.columns.get_level_values("prompt_index")))
            for method, table in self._tables.items()
        }

    def _score(self, method: str, seed: int, index: int) -> float | None:
        rows, columns = self._at.get(method, ({}, {}))
        if seed not in rows or index not in columns:
            return None
        return float(self._tables[method].to_numpy()[rows[seed], columns[index]])

    def told(self, method: str, seed: int, index: int) -> tuple[str, bool | None]:
        """In words, and whether it is right where the scorer passes or fails."""
        score = self._score(method, seed, index)
        if score is None:
            return "not judged", None
        if self._passes:
            return ("right", True) if score == 1 else ("wrong", False)
        return format_number(score, self._decimals), None

    def tags(self, pictures: Mapping[str, list[Picture]], index: int) -> tuple[str, ...]:
        """Under which choices of the filter a prompt is found."""
        number = {method: place for place, (method, _) in enumerate(self._methods)}
        if self._passes:
            judged = {method: [p.is_right for p in of if p.is_right is not None] for method, of in pictures.items()}
            judged = {method: of for method, of in judged.items() if of}
            right = [method for method, of in judged.items() if all(of)]
            wrong = [method for method, of in judged.items() if not any(of)]
            tags = [f"right-{number[m]}" for m in right] + [f"wrong-{number[m]}" for m in wrong]
            if judged:
                tags.append("all" if len(right) == len(judged) else "none" if len(wrong) == len(judged) else "split")
            return tuple(tags)
        means = {}
        for method, of in pictures.items():
            scores = [score for p in of if (score := self._score(method, p.seed, index)) is not None]
            if scores:
                means[method] = self._sign * float(np.mean(scores))
        return tuple(f"best-{number[m]}" for m, mean in means.items() if mean == max(means.values()))

    def choices(self) -> dict[str, str]:
        """The choices of the filter with their words."""
        if not self._passes:
            return {f"best-{n}": f"{name} is best" for n, (_, name) in enumerate(self._methods)}
        found = {"all": "all are right", "none": "all are wrong", "split": "they disagree"}
        for n, (_, name) in enumerate(self._methods):
            found |= {f"right-{n}": f"{name} is right", f"wrong-{n}": f"{name} is wrong"}
        return found


def _places(names: Iterable[int]) -> dict[int, int]:
    return {name: place for place, name in enumerate(names)}


def picture_sources(galleries: list[Gallery]) -> tuple[dict[Picture, str], str]:
    """The data: URL of every picture, and a note where they were made smaller to fit in a page."""
    pictures = [one for g in galleries for row in g.rows for of in row.pictures.values() for one in of]
    whole = [_encoded(one.pixels) for one in pictures]
    if sum(map(len, whole)) <= ROOM:
        return _urls(pictures, whole, "png"), ""
    side = max(max(one.pixels.shape[:2]) for one in pictures)
    while True:
        side = max(SMALLEST, side // 2)
        small = [_encoded(one.pixels, side) for one in pictures]
        if sum(map(len, small)) <= ROOM or side == SMALLEST:
            note = (
                f"Shown at {side} pixels, as WebP: the whole ones lie in pictures.png of each cell, beside this page."
            )
            return _urls(pictures, small, "webp"), note


def _urls(pictures: list[Picture], data: list[bytes], kind: str) -> dict[Picture, str]:
    pairs = zip(pictures, data, strict=True)
    return {one: f"data:image/{kind};base64,{b64encode(bytes_).decode()}" for one, bytes_ in pairs}


def _encoded(pixels: np.ndarray, side: int | None = None) -> bytes:
    """PNG as it is, or WebP with its longer side at most `side` pixels."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if side is None:
        image.save(buffer, format="PNG")
    else:
        image.thumbnail((side, side))
        image.save(buffer, format="WEBP", quality=85)
    return buffer.getvalue()
