"""The cache of encodings: the same bits cold, warm and healed; shared, limited, and never read half-written."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch

from bench.models.encoding_cache import encodings as module
from bench.models.encoding_cache.cache_file import Entry
from bench.models.encoding_cache.encodings import Encodings
from bench.models.encoding_cache.folder import SUFFIX, size_of_all
from bench.models.encoding_cache.store import Store

LARGE = 2.0**40


def entry(seed: int, size: int = 100) -> Entry:
    """Two tensors unlike any other entry's: some 600 bytes."""
    values = torch.arange(size) + 1000.0 * seed
    return {"mean": values, "std": (values / 7).to(torch.bfloat16)}


class Numbers:
    """Encodes whole numbers, and remembers which it was asked for."""

    def __init__(self, store: Store | None = None) -> None:
        self.made: list[int] = []
        self.encodings = Encodings("numbers", lambda n: f"{n:032x}", self._encode, store)

    def _encode(self, numbers: Sequence[int]) -> Iterable[Entry]:
        for number in numbers:
            self.made.append(number)
            yield entry(number)

    def bits(self, numbers: Sequence[int]) -> list[bytes]:
        return [bits(found) for found in self.encodings(numbers)]


def bits(found: Entry) -> bytes:
    return b"".join(t.view(torch.uint8).numpy().tobytes() for _, t in sorted(found.items()))


RIGHT = {number: bits(entry(number)) for number in range(64)}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def filled(folder: Path, numbers: Iterable[int], **how: float) -> Numbers:
    """What a process that encodes these numbers ahead has in its hands."""
    some = Numbers(Store(folder, how.get("limit", LARGE)))
    some.encodings.prepare(numbers)
    return some


def test_what_one_run_encoded_the_next_one_reads(tmp_path: Path) -> None:
    first = filled(tmp_path, range(5))
    assert first.made == list(range(5))
    second = filled(tmp_path, range(3, 8))
    assert second.made == [5, 6, 7]
    assert second.bits([4, 6, 3, 4]) == [RIGHT[n] for n in (4, 6, 3, 4)]
    counts = second.encodings.store.counts  # type: ignore[union-attr]
    assert (counts.found, counts.made) == (2, 3)
    second.encodings.prepare(range(3, 8))
    assert second.made == [5, 6, 7] and (counts.found, counts.made) == (2, 3)


def test_without_a_store_everything_stays_in_memory() -> None:
    alone = Numbers()
    alone.encodings.prepare(range(3))
    assert alone.bits([2, 0, 5]) == [RIGHT[n] for n in (2, 0, 5)]
    assert alone.made == [0, 1, 2, 5]


def test_what_was_not_encoded_ahead_is_not_kept(tmp_path: Path) -> None:
    assert filled(tmp_path, [1]).bits([1, 2]) == [RIGHT[1], RIGHT[2]]
    assert filled(tmp_path, [1, 2]).made == [2]


def test_memory_holds_the_latest_and_the_rest_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 3 * 600)
    monkeypatch.setattr(module, "SHARD_BYTES", 600)
    filled(tmp_path, range(12))
    assert len(shards(tmp_path)) == 12
    some = filled(tmp_path, range(12))
    for numbers in ([0, 11, 5, 5], list(range(12)), [7]):
        assert some.bits(numbers) == [RIGHT[n] for n in numbers]
        assert len(some.encodings._recent) == 3
    assert some.made == []


# Damage


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(place * (path.stat().st_size - 1))])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_damage_is_seen_told_once_and_healed(
    damage: Callable[[Path, float], None], place: float, tmp_path: Path
) -> None:
    filled(tmp_path, range(10))
    (path,) = shards(tmp_path)
    before = path.read_bytes()
    damage(path, place)
    notes: list[str] = []
    some = Numbers(Store(tmp_path, LARGE, notes.append))
    some.encodings.prepare(range(10))
    assert some.bits(range(10)) == [RIGHT[n] for n in range(10)]
    assert len(notes) == 1 and notes[0].startswith(f"{path} is damaged (") and notes[0].endswith("encoded again")
    assert some.made == list(range(10)) and not path.exists()
    (healed,) = shards(tmp_path)
    assert len(healed.read_bytes()) == len(before)
    assert filled(tmp_path, range(10)).made == []


