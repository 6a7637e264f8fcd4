"""Which scorers a cell uses and for what, as its record holds it: version, hash of the checkpoint, roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.api import DataError
from bench.config.reward_expression import is_sum, parts_of
from bench.config.task import Task
from bench.paths import portable
from bench.results.records.schema import Scorers, ScorerUse, dump
from bench.results.records.writer import CellRecord
from bench.scoring.loading import placement_of
from bench.scoring.scorer import Scorer


def record_scorers(
    record: CellRecord, task: Task, scorers: Mapping[str, Scorer], *, goes_on: bool, of_sets: Sequence[str] = ()
) -> None:
    """Add the scorers to a record that begins; where it goes on, see that they are the same still.

    Raises:
        DataError: a scorer has another version or checkpoint, or another standard, than when the cell began.
    """
    now = uses(task, scorers, of_sets)
    if not goes_on:
        record.append("scorers", **{name: value for name, value in dump(now).items() if name != "kind"})
        return
    before = next((event for event in record.events() if isinstance(event, Scorers)), now)
    changed = sorted(n for n in {*before.scorers, *now.scorers} if _what(before, n) != _what(now, n))
    if changed:
        name = changed[0]
        raise DataError(
            f"scorer {name!r} has changed since the cell began: expected {_told(before.scorers.get(name))}, got "
            f"{_told(now.scorers.get(name))}; scores of different checkpoints do not mix, so put the old one back, or "
            f"remove {record.folder}"
        )


def uses(task: Task, scorers: Mapping[str, Scorer], of_sets: Sequence[str] = ()) -> Scorers:
    """Version, checkpoint and roles of a task's scorers and of those `of_sets` of prompts, parts of sums included."""
    roles: dict[str, list[Any]] = {}
    judges = tuple(dict.fromkeys((*task.scorers, *of_sets)))
    for role, names in (
        ("training", parts_of(task.reward)), ("filter", parts_of(task.select)), ("evaluation", judges),
    ):  # fmt: skip
        for name in filter(scorers.__contains__, names):  # nothing trains the base
            roles.setdefault(name, []).append(role)
    standards: dict[str, tuple[float, float]] = {}
    for spec in filter(scorers.__contains__, filter(None, (task.reward, task.select))):
        reward: Any = scorers[spec].reward
        if is_sum(spec) and reward.sum.standardised:
            standards |= reward.standards
    return Scorers(
        scorers={
            portable(name): ScorerUse(
                version=scorers[name].reward.version, checkpoint=scorers[name].fingerprint, roles=tuple(own),
                standard=standards.get(name), where=placement_of(scorers[name].reward),
            )
            for name, own in sorted(roles.items())
        }
    )  # fmt: skip


def _what(found: Scorers, name: str) -> ScorerUse | None:
    """What a scorer is; where its scores come from may change while a cell is interrupted."""
    use = found.scorers.get(name)
    return None if use is None else use.model_copy(update={"where": ""})


def _told(use: ScorerUse | None) -> str:
    return "none" if use is None else f"version {use.version} with checkpoint {use.checkpoint or 'none'}"
