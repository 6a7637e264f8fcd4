"""`bench score`: the pictures of a folder in a table, a ranked contact sheet for each scorer, and what scored them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import registry
from bench.api import ConfigError, DataError, NonFiniteError, PluginError, Prompt, Reward
from bench.config.reward_expression import parts_of
from bench.files import write_whole
from bench.plugin_errors import plugin_errors
from bench.scoring.folder.picture_folder import PictureEntry, list_pictures, read_picture
from bench.scoring.folder.ranked_sheet import draw_sheet
from bench.scoring.loading import Placement, load_scorers
from bench.scoring.scorer import Scorer

TABLE, ABOUT = "scores.csv", "scores.json"
_CHUNK = 16  # pictures read and judged at once
_HOPELESS = 8  # failures without a score before them, after which a scorer is given up
_NO_PROMPT = Prompt(0, "", {})
_FAILURES = (DataError, PluginError, NonFiniteError)


@dataclass(frozen=True)
class FolderScores:
    """Every entry of a folder with its scores: by scorer (N,) float32, NaN where it was not judged.

    folders: how many there are in the folder, which nobody looked into.
    """

    entries: Sequence[PictureEntry]
    by_scorer: dict[str, np.ndarray]
    folders: int = 0

    @property
    def broken(self) -> list[PictureEntry]:
        """The entries with a problem: that were not judged at all, or not by a scorer that failed on them."""
        return [entry for entry in self.entries if entry.problem]


def score_folder(
    rewards: Sequence[str], folder: Path, out: Path, prompts: Path | None = None, server_url: str | None = None
) -> FolderScores:
    """Judge the pictures of a folder, and write scores.csv, scores.json and a sheet for each scorer into `out`.

    Scorers that the reward server at `server_url` has are taken from it.

    Raises:
        ConfigError: no such reward; one that reads prompts, and there are none; `out` is the folder of the pictures.
        DataError: the folder or its prompts cannot be read; no picture of it can; a reward applies to no prompt.
    """
    if out.resolve() == folder.resolve():
        raise ConfigError(f"--out {out}: expected another folder than that of the pictures, which sheets could replace")
    entries = list_pictures(folder, prompts)
    parts = list(dict.fromkeys(part for spec in rewards for part in parts_of(spec)))
    registry.refuse_equal_names(parts)
    _refuse_without_prompts([registry.load_reward(part) for part in parts], entries, folder)
    loaded = load_scorers(set(rewards), placement=Placement(server_url=server_url))
    scorers = [loaded[name] for name in dict.fromkeys(rewards)]
    scores = _score_entries(folder, entries, scorers)
    for name, values in scores.by_scorer.items():
        if np.isnan(values).all():
            reasons = ", such as: ".join(f"{entry.name}: {entry.problem}" for entry in scores.broken[:1])
            raise DataError(f"{folder}: {name} could judge none of its {len(entries)} files; {reasons}")
    _write_table(scores, out)
    write_whole(out / ABOUT, (json.dumps(_scorer_facts(scorers), indent=2) + "\n").encode())
    for scorer in scorers:
        higher, path = scorer.reward.higher_is_better, out / _sheet_name(scorer.name)
        draw_sheet(folder, entries, scores.by_scorer[scorer.name], scorer.name, higher, path)
    return scores


def scores_summary(scores: FolderScores, out: Path) -> str:
    """What was found, for the terminal."""
    judged = int(np.isfinite(np.stack(list(scores.by_scorer.values()))).any(0).sum())
    lines = [f"{judged} of {len(scores.entries)} pictures judged" + ("; problems:" if scores.broken else "")]
    lines += [f"  {entry.name}: {entry.problem}" for entry in scores.broken]
    if scores.folders:
        lines.append(f"folders in it that were not looked into: {scores.folders}")
    for name, values in scores.by_scorer.items():
        found = values[~np.isnan(values)]
        best, worst = (scores.entries[int(place)].name for place in (np.nanargmax(values), np.nanargmin(values)))
        lines.append(
            f"{name}: {len(found)} picture{'s' if len(found) > 1 else ''}, mean {found.mean():.4g}, "
            f"from {found.min():.4g} ({worst}) to {found.max():.4g} ({best})"
        )
    return "\n".join(
        [*lines, f"table   {out / TABLE}", *(f"sheet   {out / _sheet_name(name)}" for name in scores.by_scorer)]
    )


def _sheet_name(name: str) -> str:
    """The file of a scorer's sheet; a sum may have files among its parts."""
    return f"{name.replace('/', '_')}.png"


