"""All checks, and how a plugin is examined by those that concern it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.api import Method, Needs, Reward
from bench.preflight.conformance import closed_form_check, method_checks, reward_checks
from bench.preflight.conformance.check import CheckOutcome, ConformanceCheck, run_each_check
from bench.preflight.conformance.fixtures import Fixtures, MethodSubject, RewardSubject

METHOD_CHECKS: tuple[ConformanceCheck[Any], ...] = (*method_checks.SUITE.checks, *closed_form_check.SUITE.checks)
REWARD_CHECKS: tuple[ConformanceCheck[Any], ...] = tuple(reward_checks.SUITE.checks)


def checks_of(plugin: type[Method] | type[Reward]) -> tuple[ConformanceCheck[Any], ...]:
    """The checks that a method or a reward goes through, in order."""
    return METHOD_CHECKS if issubclass(plugin, Method) else REWARD_CHECKS


def run_checks(
    plugin: type[Method] | type[Reward], fixtures: Fixtures, reward: Reward | None = None
) -> Iterator[CheckOutcome]:
    """The outcome of every check of a method or a reward, one by one as they come.

    `reward` stands for the reward's class, where its scores come from elsewhere.

    Raises:
        PluginError: the plugin declares that it fails a check that does not exist.
        BenchError: a reward cannot be loaded.
    """
    checks, excused = checks_of(plugin), plugin.expected_failures
    if issubclass(plugin, Method):
        return run_each_check(checks, MethodSubject(plugin, fixtures), plugin.needs, excused)
    return run_each_check(checks, RewardSubject(reward or plugin(), fixtures), Needs(), excused)
