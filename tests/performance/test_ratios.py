"""Ratios of speed: once each in the suite; with `--benchmark-enable --dist=no` against those of results/benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.performance import measure
from tests.performance.cases import CASES, Case
from tests.performance.document import DOCUMENT, page, read_figures
from tests.performance.timing import Ratio, ratio

WORSE = 1.25  # times the committed ratio
ROUNDS = 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def measured_where_asked(request: pytest.FixtureRequest) -> None:
    """pytest-benchmark measures nothing beside pytest-xdist's way of sharing out tests, and only warns of it."""
    if request.config.getoption("benchmark_enable") and request.config.getoption("dist") != "no":
        pytest.fail("--benchmark-enable measures nothing here: say --dist=no as well")


def hold(benchmark: Any, measured: Callable[[int], dict[str, Ratio]], expected: dict[str, float]) -> None:
    """Measure, and where a ratio is much worse than committed, once more."""
    rounds = 1 if benchmark.disabled else ROUNDS
    found = benchmark.pedantic(measured, (rounds,), rounds=1)
    assert found.keys() == expected.keys()
    if benchmark.disabled:  # a busy machine: that it runs is all that is tested
        return
    if any(found[name].median > WORSE * expected[name] for name in found):
        again = measured(rounds)
        found = {name: min(found[name], again[name], key=lambda r: r.median) for name in found}
    benchmark.extra_info.update({name: round(r.median, 3) for name, r in found.items()})
    for name, r in found.items():
        assert r.median <= WORSE * expected[name], f"over {name}: {r.median:.2f}, committed {expected[name]:.2f}"


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(", ", "-") for case in CASES])
def test_an_update(benchmark: Any, case: Case, tmp_path: Path) -> None:
    (row,) = (row for row in read_figures()["steps-width1"]["rows"] if row["case"] == case.name)
    expected = {way: row[way]["median"] for way in ("bare", "straightforward")}
    hold(benchmark, lambda rounds: measure.step_ratios(case, 1, rounds, tmp_path), expected)


@pytest.mark.parametrize("part", measure.PARTS)
def test_a_part(benchmark: Any, part: str, tmp_path: Path) -> None:
    (row,) = (row for row in read_figures()["parts"]["rows"] if row["part"] == part)
    hold(
        benchmark, lambda rounds: {"bare": measure.part_ratio(part, rounds, tmp_path)}, {"bare": row["bare"]["median"]}
    )


def test_ratios_are_medians_with_quartiles_by_hand() -> None:
    assert ratio([2.0, 3.0, 4.0], [2.0, 2.0, 2.0]) == Ratio(1.5, 1.0, 2.0, 3)


def test_the_page_is_written_from_the_figures() -> None:
    assert page(read_figures()) == DOCUMENT.read_text(encoding="utf-8")
