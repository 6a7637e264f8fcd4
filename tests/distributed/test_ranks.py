"""What processes that train together tell each other, over real connections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.api import BenchError, BudgetExhausted, ConfigError, NonFiniteError, PluginError
from bench.budget import Ledger
from bench.distributed.launch import RankInfo
from bench.distributed.ranks import SINGLE_PROCESS, ProcessGroup, Ranks
from tests.support.rank_processes import together

SIZE = 3


def _meet(ranks: Ranks) -> object:
    return ranks.all_gather_object("test", ranks.rank * 10)


def _gather(ranks: Ranks) -> object:
    rows = torch.arange(2 * ranks.rank).view(ranks.rank, 2)  # none, one, two
    kept = torch.tensor([ranks.rank == 1] * ranks.rank, dtype=torch.bool)
    empty = torch.empty(0, 2)
    return [ranks.all_gather(rows).tolist(), ranks.all_gather(kept).tolist(), list(ranks.all_gather(empty).shape)]


def _gradients(ranks: Ranks) -> object:
    """The first parameter has a gradient on every rank, the second on the last, the third on none."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 10.0**ranks.rank])
    if ranks.rank == ranks.size - 1:
        parameters[1].grad = torch.tensor([0.5, 0.25])
    ranks.sum_gradients(parameters)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def _share(ranks: Ranks) -> object:
    return ranks.map_items(list("abcdefg"), lambda letter: lambda: f"{letter}{ranks.rank}")


def _ledger(ranks: Ranks) -> object:
    """Each charges its own work, 1, 2 and 3 passes, as often as there are ranks."""
    ledger = Ledger(forward=7.0, images=4, updates=2)
    ledger.forward += ranks.size * (1 + ranks.rank)
    ledger.images += ranks.size * ranks.rank
    ledger.agree(ranks.all_gather_object("settle", ledger.state_dict()))
    return [ledger.forward, ledger.images, ledger.updates]


def _one_fails(ranks: Ranks) -> object:
    with ranks.raise_together():
        if ranks.rank == 1:
            raise NonFiniteError("a loss is NaN")
        ranks.all_gather(torch.zeros(1))
    return "nobody heard"


def _budget_ends_while_another_fails(ranks: Ranks) -> object:
    with ranks.raise_together():
        if ranks.rank == 0:
            raise BudgetExhausted("nothing left")
        if ranks.rank == 2:
            raise PluginError("broken")
    return "nobody heard"


def _different_ways(ranks: Ranks) -> object:
    with ranks.raise_together():
        if ranks.rank == 0:
            ranks.all_gather(torch.zeros(1))
    return "nobody heard"


def _goes_on_after_a_failure(ranks: Ranks) -> object:
    with pytest.raises(BudgetExhausted), ranks.raise_together():
        raise BudgetExhausted("nothing left")
    with ranks.raise_together():
        return ranks.all_gather_object("test", ranks.rank)


CASES: dict[str, Callable[[Ranks], object]] = {
    case.__name__: case
    for case in (
        _meet, _gather, _gradients, _share, _ledger, _one_fails, _budget_ends_while_another_fails, _different_ways,
        _goes_on_after_a_failure,
    )
}  # fmt: skip


