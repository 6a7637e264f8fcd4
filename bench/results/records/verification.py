"""Whether what is stored of a cell is what was measured: settings, hashes, scores, pictures and ledger.

Every check gives a sentence for each thing that is wrong. Records of schema 1 have no hashes and are held to all else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from bench.api import ConfigError
from bench.budget import Budget
from bench.canonical import config_hash
from bench.results.records.hashes import sound_lines
from bench.results.records.schema import (
    BASE,
    CLUSTER,
    HELD_OUT,
    LEDGER,
    SCORE_COLUMNS,
    Cell,
    End,
    Event,
    ExperimentHeader,
    GridScores,
    LedgerEntry,
    Milestone,
    PromptSetScores,
    SampleGrid,
    Step,
)
from bench.results.records.score_files import coded_columns

__all__ = ["cell_problems", "check_pictures", "record_problems", "score_problems"]

ROUNDING = 1e-9  # relative: sums are taken in another order on another machine
Columns = Mapping[str, np.ndarray]  # of a score file, by name


def record_problems(cell: Cell, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines, by their values, that are not as they were written; `cell` is the first of them."""
    wrong = sound_lines(lines)[1] if cell.schema_ > 1 else None
    return [wrong] if wrong else []


def cell_problems(header: ExperimentHeader, events: Sequence[Event]) -> list[str]:
    """What the events of a cell, its first line first, contradict: `header`, their own hash, each other."""
    cell = events[0]
    assert isinstance(cell, Cell)
    try:
        return [*_settings(header, cell), *_ledgers(cell, events), *_ending(cell, events)]
    except (TypeError, AttributeError, ValueError, LookupError, ConfigError) as error:  # of another kind
        return [f"its config is none that a run writes ({error})"]


# Settings


def _settings(header: ExperimentHeader, cell: Cell) -> Iterator[str]:
    if cell.experiment != header.name:
        yield f"it belongs to experiment {cell.experiment!r}, not to {header.name!r}"
    if cell.config_hash != (found := config_hash(cell.config)):
        yield f"its config_hash is {cell.config_hash}, but that of its config is {found}"
    for name in sorted(header.config.keys() & cell.config.keys()):
        if header.config[name] != cell.config[name]:
            yield f"it was made with another {name} than experiment.json states"
    yield from _task(header, cell)
    yield from _budget(header, cell)


def _task(header: ExperimentHeader, cell: Cell) -> Iterator[str]:
    """What experiment.json says of the cell's task, and the margins of its scorers."""
    stated, own = header.tasks.get(cell.task), cell.config.get("task", {})
    if stated is None:
        yield f"experiment.json has no task {cell.task!r}"
        return
    told = {"primary": stated.primary, "reward": stated.reward, "scorers": list(stated.scorers)}
    for name in sorted(told.keys() & own.keys()):
        if told[name] != own[name]:
            yield f"experiment.json states {name} {told[name]!r} of task {cell.task}, it was made with {own[name]!r}"
    margins = own.get("margins", {})
    for name, margin in margins.items():
        held = stated.margins.get(name) if name in stated.scorers else margin
        if held != margin:
            yield f"experiment.json states margin {held} of {name} in task {cell.task}, it was made with {margin}"
    of_tasks = [task.margins for task in header.tasks.values()]
    for name, margin in margins.items():
        held = header.scorers[name].margin if name in header.scorers else margin
        if held not in (margin, *(of.get(name, margin) for of in of_tasks)):
            yield f"experiment.json states margin {held} of {name}, it was made with {margin}"
    for name in stated.margins.keys() - margins.keys() if "margins" in own else ():
        yield f"experiment.json states a margin of {name} in task {cell.task}, it was made with none"


def _budget(header: ExperimentHeader, cell: Cell) -> Iterator[str]:
    """The budget of experiment.json, against that of the cell's stages."""
    try:
        parts = [Budget.stored(text) for text in cell.config.get("budgets", [])]
        whole = Budget.parse(header.budget) if header.budget is not None else None
    except ConfigError as error:
        yield str(error)
        return
    if parts and whole:
        total = sum(part.amount for part in parts)
        if {part.unit for part in parts} != {whole.unit} or not _close(total, whole.amount, 1e-5):  # %g has six digits
            yield f"experiment.json states the budget {header.budget}, it was made with {total:g} {parts[0].unit}"


