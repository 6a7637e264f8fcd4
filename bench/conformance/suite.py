"""All checks, and how a plugin is examined by those that concern it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.api import Method, Needs, Reward
from bench.conformance import method_checks, mixture, reward_checks, state_checks
from bench.conformance.check import Check, Outcome, run
from bench.conformance.laboratory import Laboratory, MethodSubject, RewardSubject

METHOD_CHECKS: tuple[Check[Any], ...] = (
    *method_checks.SUITE.checks, *state_checks.SUITE.checks, *mixture.SUITE.checks
)  # fmt: skip
REWARD_CHECKS: tuple[Check[Any], ...] = tuple(reward_checks.SUITE.checks)


def checks_of(plugin: type[Method] | type[Reward]) -> tuple[Check[Any], ...]:
    """The checks that a method or a reward goes through, in order."""
    return METHOD_CHECKS if issubclass(plugin, Method) else REWARD_CHECKS


def examine(
    plugin: type[Method] | type[Reward], laboratory: Laboratory, reward: Reward | None = None
) -> Iterator[Outcome]:
    """The outcome of every check of a method or a reward, one by one as they come.

    `reward` stands for the reward's class, where its scores come from elsewhere.

    Raises:
        PluginError: the plugin declares that it fails a check that does not exist.
        BenchError: a reward cannot be loaded.
    """
    checks, excused = checks_of(plugin), plugin.expected_failures
    if issubclass(plugin, Method):
        return run(checks, MethodSubject(plugin, laboratory), plugin.needs, excused)
    return run(checks, RewardSubject(reward or plugin(), laboratory), Needs(), excused)
