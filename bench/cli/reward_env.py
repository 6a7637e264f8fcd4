"""`bench reward-env`: the environment of one reward, built or found."""

from __future__ import annotations

from pathlib import Path

from bench import registry
from bench.api import ConfigError, Reward
from bench.scoring.workers.pinned_environment import PinnedEnvironment


def build_reward_environment(name: str) -> Path:
    """Build the environment that a registered reward declares, and print how far it is; returns its folder.

    Raises:
        ConfigError: there is no such reward, or it has no environment of its own.
        DataError: a step fails.
    """
    reward = registry.load_plugin(name)
    if not issubclass(reward, Reward) or reward.environment is None:
        raise ConfigError(f"{name}: expected a reward with an environment of its own; this one runs in the harness's")
    return PinnedEnvironment(reward.name, reward.environment).build(lambda line: print(line, flush=True))