def test_damage_after_the_beginning_is_healed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 0)
    filled(tmp_path, range(4))
    notes: list[str] = []
    some = Numbers(Store(tmp_path, LARGE, notes.append))
    some.encodings.prepare(range(4))
    flip(shards(tmp_path)[0], 1.0)
    assert some.bits([3, 1]) == [RIGHT[3], RIGHT[1]] and len(notes) == 1
    assert some.bits(range(4)) == [RIGHT[n] for n in range(4)] and len(notes) == 1
    assert filled(tmp_path, range(4)).made == list(range(4))


def test_a_cache_that_is_cleared_under_a_run_is_missed_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 0)
    some = filled(tmp_path, range(4))
    shards(tmp_path)[0].unlink()
    assert some.bits(range(4)) == [RIGHT[n] for n in range(4)]


# Several processes


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process, which ends without cleaning up; returns its process number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, [0])

    def die(self: Path, target: Path) -> Path:
        self.write_bytes(self.read_bytes()[:-50])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        assert status(in_child(lambda: filled(tmp_path, range(5)))) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1 and len(shards(tmp_path)) == 1
    some = filled(tmp_path, range(5))
    assert some.made == [1, 2, 3, 4] and some.bits(range(5)) == [RIGHT[n] for n in range(5)]
    assert list(tmp_path.glob(".*.part")) == []


def test_two_processes_fill_one_cache_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1200)

    def work() -> None:
        for last in range(4, 64, 4):
            some = filled(tmp_path, range(last))
            assert some.bits(range(last)) == [RIGHT[n] for n in range(last)]

    children = [in_child(work) for _ in range(2)]
    assert [status(child) for child in children] == [0, 0]
    store = Store(tmp_path, LARGE)
    assert store.entries() == {"numbers": 60}  # each of them once
    assert filled(tmp_path, range(60)).made == []


# The limit


def ages(folder: Path) -> None:
    """Give shards the order of their making as their time of use, a minute apart."""
    for number, path in enumerate(sorted(shards(folder), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (60 * number, 60 * number))


def test_the_limit_is_kept_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for number in range(3):
        filled(tmp_path, [number])
        ages(tmp_path)
    one = shards(tmp_path)[0].stat().st_size
    assert filled(tmp_path, [0]).made == []  # used again just now
    gc.collect()  # the runs before have ended
    filled(tmp_path, [3], limit=3.5 * one)
    assert size_of_all(tmp_path) <= 3.5 * one
    assert filled(tmp_path, [0, 2, 3]).made == []
    assert filled(tmp_path, [1]).made == [1]


def test_what_a_living_run_works_with_stays_and_the_rest_is_kept_in_memory(tmp_path: Path) -> None:
    at_work = filled(tmp_path, [0, 1])
    limit = size_of_all(tmp_path) * 1.5
    notes: list[str] = []
    other = Numbers(Store(tmp_path, limit, notes.append))
    other.encodings.prepare([2, 3])
    other.encodings.prepare([4])
    assert len(notes) == 1 and "is full" in notes[0] and notes[0].endswith("raise --cache-gib")
    assert other.bits([2, 3, 4]) == [RIGHT[n] for n in (2, 3, 4)] and other.made == [2, 3, 4]
    assert at_work.bits([0, 1]) == [RIGHT[0], RIGHT[1]] and at_work.made == [0, 1]
    del at_work
    gc.collect()
    assert filled(tmp_path, [2, 3], limit=limit).made == [2, 3]
    assert filled(tmp_path, [2, 3]).made == [] and filled(tmp_path, [0]).made == [0]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    def work() -> None:
        held = filled(tmp_path, [0])
        os.kill(os.getpid(), signal.SIGKILL)
        del held

    assert status(in_child(work)) == -signal.SIGKILL
    store = Store(tmp_path, LARGE)
    assert size_of_all(tmp_path) > 0 and store.clear() > 0 and size_of_all(tmp_path) == 0


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.models.encoding_cache import cache_file as shard

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard, "write_tensors", lambda path, *_: _refused(path, full))
    notes: list[str] = []
    some = Numbers(Store(tmp_path, LARGE, notes.append))
    some.encodings.prepare([0])
    some.encodings.prepare([1])
    assert some.bits([0, 1]) == [RIGHT[0], RIGHT[1]] and some.made == [0, 1]
    assert len(notes) == 1 and "No space left on device" in notes[0] and "stays in memory" in notes[0]


def _refused(path: Path, write: Callable[[], None]) -> None:
    from bench.files import disk_errors

    with disk_errors(path):
        write()
