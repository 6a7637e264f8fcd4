"""What a method's data cost once: scoring the candidates to choose among them, and encoding those that were chosen.

The budget is charged for neither: all methods and seeds share the choice, and a cache keeps it. Whoever trains one
method alone pays them.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.statistics.analysis import Analysis

__all__ = ["OneOff", "one_off"]


@dataclass(frozen=True)
class OneOff:
    """In the unit of `cost`, None where it is not known. calls: pictures that were scored for the choice."""

    calls: int
    filter: float | None
    encoding: float | None

    @property
    def total(self) -> float | None:
        """What is known of both, None where the filter's cost is not."""
        return None if self.filter is None else self.filter + (self.encoding or 0.0)


def one_off(analysis: Analysis, task: str, method: str) -> OneOff:
    """Of the finished cells of a method, whose seeds share them.

    Records of before schema 3 hold no such costs: there a filter call costs what a call of the same scorer as a reward
    costs in training, if a method of the task has made any, and encodings are not known.
    """
    cells = analysis.experiment.cells
    done = cells[(cells["task"] == task) & (cells["status"] == "done")]
    own = done[done["method"] == method]
    calls = int(own["curation_reward_calls"].max())
    if own["filter_cost"].notna().all():
        return OneOff(calls, float(own["filter_cost"].max()), float(own["encoding_cost"].max()))
    if not own["samples"].max():  # trained on none of the data
        return OneOff(calls, 0.0, 0.0)
    info, rewarded = analysis.task_info(task), done[done["reward_calls"] > 0]
    if not calls:
        return OneOff(0, 0.0, None)
    if info.reward != info.filter or not len(rewarded):
        return OneOff(calls, None, None)
    return OneOff(calls, calls * float((rewarded["reward_cost"] / rewarded["reward_calls"]).mean()), None)
