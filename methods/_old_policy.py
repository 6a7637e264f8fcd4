"""What methods share that keep an old policy beside the trained one, which follows it phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from bench.api import Env, Option, Rollouts
from methods._own_samples import OwnSamples


class FollowedByOldPolicy(OwnSamples):
    """Before every rollout phase old <- d old + (1 - d) trained, d = min(`old_rate` n, `old_decay`) after n updates."""

    @dataclass(frozen=True)
    class Config(OwnSamples.Config):
        """The old policy is far behind where `old_decay` is near 1, and the sampling policy itself where it is 0."""

        old_decay: Annotated[float, Option("largest share of the old policy that a phase keeps", ge=0, le=1)] = 0.5
        old_rate: Annotated[float, Option("by how much that share grows with each update", ge=0, le=1)] = 0.001

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.updates_made = 0

    def collect(self, env: Env) -> Rollouts:
        """Let the old policy follow, and sample."""
        env.update_old(min(self.config.old_rate * self.updates_made, self.config.old_decay))
        return super().collect(env)

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update."""
        metrics = super().step(env)
        self.updates_made += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"updates_made": self.updates_made}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.updates_made = int(state["updates_made"])
