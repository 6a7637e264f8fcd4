"""`bench curate`: scores every picture, shows what each threshold would keep, and selects by one of them.

Both lie in the results, below `curated/`, and nothing in the user's folder: `scores-<reward>.csv` (name, score, scorer,
version, weights, code, input), which a second call reads instead of scoring again, and `selected-<reward>.json`, for
`run --data.selection`.
"""

from __future__ import annotations

import csv
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import ConfigError, DataError
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.config.reward_expression import is_sum
from bench.datasets.base_model import base_model
from bench.datasets.pictures.inspection import Picture, csv_bytes
from bench.datasets.pictures.preparation import PreparedPictures, as_prompt, pictures_table, prepare_pictures
from bench.datasets.pictures.selection import Selection, SelectionColumns, columns_of, write_selection
from bench.files import write_whole
from bench.parsing import Problems, Text, validate
from bench.paths import inside
from bench.scoring.loading import Placement, load_scorers
from bench.scoring.ranking import top_share
from bench.scoring.scorer import Scorer

FOLDER = "curated"  # of the results
HEAD = ("name", "score", "scorer", "version", "weights", "code", "input")
_WITHOUT_CODE = tuple(name for name in HEAD if name != "code")  # of older files, whose scores may be of other code
SHARES = (0.5, 0.25, 0.1, 0.05, 0.01)
_CHUNK = 32  # pictures in one call of the scorer, which has to end in time
_BINS, _BAR = 12, 40


@dataclass(frozen=True)
class SelectionRule:
    """Which pictures to keep: those of at least this score, or the highest share (0, 1] within each category."""

    minimum: float | None = None
    share: float | None = None

    @classmethod
    def of(cls, minimum: float | None, share: float | None) -> SelectionRule | None:
        """The rule of the options --min and --top, of which one is given at most; None without them.

        Raises:
            ConfigError: the share is none.
        """
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"--top {share:g}: expected a share above 0, at most 1")
        return None if minimum is None and share is None else cls(minimum, share)

    def __str__(self) -> str:
        return (
            f"score >= {self.minimum:g}"
            if self.minimum is not None
            else f"highest {100 * (self.share or 0):g} % of each category"
        )


def curate_folder(
    settings: Data, reward: str, model: str | None, rule: SelectionRule | None, results: Path,
    server_url: str | None = None,
) -> str:  # fmt: skip
    """Score the pictures, select by the rule where one is given, and return what the terminal shows.

    A scorer that the reward server at `server_url` has is taken from it.

    Raises:
        ConfigError: the rule fits neither the scorer nor itself.
        DataError: the pictures cannot be used, the results cannot be written, or nothing is kept.
    """
    if is_sum(reward):
        raise ConfigError(f"--reward {reward}: pictures are selected by one scorer at a time; give one of its parts")
    prepared = prepare_pictures(settings, base_model(model))
    if prepared.selection is not None:
        given = settings.selection or settings.path
        raise ConfigError(f"{given} is a selection already: give what it was selected from by --data alone")
    scorer = load_scorers({reward}, placement=Placement(server_url=server_url))[reward]
    if rule is not None and rule.minimum is not None and not scorer.reward.higher_is_better:
        raise ConfigError(f"--min: of {reward}, lower scores are better: select by --top SHARE")
    place = inside(results, f"{FOLDER}/{_name_of(settings)}")
    pictures = prepared.inspected.kept
    scores = _score_pictures(prepared, scorer, place / f"scores-{scorer.name}.csv")
    lines = [pictures_table(prepared), "", *_histogram(scorer, scores), "", *_thresholds(scorer, scores)]
    lines += ["", f"scores      {place / f'scores-{scorer.name}.csv'}"]
    if rule is None:
        lines.append("selected    nothing: give --min SCORE or --top SHARE")
        return "\n".join(lines)
    kept = _select(pictures, scores, scorer, rule)
    path = place / f"selected-{scorer.name}.json"
    write_selection(path, _selection(prepared, scorer, rule, [pictures[row] for row in kept]))
    lines += [
        f"selected    {len(kept):,} of {len(pictures):,} ({rule}): {path}",
        "",
        _training_command(path, settings, model),
    ]
    return "\n".join(lines)


def _training_command(selection: Path, settings: Data, model: str | None) -> str:
    """The command that trains on a selection, with the options that it has to repeat."""
    chosen = dataclasses.replace(settings, selection=str(selection))
    words = chosen.options(without=SelectionColumns.model_fields) + (["--model", model] if model else [])
    return f"  python -m bench run {shlex.join(words)}"


def _name_of(settings: Data) -> str:
    """What the pictures are called below `curated/`: as their folder or file, or as on the hub."""
    path = Path(settings.path)
    if not path.exists():
        return settings.path.replace("/", "--")
    return path.resolve().name if path.is_dir() else path.stem


# Scores


