"""Whether pictures that are sampled in another precision get the same scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.config.load import load_settings
from bench.datasets.worlds import experiment_world
from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from bench.training.context import TaskContext
from bench.training.evaluate import Evaluator

PROMPTS = 128

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ScoreChange:
    """How far the mean of one scorer moves, and the margin within which reports call two methods equal."""

    scorer: str
    difference: float
    margin: float

    @property
    def agrees(self) -> bool:
        """Whether it stays within the margin."""
        return abs(self.difference) <= self.margin


def changes_in(precision: Precision, prompts: int = PROMPTS) -> list[ScoreChange]:
    """What sampling in this precision does to the scores of the embedded base, on prompts that no report uses.

    Raises:
        DataError: the embedded base is missing.
    """
    experiment = load_settings("quick")
    task, world = experiment.tasks[0], experiment_world(experiment)
    policy, scorers = PipelinePolicy.load(world.model), load_scorers(set(task.scorers))
    judged: dict[Precision | None, dict[str, dict[str, Any]]] = {}
    both: tuple[Precision | None, Precision] = (None, precision)
    for each in both:
        settings = replace(
            experiment.evaluation, split="tune", milestone_prompts=prompts, final_prompts=prompts, held_out_prompts=0,
            drift_states=0, diversity_prompts=0, grid_prompts=1, pictures=1, precision=each,
        )  # fmt: skip
        evaluator = Evaluator(TaskContext(world, task, policy, scorers), settings)
        judged[each] = evaluator.judge(policy, 0, final=False).scores
    return [
        ScoreChange(name, judged[precision][name]["mean"] - judged[None][name]["mean"], task.margins[name])
        for name in judged[None]
    ]
