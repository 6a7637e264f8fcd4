"""A weighted sum of rewards, which trains or selects as one reward does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.api import ConfigError, DataError, Reward
from bench.config.reward_expression import is_sum, read_sum
from bench.config.task import Task
from bench.datasets.world import Candidates, World
from bench.scoring.scorer import Scorer

STANDARD_CANDIDATES = 256  # that sums are standardised by
_CHUNK = 32  # of them in one call, which has to end in time


class WeightedSum(Reward):
    """sum over parts of weight (score - mean) / deviation, where a part of which less is better counts negative.

    mean is 0 and deviation 1, unless the sum is `standardised(...)`: then they are those of the part's scores of the
    first `STANDARD_CANDIDATES` candidates of the task, measured when a cell begins or goes on, and so the same every
    time. Of a sum that is `grouped(...)` they are those of the part's scores in the call, which are a whole group of
    one prompt: no part rules the sum by its scale in this group, and one that tells no picture from another adds
    nothing. `latest` has the scores of each part in the last call, as the part gives them. The sum abstains from a
    picture where a part does.

    Source of grouped sums: GDPO, arXiv 2601.05242, whose last step, over the batch, is `scale_rewards` batch of a
    method.
    """

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __init__(self, spec: str, scorers: Mapping[str, Scorer]) -> None:
        """`spec` as `bench.config.reward_expression` reads it; `scorers` has at least its parts, each loaded."""
        self.name = spec  # type: ignore[misc]
        self.sum = read_sum(spec)
        self.scorers = {name: scorers[name] for name in self.sum.parts}
        self.standards = dict.fromkeys(self.sum.parts, (0.0, 1.0))
        self.latest: dict[str, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """All that the sum depends on besides weights: code, version, checkpoint and standard of its parts."""
        parts = (
            f"{n} {s.reward.version} {s.fingerprint} {s.code} {self.standards[n]}" for n, s in self.scorers.items()
        )
        return "; ".join(parts)

    def standardise(self, candidates: Candidates) -> None:
        """Take mean and deviation of every part from its scores of these pictures, where it applies.

        Raises:
            DataError: a part scores all of them alike, or applies to none.
        """
        texts, metadata = [p.text for p in candidates.prompts], [p.metadata for p in candidates.prompts]
        parts = [slice(start, start + _CHUNK) for start in range(0, len(texts), _CHUNK)]
        for name, scorer in self.scorers.items():
            each = [scorer.where_it_applies(candidates.images[p], texts[p], metadata[p]) for p in parts]
            scores = np.concatenate(each).astype(np.float64)
            scores = scores[np.isfinite(scores)]
            deviation = float(scores.std()) if len(scores) else 0.0
            if deviation == 0.0:
                raise DataError(
                    f"{self.name}: expected candidates that {name!r} tells apart, to standardise by, but it gave "
                    f"{len(scores)} of {len(texts)} pictures a score, all the same: leave it out of the sum, or write "
                    "the sum without standardised()"
                )
            self.standards[name] = float(scores.mean()), deviation

    def applies(self, metadata: Mapping[str, Any]) -> bool:  # type: ignore[override]
        """Whether every part can judge a prompt with this metadata."""
        return all(scorer.reward.applies(metadata) for scorer in self.scorers.values())

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Sums (B,) float32 of pictures uint8 (B, H, W, 3); higher is better."""
        return self.submit(images, prompts, metadata)()

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        """Begin every part, so that those in other processes score at the same time."""
        pending = {name: scorer.submit(images, prompts, metadata) for name, scorer in self.scorers.items()}

        def result() -> np.ndarray:
            self.latest = {name: scores() for name, scores in pending.items()}
            total = np.zeros(len(images))
            for name, scorer in self.scorers.items():
                scores = self.latest[name].astype(np.float64)
                mean, deviation = self._standard_of_group(scores) if self.sum.grouped else self.standards[name]
                sign = 1 if scorer.reward.higher_is_better else -1
                total += sign * self.sum.parts[name] * (scores - mean) / deviation
            sums = total.astype(np.float32)
            if not np.isnan(sums).any():
                return sums
            return np.array([None if np.isnan(one) else one for one in sums], object)

        return result

    @property
    def groupwise(self) -> bool:  # type: ignore[override]
        """Whether a call has to be a whole group."""
        return self.sum.grouped or any(scorer.reward.groupwise for scorer in self.scorers.values())

    @staticmethod
    def _standard_of_group(scores: np.ndarray) -> tuple[float, float]:
        """Mean and deviation + 1e-4, as advantages have it, of a group's scores (B,); equal ones become exactly 0.

        A picture that the part abstains from is left out.
        """
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            return 0.0, 1.0
        return (float(scores[0]), 1.0) if np.ptp(scores) == 0 else (float(scores.mean()), float(scores.std()) + 1e-4)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether every part is, and the sum is no matter of groups."""
        return not self.sum.grouped and all(scorer.reward.differentiable for scorer in self.scorers.values())

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """Sums (B,) of pictures float32 (B, 3, H, W) in [0, 1], with gradient."""
        total = torch.zeros(len(images), device=images.device)
        for name, scorer in self.scorers.items():
            mean, deviation = self.standards[name]
            sign = 1 if scorer.reward.higher_is_better else -1
            raw = sign * scorer.training_scores_with_gradient(images, prompts, metadata)  # as the part gives them
            total = total + sign * self.sum.parts[name] * (raw - mean) / deviation
        return total

    def measure_worker_flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        """FLOPs of one picture that the parts spend in other processes."""
        return sum(scorer.reward.measure_worker_flops(image, prompt, metadata) for scorer in self.scorers.values())


def weighted_sums(
    specs: Iterable[str], scorers: Mapping[str, Scorer], candidates: Callable[[], Candidates] | None
) -> dict[str, Scorer]:
    """The weighted sums among `specs`, standardised by `candidates` where they say so; `scorers` has their parts.

    Raises:
        ConfigError: a sum is to be standardised, and there are no candidates.
        DataError: see `WeightedSum.standardise`.
    """
    sums = {}
    for spec in filter(is_sum, specs):
        reward = WeightedSum(spec, scorers)
        if reward.sum.standardised:
            if candidates is None:
                raise ConfigError(
                    f"{spec}: expected the candidates of a task to standardise by; leave standardised() out"
                )
            reward.standardise(candidates())
        sums[spec] = Scorer(reward)
    return sums


def standard_candidates(world: World, task: Task) -> Candidates:
    """The first candidates of a task: what its sums are standardised by."""
    return world.candidates(task.categories or world.categories, STANDARD_CANDIDATES)