def _score_pictures(prepared: PreparedPictures, scorer: Scorer, path: Path) -> np.ndarray:
    """Scores (N,) float64 of all pictures, NaN where the reward does not apply; stored as they are made."""
    about = (scorer.name, scorer.reward.version, scorer.fingerprint, scorer.code)
    pictures = prepared.inspected.kept
    inputs = [_input_hash(p, prepared.found.resolution) for p in pictures]
    stored = _stored_scores(path, about)
    scores = np.array([stored.get(key, np.inf) for key in inputs])
    todo = np.flatnonzero(np.isinf(scores))
    try:
        for start in range(0, len(todo), _CHUNK):
            rows = todo[start : start + _CHUNK]
            some = [pictures[int(row)] for row in rows]
            prompts = [as_prompt(0, p) for p in some]
            texts, metadata = [p.text for p in prompts], [p.metadata for p in prompts]
            scores[rows] = scorer.where_it_applies(prepared.read(some, prepared.square), texts, metadata)
    finally:  # an interrupted call has not scored for nothing
        made = np.flatnonzero(~np.isinf(scores))
        rows_of = [(pictures[r].name, repr(float(scores[r])), *about, inputs[r]) for r in made]
        write_whole(path, csv_bytes(HEAD, rows_of))
    return scores


def _input_hash(picture: Picture, resolution: int) -> str:
    """16 hex digits of what a score depends on besides the scorer."""
    colours = ["sRGB"] if picture.has_profile else []
    return config_hash({"input": [picture.digest, picture.caption, picture.tag, resolution, *colours]})


def _stored_scores(path: Path, about: tuple[str, ...]) -> dict[str, float]:
    """Scores that the same version and code of the scorer gave before, by what it saw."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if rows and tuple(rows[0]) == _WITHOUT_CODE:
        return {}
    if not rows or tuple(rows[0]) != HEAD or any(len(row) != len(HEAD) for row in rows):
        raise DataError(f"{path}: expected the columns {', '.join(HEAD)}: move it away to score afresh")
    return {row[-1]: float(row[1]) for row in rows[1:] if tuple(row[2:-1]) == about}


def _select(pictures: Sequence[Picture], scores: np.ndarray, scorer: Scorer, rule: SelectionRule) -> np.ndarray:
    """Row numbers of what the rule keeps; what cannot be scored is never kept."""
    scored = np.flatnonzero(np.isfinite(scores))
    if rule.minimum is not None:
        kept = scored[scores[scored] >= rule.minimum]
    elif len(scored):
        signed = scores if scorer.reward.higher_is_better else -scores
        assert rule.share is not None
        kept = scored[
            top_share(signed[scored], [as_prompt(0, pictures[int(row)]).category for row in scored], rule.share)
        ]
    else:
        kept = scored
    if not len(kept):
        highest = f"; the highest score is {scores[scored].max():.4g}" if len(scored) else "; none can be scored"
        raise DataError(f"{rule} keeps none of {len(scores)} pictures{highest}: choose a lower threshold")
    return kept


def _selection(prepared: PreparedPictures, scorer: Scorer, rule: SelectionRule, kept: Sequence[Picture]) -> Selection:
    return Selection(
        columns=columns_of(prepared.settings), scorer=scorer.name, version=scorer.reward.version,
        checkpoint=scorer.fingerprint, rule=str(rule), scored=len(prepared.inspected.kept),
        names=tuple(p.name for p in kept), digests=tuple(p.digest for p in kept),
    )  # fmt: skip


# What the terminal shows


def _histogram(scorer: Scorer, scores: np.ndarray) -> list[str]:
    valid = scores[np.isfinite(scores)]
    head = f"{scorer.name} version {scorer.reward.version}: {len(valid):,} pictures scored"
    if len(valid) < len(scores):
        head += f", {len(scores) - len(valid):,} cannot be judged by it"
    if not len(valid):
        return [head]
    counts, edges = np.histogram(valid, _BINS)
    head += f", mean {valid.mean():.4g}, {valid.min():.4g} to {valid.max():.4g}"
    bars = ("█" * round(_BAR * count / counts.max()) or ("▏" if count else "") for count in counts)
    return [
        head,
        *(f"{low:>10.4g} {bar:<{_BAR}} {count:,}" for low, bar, count in zip(edges, bars, counts, strict=False)),
    ]


def _thresholds(scorer: Scorer, scores: np.ndarray) -> list[str]:
    """What a few shares would keep, and at which score."""
    valid = scores[np.isfinite(scores)]
    if not len(valid):
        return []
    better = scorer.reward.higher_is_better
    ordered = np.sort(valid)[::-1] if better else np.sort(valid)
    lines = [f"{'share':>10}{'keeps':>10}{'--min' if better else 'at most':>12}{'their mean':>14}"]
    for share in SHARES:
        kept = ordered[: int(np.ceil(share * len(ordered)))]
        lines.append(f"{share:>10.0%}{len(kept):>10,}{kept[-1]:>12.4g}{kept.mean():>14.4g}")
    return lines


def data_settings(path: str, options: Sequence[tuple[str, str | None]]) -> Data:
    """The settings of the pictures from the dotted options of the command line, `data.caption_column` and the like.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    values: dict[str, Any] = {"path": path}
    problems = Problems()
    for option, value in options:
        block, _, name = option.partition(".")
        if block != "data" or value is None:
            problems.add("", f"--{option}: expected --data.SETTING VALUE, as in `bench list data`")
        else:
            values[name] = Text(value)
    settings = validate(Data, values, "data", problems)
    problems.raise_if_any("settings of the pictures")
    assert settings is not None
    return dataclasses.replace(settings, found=None)