def _write_table(scores: FolderScores, out: Path) -> None:
    """One row for each file, in the order of the folder; an empty score means that it was not judged."""
    columns: dict[str, Any] = {
        "file": [entry.name for entry in scores.entries],
        "prompt": [entry.prompt.text if entry.prompt else "" for entry in scores.entries],
        **scores.by_scorer,
        "problem": [entry.problem for entry in scores.entries],
    }
    write_whole(out / TABLE, pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode())


def _score_entries(folder: Path, entries: Sequence[PictureEntry], scorers: Sequence[Scorer]) -> FolderScores:
    found = {scorer.name: np.full(len(entries), np.nan, np.float32) for scorer in scorers}
    failures = dict.fromkeys(found, 0)
    looked: list[PictureEntry] = []
    for start in range(0, len(entries), _CHUNK):
        readable: list[tuple[int, np.ndarray]] = []
        for place, entry in enumerate(entries[start : start + _CHUNK], start):
            try:
                if not entry.problem:
                    readable.append((place, read_picture(folder / entry.name)))
                looked.append(entry)
            except DataError as error:
                looked.append(dataclasses.replace(entry, problem=str(error)))
        for _, group in groupby(sorted(readable, key=_shape), key=_shape):
            places, pictures = map(list, zip(*group, strict=True))
            prompts = [entries[place].prompt or _NO_PROMPT for place in places]
            for scorer in scorers:
                scores, problems = _scores_and_problems(scorer, np.stack(pictures), prompts)
                found[scorer.name][places] = scores
                failures[scorer.name] += sum(map(bool, problems))
                if failures[scorer.name] >= _HOPELESS and np.isnan(found[scorer.name]).all():
                    count = failures[scorer.name]
                    raise PluginError(f"{scorer.name} failed on all of the first {count} pictures: {problems[-1]}")
                for place, problem in zip(places, problems, strict=True):
                    if problem:
                        before = looked[place].problem
                        told = f"{before}; {problem}" if before else problem
                        looked[place] = dataclasses.replace(looked[place], problem=told)
    return FolderScores(
        looked, found, sum(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
    )


def _scores_and_problems(
    scorer: Scorer, pictures: np.ndarray, prompts: Sequence[Prompt]
) -> tuple[np.ndarray, list[str]]:
    """Scores (B,), NaN for what the scorer cannot judge, and why it fails on a picture ("": it does not)."""

    def scored(part: slice) -> np.ndarray:
        texts, metadata = [prompt.text for prompt in prompts[part]], [prompt.metadata for prompt in prompts[part]]
        return scorer.where_it_applies(pictures[part], texts, metadata)

    try:
        return scored(slice(None)), [""] * len(prompts)
    except _FAILURES as error:
        scores, problems = np.full(len(prompts), np.nan, np.float32), [str(error)] * len(prompts)
    for i in range(len(prompts) if len(prompts) > 1 else 0):
        try:
            scores[i], problems[i] = scored(slice(i, i + 1))[0], ""
        except _FAILURES as error:
            problems[i] = str(error)
    return scores, problems


def _shape(pair: tuple[int, np.ndarray]) -> tuple[int, ...]:
    return pair[1].shape


def _refuse_without_prompts(rewards: Sequence[type[Reward]], entries: Sequence[PictureEntry], folder: Path) -> None:
    """Say before anything is loaded what a reward lacks."""
    given = [entry.prompt for entry in entries if entry.prompt is not None]
    readers = [reward.name for reward in rewards if reward.reads_prompts]
    if readers and not given:
        raise ConfigError(
            f"{', '.join(readers)}: expected prompts, by which a picture is judged here: give --prompts FILE with a "
            f"line for each picture, or put a metadata.jsonl (file_name, text) into {folder}"
        )
    for reward in rewards:
        with plugin_errors(f"reward {reward.name!r} in applies()", reward):
            applies = not given or any(reward.applies(prompt.metadata) for prompt in given)
        if not applies:
            raise DataError(
                f"{reward.name} applies to none of the {len(given)} prompts, such as {given[0].text!r}: give prompts "
                f"of its kind (`bench list {reward.name}`)"
            )


def _scorer_facts(scorers: Sequence[Scorer]) -> dict[str, dict[str, object]]:
    """What the scores depend on: version, checkpoint and code of each scorer, and that it judged only."""
    return {
        scorer.name: {
            "version": scorer.reward.version, "checkpoint": scorer.fingerprint, "code": scorer.code,
            "role": "evaluation",
            "higher_is_better": scorer.reward.higher_is_better, "source": scorer.reward.source,
        }
        for scorer in scorers
    }  # fmt: skip
