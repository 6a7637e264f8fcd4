"""Where the scorers of a run come from: this process, a process of their own, or a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.api import ConfigError, Reward
from bench.config.scorer_process import ScorerProcess
from bench.scoring.workers.remote_reward import ProcessReward, RemoteReward
from bench.scoring.workers.worker_process import SECONDS

if TYPE_CHECKING:
    from bench.config.settings import Experiment


@dataclass(frozen=True)
class Placement:
    """What does not run in this process: `apart` by the scorer's name, and what the server at `server` has.

    A scorer with settings under `apart` stays on this machine. `seconds` bounds a call; None does not.
    """

    apart: Mapping[str, ScorerProcess] = field(default_factory=dict)
    server: str | None = None
    seconds: float | None = SECONDS

    @classmethod
    def of(cls, experiment: Experiment) -> Placement:
        """As the settings of an experiment say."""
        return cls(experiment.scorers, experiment.reward_server, experiment.reward_seconds)

    def reward(self, spec: str, cls: type[Reward]) -> Reward:
        """The reward of this name, module or file, not loaded yet.

        Raises:
            BenchError: the server does not answer, or has another version of the reward.
        """
        apart = self.apart.get(cls.name)
        if apart is not None:
            return ProcessReward(spec, cls, apart, self.seconds, load_seconds=self.seconds) if apart.process else cls()
        if self.server is not None:
            from bench.scoring.server.client import ServedReward, Server

            server = Server(self.server, self.seconds)
            if cls.name in server.rewards:
                return ServedReward(cls, server, self.seconds)
        return cls()

    def require_use(self, rewards: Iterable[Reward]) -> None:
        """Refuse a server that has none of the rewards: most likely it is the wrong one, or a name is.

        Raises:
            ConfigError: that.
        """
        listed = list(rewards)
        if self.server is None or any(isinstance(reward, RemoteReward) and reward.is_served for reward in listed):
            return
        from bench.scoring.server.client import Server

        names, there = ", ".join(reward.name for reward in listed), ", ".join(Server(self.server).rewards)
        raise ConfigError(
            f"--reward-server {self.server} has {there}, and nothing is taken from it: expected one at least of "
            f"{names}, without a process of its own here; name it in `serve-rewards --reward`, or leave the server out"
        )


HERE = Placement()


def placement_of(reward: Reward) -> str:
    """Where the scores of a reward come from, as the record has it."""
    return reward.where if isinstance(reward, RemoteReward) else "here"
