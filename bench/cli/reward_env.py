"""Build the environment of its own that a reward works in; a second call finds it."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import registry
from bench.api import ConfigError, Reward
from bench.scoring.workers.pinned_environment import PinnedEnvironment

EPILOG = """It lies below $BENCH_CACHE (~/.cache/bench), by the hash of its pins; it takes minutes and gigabytes.

Example:
  bench reward-env imagereward"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("name", metavar="REWARD", help="e.g. imagereward")


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    build_reward_environment(args.name)
    return 0


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
