"""What a task's `reward` and `select` name: one reward, or a weighted sum like `0.7*clipscore+0.3*aesthetic`.

`standardised(0.7*clipscore+0.3*aesthetic)` brings every part to mean 0 and deviation 1 over candidates of the task
first, so that weights mean the same whatever the scale of a scorer; `grouped(0.7*clipscore+0.3*aesthetic)` within each
group of pictures of one prompt, while a method trains. `bench.scoring.weighted_sum` computes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import ConfigError

if TYPE_CHECKING:
    from bench.config.task import Task

_WRAPPED = re.compile(r"(standardised|grouped)\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class SumExpression:
    """Its parts, {scorer: weight}, and whether they are standardised over candidates, or within each group."""

    parts: dict[str, float]
    standardised: bool
    grouped: bool = False


def is_sum(spec: str) -> bool:
    """Whether a task names a weighted sum, and no single reward."""
    return "*" in spec or _WRAPPED.fullmatch(spec.strip()) is not None


def parts_of(spec: str | None) -> tuple[str, ...]:
    """The rewards that a task's `reward` or `select` stands for: none, one, or the parts of a sum.

    Raises:
        ConfigError: the sum cannot be read.
    """
    if spec is None:
        return ()
    return tuple(read_sum(spec).parts) if is_sum(spec) else (spec,)


def scorers_of_task(task: Task, set_scorers: Iterable[str] = ()) -> set[str]:
    """The single rewards that a task uses in any role, and those of prompt sets; parts of sums one by one."""
    return {part for spec in (*task.scorers, task.reward, task.select, *set_scorers) for part in parts_of(spec)}


def read_sum(spec: str) -> SumExpression:
    """The weighted sum that a text stands for.

    Raises:
        ConfigError: a part is not `weight*scorer`, a weight is zero or no finite number, or a scorer is named twice.
    """
    wrapped = _WRAPPED.fullmatch(spec.strip())
    parts: dict[str, float] = {}
    for term in (wrapped[2] if wrapped else spec).split("+"):
        text, star, scorer = (part.strip() for part in term.partition("*"))
        value = _weight(text)
        if not star or not scorer or value is None:
            raise ConfigError(
                f"weighted sum {spec!r}: expected parts like 0.7*clipscore with + between them, got {term.strip()!r} "
                "(a weight is a finite number other than 0; a minus stands before it)"
            )
        if scorer in parts:
            raise ConfigError(f"weighted sum {spec!r}: {scorer!r} stands there twice: add its weights up")
        parts[scorer] = value
    how = wrapped[1] if wrapped else ""
    return SumExpression(parts, how == "standardised", how == "grouped")


def _weight(text: str) -> float | None:
    """A finite number other than 0, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value else None
