"""From the names of rewards to scorers that are loaded: in this process, in a process of their own, or at a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import registry
from bench.api import ConfigError, Reward
from bench.config.reward_expression import parts_of
from bench.config.scorer_process import ScorerProcess
from bench.datasets.world import Candidates
from bench.plugin_errors import plugin_errors
from bench.scoring.scorer import Guard, Scorer, unguarded
from bench.scoring.server.reward_client import RewardServer, ServedReward
from bench.scoring.weighted_sum import weighted_sums
from bench.scoring.workers.remote_reward import ProcessReward, RemoteReward
from bench.scoring.workers.worker_process import SECONDS

if TYPE_CHECKING:
    from bench.config.settings import Experiment


@dataclass(frozen=True)
class Placement:
    """Which scorers run outside this process: those with `settings`, by name, and those that `server_url` serves.

    A scorer with settings stays on this machine. `seconds` bounds a call and `load`; None does not.
    """

    settings: Mapping[str, ScorerProcess] = field(default_factory=dict)
    server_url: str | None = None
    seconds: float | None = SECONDS

    @classmethod
    def of(cls, experiment: Experiment) -> Placement:
        """As the settings of an experiment say."""
        return cls(experiment.scorers, experiment.reward_server, experiment.reward_seconds)

    def make_reward(self, spec: str, reward_class: type[Reward]) -> Reward:
        """The reward of this name, module or file, not loaded yet.

        Raises:
            BenchError: the server cannot be reached, or has another version of the reward.
        """
        settings = self.settings.get(reward_class.name)
        if settings is not None and not settings.process:
            return reward_class()
        if settings is not None:
            return ProcessReward(spec, reward_class, settings, call_seconds=self.seconds, load_seconds=self.seconds)
        return self._served(reward_class) or reward_class()

    def _served(self, reward_class: type[Reward]) -> ServedReward | None:
        """The reward at the server, where that has it."""
        if self.server_url is None or reward_class.name in self.settings:
            return None
        server = RewardServer(self.server_url, self.seconds)
        return ServedReward(reward_class, server, self.seconds) if reward_class.name in server.rewards else None

    def require_checkpoints(self, names: Iterable[str]) -> None:
        """Look for what the named rewards need before any of them is loaded, where each of them will be computed.

        Raises:
            CheckpointMissing: a checkpoint or an environment is not on this machine.
            ConfigError: there is no such device, or the server has another version or other code of a reward.
            BenchError: the server cannot be reached.
        """
        for name in names:
            cls = registry.load_reward(name)
            if served := self._served(cls):
                served.load()
                continue
            settings = self.settings.get(cls.name)
            if settings is not None and settings.process:
                settings.require_device(cls.name)
            with plugin_errors(f"reward {cls.name!r} in require_checkpoint()", cls):
                cls.require_checkpoint()

    def require_server_used(self, rewards: Iterable[Reward]) -> None:
        """Refuse a server that has none of the rewards: most likely it is the wrong one, or a name is.

        Raises:
            ConfigError: that.
        """
        listed = list(rewards)
        if self.server_url is None or any(isinstance(reward, RemoteReward) and reward.is_served for reward in listed):
            return
        names, there = ", ".join(reward.name for reward in listed), ", ".join(RewardServer(self.server_url).rewards)
        raise ConfigError(
            f"--reward-server {self.server_url} has {there}, and nothing is taken from it: expected one at least of "
            f"{names}, without a process of its own here; name it in `serve-rewards --reward`, or leave the server out"
        )


IN_PROCESS = Placement()


def placement_of(reward: Reward) -> str:
    """Where the scores of a reward are computed, as the record has it: `here`, `server`, or settings of a process."""
    return reward.placement if isinstance(reward, RemoteReward) else "here"


def load_scorers(
    names: set[str | None], guard: Guard = unguarded, candidates: Callable[[], Candidates] | None = None,
    placement: Placement = IN_PROCESS,
) -> dict[str, Scorer]:  # fmt: skip
    """The named rewards, loaded and ready; the same scorer serves every role. `guard` surrounds load() and calls.

    A weighted sum comes beside its parts; `candidates` gives the pictures by which sums are standardised. Scorers
    outside this process are not guarded: they have time limits of their own.
    """
    scorers = {}
    for name in sorted({part for spec in names for part in parts_of(spec)}):
        cls = registry.load_reward(name)
        with plugin_errors(f"reward {cls.name!r} in __init__()", cls):
            reward = placement.make_reward(name, cls)
        own = unguarded if isinstance(reward, RemoteReward) else guard
        with own(cls.name, "load()"), plugin_errors(f"reward {cls.name!r} in load()", cls):
            reward.load()
        scorers[name] = Scorer(reward, guard=own)
    placement.require_server_used(scorer.reward for scorer in scorers.values())
    return scorers | weighted_sums(filter(None, names), scorers, candidates)