# The ledger and the end


def _ledgers(cell: Cell, events: Sequence[Event]) -> Iterator[str]:
    """Parts that do not add up, entries that shrink, updates that are not counted, more spent than was there."""
    done = [event for event in events if not isinstance(event, End) or event.status == "done"]
    spent = [event for event in done if isinstance(event, Step | Milestone | End)]
    for event in spent:
        entry, where = event.ledger, f"ledger at update {event.ledger.updates}"
        parts = entry.forward + entry.backward + entry.decode_cost + entry.reward_cost
        if not _close(parts, entry.cost, ROUNDING):
            yield f"{where}: its parts add up to {parts:g}, its cost is {entry.cost:g}"
        if not isinstance(event, End) and event.update != entry.updates:
            yield f"{where}: it stands in the {event.kind} of update {event.update}"
    for before, after in pairwise(spent):
        shrunk = [name for name in LEDGER if (getattr(after.ledger, name) or 0) < (getattr(before.ledger, name) or 0)]
        if shrunk:
            yield f"ledger at update {after.ledger.updates}: {', '.join(shrunk)} lower than in the line before"
    steps = [event.ledger for event in events if isinstance(event, Step)]
    if any(before == after for before, after in pairwise(steps)):
        yield "a step stands there twice"
    yield from _overspent(cell, spent[-1].ledger if spent else None)


def _overspent(cell: Cell, last: LedgerEntry | None) -> Iterator[str]:
    budgets = [Budget.stored(text) for text in cell.config.get("budgets", [])]
    if last is None or not budgets or budgets[0].unit == "seconds":  # which stand in the telemetry
        return
    unit, amount = budgets[0].unit, sum(budget.amount for budget in budgets)
    spent = float(last.samples + last.images) if unit == "images" else float(getattr(last, unit))
    if spent > amount * (1 + 1e-5):
        yield f"its ledger holds {spent:g} {unit}, more than its budget of {amount:g}"


def _ending(cell: Cell, events: Sequence[Event]) -> Iterator[str]:
    """Of a finished cell: what has to stand before its end, and that the end agrees with it."""
    end = events[-1]
    if not isinstance(end, End) or end.status != "done":
        return
    milestones = [event for event in events if isinstance(event, Milestone)]
    if not milestones or milestones[-1].ledger != end.ledger:
        yield "its end and its last milestone do not hold the same ledger"
    if not any(isinstance(event, SampleGrid) for event in events):
        yield "it is finished, but has no pictures"
    evaluation = cell.config.get("evaluation", {})
    has_grid = all(evaluation.get(f"grid_{name}") for name in ("guidance", "steps"))
    if has_grid and not any(isinstance(event, GridScores) for event in events):
        yield "it is finished, but the grid of guidance and steps is missing"
    judged = {event.name for event in events if isinstance(event, PromptSetScores)}
    for name in sorted(evaluation.get("prompt_sets", {}).keys() - judged):
        yield f"it is finished, but prompt set {name} was not judged"
    if end.reason is not None:
        yield "it is finished, and yet has a reason why it failed"
    if cell.method == BASE and end.ledger.updates:
        yield "it is the base, and yet was trained"


def _close(a: float, b: float, share: float) -> bool:
    return abs(a - b) <= share * max(1.0, abs(a), abs(b))


# Scores and pictures


