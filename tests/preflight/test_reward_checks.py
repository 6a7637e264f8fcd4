"""Every built-in reward conforms, and each check is failed by a reward that is broken in just that way."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import registry
from bench.api import Reward
from bench.conformance import assert_conforms
from bench.datasets.worlds import load_world
from bench.preflight.conformance.fixtures import Fixtures
from bench.preflight.conformance.suite import REWARD_CHECKS, run_checks
from tests.support import broken_plugins as broken

# The environments of the others take minutes to build: tests/environments tests them where that is asked for.
HERE = [name for name in registry.names(registry.REWARDS) if registry.load_reward(name).environment is None]

# Each broken reward, the check that it is made to fail, and what else that implies.
BROKEN: list[tuple[type[Reward], str, set[str]]] = [
    (broken.RelativeBrightness, "batch-equals-singles", set()),
    (broken.SortedBrightness, "order", {"batch-equals-singles"}),
    (broken.Squeezed, "single-picture", set()),
    (broken.OutOfRange, "range", set()),
    (broken.InPlace, "pictures-unchanged", {"trl"}),  # where they are read-only
    (broken.Drifting, "repeatable", {"batch-equals-singles", "order", "trl"}),  # any two calls differ
    (broken.NotANumber, "trl", {"range"}),  # NaN lies in no range
    (broken.CutGradient, "gradient", set()),
]


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures(load_world("scenes"))


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_every_reward_conforms(name: str, tiny_weights: Path) -> None:
    """The published scorers with tiny checkpoints of their format."""
    assert_conforms(name)


@pytest.mark.parametrize(("reward", "check", "implied"), BROKEN, ids=[check for _, check, _ in BROKEN])
def test_a_reward_broken_in_one_way_fails_that_check(
    fixtures: Fixtures, reward: type[Reward], check: str, implied: set[str]
) -> None:
    outcomes = {outcome.check.name: outcome for outcome in run_checks(reward, fixtures)}
    failed = {name for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {check, *implied}, {name: outcomes[name].detail for name in failed}


def test_every_check_is_failed_by_some_broken_reward() -> None:
    assert {check for _, check, _ in BROKEN} == {check.name for check in REWARD_CHECKS}


def test_the_reward_that_the_broken_ones_extend_passes(fixtures: Fixtures) -> None:
    statuses = {outcome.check.name: outcome.status for outcome in run_checks(broken.Brightness, fixtures)}
    assert statuses.pop("gradient") == "not applicable"
    assert set(statuses.values()) == {"passed"}


def test_a_class_that_does_not_conform_is_an_assertion_with_a_list() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_conforms(broken.Drifting)
    message = str(caught.value)
    assert message.startswith("drifting fails 4 conformance checks:\n- batch-equals-singles: expected")
    assert message.count("\n- ") == message.count("\n  why: ") == 4
