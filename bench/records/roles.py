"""Which scorers a cell uses and for what, as its record holds it: version, hash of the checkpoint, roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.api import DataError
from bench.records.record import CellRecord
from bench.records.schema import Scorers, ScorerUse, dump
from bench.scorers.reward_names import is_sum, parts_of
from bench.scorers.scorer import Scorer
from bench.tasks.definitions import Task


def record_scorers(record: CellRecord, task: Task, scorers: Mapping[str, Scorer], *, goes_on: bool) -> None:
    """Add the scorers to a record that begins; where it goes on, see that they are the same still.

    Raises:
        DataError: a scorer has another version or checkpoint, or another standard, than when the cell began.
    """
    now = uses(task, scorers)
    if not goes_on:
        record.append("scorers", **{name: value for name, value in dump(now).items() if name != "kind"})
        return
    before = next((event for event in record.events() if isinstance(event, Scorers)), now)
    changed = sorted(n for n in {*before.scorers, *now.scorers} if before.scorers.get(n) != now.scorers.get(n))
    if changed:
        name = changed[0]
        raise DataError(
            f"scorer {name!r} has changed since the cell began: expected {_told(before.scorers.get(name))}, got "
            f"{_told(now.scorers.get(name))}; scores of different checkpoints do not mix, so put the old one back, or "
            f"remove {record.folder}"
        )


def uses(task: Task, scorers: Mapping[str, Scorer]) -> Scorers:
    """Version, checkpoint and roles of the scorers of a task, those within weighted sums included."""
    roles: dict[str, list[Any]] = {}
    for role, names in (
        ("training", parts_of(task.reward)), ("filter", parts_of(task.select)), ("evaluation", task.scorers),
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
            name: ScorerUse(
                version=scorers[name].reward.version, checkpoint=scorers[name].fingerprint, roles=tuple(own),
                standard=standards.get(name),
            )
            for name, own in sorted(roles.items())
        }
    )  # fmt: skip


def _told(use: ScorerUse | None) -> str:
    return "none" if use is None else f"version {use.version} with checkpoint {use.checkpoint or 'none'}"