def _run_cases(place: RankInfo, folder: Path) -> None:
    ranks, found = ProcessGroup(place), {}
    for name, case in CASES.items():
        try:
            found[name] = case(ranks)
        except BenchError as error:
            found[name] = [type(error).__name__, str(error)]
    (folder / f"{place.rank}.json").write_text(json.dumps(found))
    if place.rank == 2:
        return  # without a word: the others notice at their next meeting
    try:
        ranks.all_gather_object("last", None)
    except BenchError as error:
        (folder / f"lost{place.rank}").write_text(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    assert together(SIZE, _run_cases, folder) == [0] * SIZE
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, object]]:
    """What each rank found, by case."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (_meet, [0, 10, 20]),
        (_gather, [[[0, 1], [0, 1], [2, 3]], [True, False, False], [0, 2]]),
        (_gradients, [[3.0, 111.0], [0.5, 0.25], None]),
        (_share, ["a0", "b1", "c2", "d0", "e1", "f2", "g0"]),
        (_ledger, [13.0, 7, 2]),
        (_goes_on_after_a_failure, [0, 1, 2]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_rank_finds_the_same(
    found: list[dict[str, object]], case: Callable[[Ranks], object], expected: object
) -> None:
    assert [ranks[case.__name__] for ranks in found] == [expected] * SIZE


@pytest.mark.parametrize(
    ("case", "culprit", "kind", "message"),
    [
        (_one_fails, 1, "NonFiniteError", "a loss is NaN"),
        (_budget_ends_while_another_fails, 2, "PluginError", "broken"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_one_rank_fails_of_all_raise(
    found: list[dict[str, object]], case: Callable[[Ranks], object], culprit: int, kind: str, message: str
) -> None:
    for rank, ranks in enumerate(found):
        origin = "" if rank == culprit else f"process {culprit} of {SIZE}: "
        assert ranks[case.__name__] == [kind, origin + message]


def test_ranks_that_go_different_ways_are_told_so(found: list[dict[str, object]]) -> None:
    for ranks in found:
        kind, message = ranks[_different_ways.__name__]  # type: ignore[misc]
        assert kind == "PluginError" and "went different ways and met for end and gather" in message


def test_a_lost_rank_is_noticed(folder: Path) -> None:
    for rank in (0, 1):
        assert f"process {rank} of {SIZE} has lost another one" in (folder / f"lost{rank}").read_text()


def test_own_shares_cover_all_rows_once() -> None:
    ranks = [Ranks() for _ in range(SIZE)]
    for rank, one in enumerate(ranks):
        one.rank, one.size = rank, SIZE  # type: ignore[misc]
    assert [list(range(8))[one.local_slice(8)] for one in ranks] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    with pytest.raises(ConfigError, match="3 processes cannot share 2"):
        ranks[0].local_slice(2)


def test_one_process_on_its_own_meets_itself() -> None:
    assert SINGLE_PROCESS.all_gather_object("test", 4) == [4]
    assert SINGLE_PROCESS.map_items([1, 2, 3], lambda item: lambda: 2 * item) == [2, 4, 6]
    assert list(range(5))[SINGLE_PROCESS.local_slice(5)] == [0, 1, 2, 3, 4]


def test_shared_work_ends_when_the_next_has_begun() -> None:
    done: list[str] = []

    def begin(item: int) -> Callable[[], int]:
        done.append(f"begin {item}")
        return lambda: (done.append(f"end {item}"), item)[1]

    assert SINGLE_PROCESS.map_items([1, 2, 3], begin) == [1, 2, 3]
    assert done == ["begin 1", "begin 2", "end 1", "begin 3", "end 2", "end 3"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        (
            {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            RankInfo(2, 4, 2, "a", 5, hosts=False, key="bench/0"),
        ),
        (
            {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            RankInfo(0, 4, 0, "a", 5, hosts=True, key="bench/0"),
        ),
        (
            {
                "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "5",
                "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1",
            },
            RankInfo(0, 4, 0, "a", 5, hosts=False, key="bench/1"),
        ),
    ],
)  # fmt: skip
def test_the_place_is_what_the_launcher_says(environment: dict[str, str], expected: RankInfo | None) -> None:
    assert RankInfo.here(environment) == expected


def test_a_process_on_its_own_shares_nothing() -> None:
    with pytest.raises(ConfigError, match=r"one on its own: start with `torchrun"):
        RankInfo.here({}, shard=True)


def test_half_a_launcher_is_told_apart() -> None:
    with pytest.raises(ConfigError, match="RANK, MASTER_ADDR is missing: start with torchrun"):
        RankInfo.here({"WORLD_SIZE": "2", "MASTER_PORT": "5"})
