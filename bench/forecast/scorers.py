"""What scorers hold on the card that trains."""

from __future__ import annotations

from bench import registry
from bench.configuration.settings import Experiment
from bench.scorers.reward_names import parts_of
from bench.tasks.definitions import Task


def held_by_scorers(experiment: Experiment) -> tuple[float, tuple[str, ...]]:
    """Bytes on the card that a cell of the task with most holds for its scorers; and those that do not say theirs.

    What has a process of its own shares its checkpoints with no other. Scorers on the CPU or on another card weigh
    nothing, and neither do any where a reward server is asked: which of them it has is not known here.
    """
    if experiment.reward_server is not None:
        return 0.0, ()
    found = [_of_task(experiment, task) for task in experiment.tasks]
    return max(size for size, _ in found), tuple(sorted({name for _, unknown in found for name in unknown}))


def _of_task(experiment: Experiment, task: Task) -> tuple[float, list[str]]:
    specs = {*task.scorers, task.reward, task.select, *experiment.evaluation.set_scorers}
    sizes, unknown = dict[tuple[str, str], float](), list[str]()
    for name in sorted({part for spec in specs for part in parts_of(spec)}):
        cls = registry.load_reward(name)
        apart = experiment.scorers.get(cls.name)
        if apart is not None and not _is_here(apart.device, experiment.device):
            continue
        process = cls.name if apart is not None and apart.process else ""
        if cls.held is None:
            unknown.append(cls.name)
        sizes |= {(process, checkpoint): gib for checkpoint, gib in (cls.held or {}).items()}
    return sum(sizes.values()) * 2**30, unknown


def _is_here(device: str, trains: str) -> bool:
    """Whether a scorer's device is the card that trains; cards without a number are the first."""
    if device in ("auto", trains):
        return True
    return device.startswith("cuda") and device.partition(":")[2] in ("", trains.partition(":")[2] or "0")
