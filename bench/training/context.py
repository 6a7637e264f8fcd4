"""What the parts of one cell share, so that each is given it as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.budget import Ledger, Limit
from bench.config.task import Task
from bench.datasets.world import World
from bench.distributed.ranks import SINGLE_PROCESS, Ranks
from bench.scoring.scorer import Scorer

if TYPE_CHECKING:
    from bench.models.policy import PipelinePolicy


@dataclass(frozen=True)
class TaskContext:
    """The model and the task that it is trained for and judged on.

    scorers: those of the task and of the prompt sets, by name. note: is told what had to be mended on the way.
    """

    world: World
    task: Task
    policy: PipelinePolicy
    scorers: Mapping[str, Scorer]
    ranks: Ranks = SINGLE_PROCESS
    note: Callable[[str], object] = print


@dataclass(frozen=True)
class Metering:
    """Where a stage writes down what it spends, what limits it, and who spends along.

    unit: the FLOPs of one forward pass of the base for one sample, in which `cost` is counted.
    """

    ledger: Ledger
    limit: Limit
    unit: float
    ranks: Ranks = SINGLE_PROCESS