def score_problems(
    header: ExperimentHeader, event: Milestone | PromptSetScores | GridScores, table: pa.Table
) -> list[str]:
    """What the scores of a file contradict: the event that names it, and the ranges of their scorers."""
    columns, texts = coded_columns(table)
    scorers = [name for name in columns if name not in SCORE_COLUMNS]
    strange = [name for name in scorers if name not in header.scorers]
    if strange:
        return [f"experiment.json does not describe scorer {name!r} (gold? margin?)" for name in strange]
    scores = np.array([columns[name] for name in scorers], np.float32).reshape(len(scorers), table.num_rows)
    found = [*_ranges(header, scorers, scores), *_rows(event, columns)]
    if not isinstance(event, GridScores):
        found += _means(event, columns, texts, dict(zip(scorers, scores.astype(np.float64), strict=True)))
    return [f"{event.file}: {problem}" for problem in found]


def _ranges(header: ExperimentHeader, scorers: Sequence[str], scores: np.ndarray) -> Iterator[str]:
    """Values of scores (S, N) outside their scorer's range."""
    least = np.fmin.reduce(scores, axis=1, initial=np.nan)
    most = np.fmax.reduce(scores, axis=1, initial=np.nan)
    for name, *worst in zip(scorers, least, most, strict=True):
        low, high = (None if bound is None else np.float32(bound) for bound in header.scorers[name].range)
        out = [v for v in worst if np.isinf(v) or (low is not None and v < low) or (high is not None and v > high)]
        if out:
            yield f"{name} has the value {out[0]:g}, outside its range of {low} to {high}"


def _rows(event: Milestone | PromptSetScores | GridScores, columns: Columns) -> Iterator[str]:
    """Settings that are not those of the event, and prompts that were scored twice."""
    if not isinstance(event, GridScores):
        own = {"guidance": np.float32(event.guidance), "steps": event.steps}
        own |= {"update": event.update} if isinstance(event, Milestone) else {}
        for name, value in own.items():
            if (columns[name] != value).any():
                yield f"it holds scores of another {name} than the {value:g} that the record has"
    # each row as its bytes in a set: quicker than numpy's own, on the few rows of a file
    identified = [name for name in SCORE_COLUMNS if name != CLUSTER]
    rows = np.array([columns[name] for name in identified], np.float64).T.copy()
    if len(set(rows.view(f"V{rows.itemsize * len(identified)}").ravel().tolist())) < len(rows):
        yield "a prompt was scored twice"


def _means(
    event: Milestone | PromptSetScores, columns: Columns, texts: Mapping[str, list[str]], scores: Columns
) -> Iterator[str]:
    """Means and counts that are not those of the rows, over all and by category."""
    counted = ~_is(HELD_OUT, "split", columns, texts)
    for name in sorted({*scores, *event.scores}):
        values = scores[name] if name in scores else np.full(len(counted), np.nan)
        there, stated = np.isfinite(values), event.scores.get(name)
        count = np.count_nonzero(there & counted)
        if stated is None:
            if count:
                yield f"it has scores of {name}, the record has no mean of them"
            continue
        if stated.n != count:
            yield f"it has {count} scores of {name}, the record says {stated.n}"
            continue
        for category, mean in [(None, stated.mean), *stated.by_category.items()]:
            rows = counted if category is None else counted & _is(category, "category", columns, texts)
            of = values[rows & there]
            if not of.size or not _close(float(of.mean()), mean, ROUNDING):
                within = f" in {category}" if category is not None else ""
                real = f"{of.mean():.6g}" if of.size else "of nothing"
                yield f"the mean of {name}{within} is {real}, the record says {mean:.6g}"


def _is(text: str, name: str, columns: Columns, texts: Mapping[str, list[str]]) -> np.ndarray:
    """Of each row (N,), whether this column holds that text."""
    return columns[name] == (texts[name].index(text) if text in texts[name] else -1)


def check_pictures(event: SampleGrid, path: Path) -> None:
    """Raise ValueError for a row of pictures of another size, and what Pillow does for a file that is no whole PNG."""
    count, (width, height) = len(event.captions), event.tile
    wanted = f"expected {count} tiles of {width}x{height} in a row"
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.size != (width * count, height):  # before it is decoded, which takes memory for all of it
                raise ValueError(f"{wanted}, got {picture.size[0]}x{picture.size[1]}")
            picture.verify()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{wanted}, got a picture that is too large to open") from error
