"""Every built-in method conforms, and each check is failed by a method that is broken in just that way."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import registry
from bench.api import Method, PluginError
from bench.conformance import assert_conforms
from bench.datasets.worlds import load_world
from bench.preflight.conformance.check import CheckOutcome, run_each_check
from bench.preflight.conformance.fixtures import Fixtures, MethodSubject
from bench.preflight.conformance.suite import METHOD_CHECKS
from tests.support import broken_plugins as broken

# Each broken method, the check that it is made to fail, and what else that implies.
BROKEN: list[tuple[type[Method], str, set[str]]] = [
    (broken.CutGraph, "loss-gradients", set()),
    (broken.UpdatePerMicroBatch, "one-update", {"micro-batches"}),  # which are then updates of their own
    (broken.OtherNoiseLevel, "replayed-ratio", set()),  # by less than bfloat16 is allowed
    (broken.StoresInModelPrecision, "replayed-ratio-bfloat16", set()),
    (broken.MicroBatchMean, "micro-batches", set()),
    (broken.IgnoredField, "config-fields", set()),
    (broken.SeedEverything, "global-random-state", set()),
    (broken.Uncharged, "ledger", set()),
    (broken.TrainsFrozenParts, "frozen-parts", set()),
    (broken.ForgetsOnLoad, "state-round-trip", set()),
    (broken.HiddenCounter, "resume", set()),
    (broken.WrongSign, "closed-form", set()),
]


@pytest.fixture(scope="module")
def fixtures(tiny_pipeline: Path) -> Fixtures:
    return Fixtures(load_world("scenes", str(tiny_pipeline)))


def examine(method: type[Method], fixtures: Fixtures, *, closed_form: bool = False) -> dict[str, CheckOutcome]:
    """The outcomes by check, on all weights; the closed-form task, which takes as long as others, where asked for."""
    checks = [check for check in METHOD_CHECKS if closed_form or check.name != "closed-form"]
    outcomes = run_each_check(
        checks, MethodSubject(method, fixtures, ("full",)), method.needs, method.expected_failures
    )
    return {outcome.check.name: outcome for outcome in outcomes}


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names(registry.METHODS))
def test_every_method_conforms(tiny_pipeline: Path, name: str) -> None:
    assert_conforms(name, load_world("scenes", str(tiny_pipeline)))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "check", "implied"), BROKEN, ids=[check for _, check, _ in BROKEN])
def test_a_method_broken_in_one_way_fails_that_check(
    fixtures: Fixtures, method: type[Method], check: str, implied: set[str]
) -> None:
    outcomes = examine(method, fixtures, closed_form=check == "closed-form")
    failed = {name for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {check, *implied}, {name: outcomes[name].detail for name in failed}
    assert "expected" in outcomes[check].detail and "came" in outcomes[check].detail


@pytest.mark.slow
def test_what_only_adapters_break_is_told(fixtures: Fixtures) -> None:
    assert only("frozen-parts", broken.TrainsUnderAdapters, fixtures).detail == (
        "expected with --train.adaptation lora, frozen parts as they were loaded; came other weights in the weights "
        "under the adapters"
    )
    assert examine(broken.TrainsUnderAdapters, fixtures)["frozen-parts"].status == "passed"
    assert only("resume", broken.HiddenCounter, fixtures).detail.startswith("expected the uninterrupted run")


def test_every_check_is_failed_by_some_broken_method() -> None:
    assert {check for _, check, _ in BROKEN} == {check.name for check in METHOD_CHECKS}


@pytest.mark.slow
def test_the_smallest_rl_method_passes_what_its_broken_variants_fail(fixtures: Fixtures) -> None:
    outcomes = examine(broken.SmallestRL, fixtures)
    assert {outcome.status for outcome in outcomes.values()} == {"passed", "not applicable"}
    assert [name for name, o in outcomes.items() if o.status == "not applicable"] == ["config-fields"]


def only(check: str, method: type[Method], fixtures: Fixtures) -> CheckOutcome:
    checks = [c for c in METHOD_CHECKS if c.name == check]
    return next(run_each_check(checks, MethodSubject(method, fixtures), method.needs, method.expected_failures))


@pytest.mark.slow
def test_messages_name_what_is_wrong(fixtures: Fixtures) -> None:
    assert "none from extra" in only("loss-gradients", broken.CutGraph, fixtures).detail
    assert "torch, numpy, python" in only("global-random-state", broken.SeedEverything, fixtures).detail
    assert "no effect of rank" in only("config-fields", broken.IgnoredField, fixtures).detail
    assert "other weights in vae, reference" in only("frozen-parts", broken.TrainsFrozenParts, fixtures).detail
    assert "another one in method" in only("state-round-trip", broken.ForgetsOnLoad, fixtures).detail


def test_a_field_may_be_declared_inert(fixtures: Fixtures) -> None:
    assert only("config-fields", broken.DeclaredField, fixtures).status == "passed"


class Excused(broken.IgnoredField):
    """Declares its failure."""

    name = "excused"
    expected_failures = {"config-fields": "rank is for later"}  # noqa: RUF012


class NeedlesslyExcused(broken.DeclaredField):
    """Declares a failure that does not happen."""

    name = "needlessly-excused"
    expected_failures = {"config-fields": "rank is for later"}  # noqa: RUF012


class WronglyExcused(broken.DeclaredField):
    """Declares the failure of a check that does not exist."""

    name = "wrongly-excused"
    expected_failures = {"config-field": "rank is for later"}  # noqa: RUF012


@pytest.mark.slow
def test_expected_failures_are_told_and_so_is_one_that_passes(fixtures: Fixtures) -> None:
    expected = only("config-fields", Excused, fixtures)
    assert expected.status == "expected" and expected.detail.startswith("rank is for later (expected every field")
    needless = only("config-fields", NeedlesslyExcused, fixtures)
    assert needless.status == "passed" and "remove the declaration" in needless.detail
    with pytest.raises(PluginError, match="no check 'config-field'; did you mean 'config-fields'"):
        only("config-fields", WronglyExcused, fixtures)
