"""What scorers hold on a card that trains."""

from __future__ import annotations

from bench import registry
from bench.api import Reward
from bench.config.reward_expression import scorers_of_task
from bench.config.scorer_process import ScorerProcess
from bench.config.settings import Experiment
from bench.config.task import Task


def held_by_scorers(experiment: Experiment, cards: int = 1) -> tuple[float, tuple[str, ...]]:
    """Bytes that scorers hold on the fullest of the `cards` that train a cell; and those that do not say theirs.

    Of several tasks the one with most counts. What has a process of its own shares its checkpoints with no other. Those
    on the CPU or on another card weigh nothing, and neither do those that a reward server could have, which is not
    asked here.
    """
    found = [_of_task(experiment, task, cards) for task in experiment.tasks]
    return max(size for size, _ in found), tuple(sorted({name for _, unknown in found for name in unknown}))


def _of_task(experiment: Experiment, task: Task, cards: int) -> tuple[float, list[str]]:
    sizes, unknown = dict[tuple[str, str], float](), list[str]()
    for name in sorted(scorers_of_task(task, experiment.evaluation.set_scorers)):
        cls = registry.load_reward(name)
        apart = experiment.scorers.get(cls.name)
        if apart is None and experiment.reward_server is not None:
            continue
        own = apart if apart is not None and apart.process else None
        copies = _copies(cls, own, experiment.device, cards)
        if copies and cls.held is None:
            unknown.append(cls.name)
        for checkpoint, gib in (cls.held or {}).items():
            sizes[cls.name if own else "", checkpoint] = copies * gib
    return sum(sizes.values()) * 2**30, unknown


def _copies(cls: type[Reward], own: ScorerProcess | None, device: str, cards: int) -> int:
    """How often a scorer with a process of its `own`, or without, lies on the card that trains, or on the fullest.

    Every process that trains starts a process of its own, on the card of the number that is asked for; on the first one
    where none is asked for, or on that of its rank.
    """
    asked = own.device if own else "auto"
    if asked == "cpu" or (asked == "auto" and cls.environment is not None):
        return 0
    trains = int(device.partition(":")[2] or 0)
    number = int(asked.partition(":")[2] or 0) if own else trains
    if cards == 1:
        return int(number == trains)
    return cards if ":" in asked and number < cards else int(":" not in asked)
