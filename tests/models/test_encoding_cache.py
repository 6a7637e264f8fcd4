"""The cache of encodings: the same bits cold, warm and healed; shared, limited, and never read half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch

from bench.api import DataError
from bench.models.encoding_cache import cached_encoder as module
from bench.models.encoding_cache.cached_encoder import CachedEncoder
from bench.models.encoding_cache.folder import entry_counts, entry_path, files_of, remove_all, size_of_all
from bench.models.encoding_cache.store import Entry, Store
from tests.test_files import largest_file

LARGE = 2.0**40


def entry(seed: int, size: int = 100) -> Entry:
    """Two tensors unlike any other entry's: 600 bytes."""
    values = torch.arange(size) + 1000.0 * seed
    return {"mean": values, "std": (values / 7).to(torch.bfloat16)}


def key(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


class Numbers:
    """Encodes whole numbers, and remembers which it was asked for."""

    def __init__(self, store: Store | None = None) -> None:
        self.made: list[int] = []
        self.encoder = CachedEncoder("numbers", key, self._encode, store)

    def _encode(self, numbers: Sequence[int]) -> Iterable[Entry]:
        for number in numbers:
            self.made.append(number)
            yield entry(number)

    def bits(self, numbers: Sequence[int]) -> list[bytes]:
        return [bits(found) for found in self.encoder(numbers)]

    @property
    def counts(self) -> tuple[int, int]:
        """Found, and made."""
        assert self.encoder.store is not None
        return self.encoder.store.counts.found, self.encoder.store.counts.made


def bits(found: Entry) -> bytes:
    return b"".join(t.view(torch.uint8).numpy().tobytes() for _, t in sorted(found.items()))


RIGHT = {number: bits(entry(number)) for number in range(64)}


def right(numbers: Iterable[int]) -> list[bytes]:
    return [RIGHT[number] for number in numbers]


def path_of(folder: Path, number: int) -> Path:
    return entry_path(folder, "numbers", key(number))


def there(folder: Path) -> set[int]:
    """The numbers whose entries lie in the folder; nothing else does."""
    numbers = {number for number in range(64) if path_of(folder, number).exists()}
    assert {file.path for file in files_of(folder)} == {str(path_of(folder, number)) for number in numbers}
    return numbers


def filled(
    folder: Path, numbers: Iterable[int], *, limit: float = LARGE, note: Callable[[str], object] = print
) -> Numbers:
    """What a process that encodes these numbers ahead has in its hands."""
    some = Numbers(Store(folder, limit, note))
    some.encoder.prepare(numbers)
    return some


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on disk is read from there every time."""
    monkeypatch.setattr(module, "HELD_BYTES", 0)


def test_what_one_run_encoded_the_next_one_reads(tmp_path: Path) -> None:
    first = filled(tmp_path, range(5))
    assert first.made == list(range(5)) and there(tmp_path) == set(range(5))
    second = filled(tmp_path, range(3, 8))
    assert second.made == [5, 6, 7]
    assert second.bits([4, 6, 3, 4]) == right([4, 6, 3, 4])
    assert second.counts == (2, 3)
    second.encoder.prepare(range(3, 8))
    assert second.made == [5, 6, 7] and second.counts == (2, 3)


def test_without_a_store_everything_stays_in_memory() -> None:
    alone = Numbers()
    alone.encoder.prepare(range(3))
    assert alone.bits([2, 0, 5]) == right([2, 0, 5])
    assert alone.made == [0, 1, 2, 5]


def test_what_was_not_encoded_ahead_is_neither_kept_nor_looked_for(tmp_path: Path) -> None:
    assert filled(tmp_path, [1]).bits([1, 2]) == right([1, 2])
    assert there(tmp_path) == {1}
    some = filled(tmp_path, [2])
    assert some.bits([1, 2, 1]) == right([1, 2, 1]) and some.made == [2, 1]


def test_memory_holds_the_latest_and_the_rest_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 3 * 600)
    filled(tmp_path, range(12))
    some = filled(tmp_path, range(12))
    assert set(some.encoder._recent) == {key(0), key(1), key(2)}
    assert some.bits([0]) + some.bits([5]) == right([0, 5])
    assert set(some.encoder._recent) == {key(0), key(2), key(5)}
    for numbers in ([0, 11, 5, 5], list(range(12)), [7]):
        assert some.bits(numbers) == right(numbers)
        assert len(some.encoder._recent) == 3
    assert some.made == [] and some.counts == (12, 0)


def test_what_is_read_is_aligned_like_what_is_made(tmp_path: Path) -> None:
    filled(tmp_path, range(64))
    entries = filled(tmp_path, range(64)).encoder(range(64))
    assert all(tensor.data_ptr() % 64 == 0 for entry in entries for tensor in entry.values())


# Damage


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    os.truncate(path, int(place * (path.stat().st_size - 1)))


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_damage_is_seen_told_once_and_healed(
    damage: Callable[[Path, float], None], place: float, tmp_path: Path
) -> None:
    filled(tmp_path, range(10))
    path = path_of(tmp_path, 3)
    before = path.read_bytes()
    damage(path, place)
    notes: list[str] = []
    some = filled(tmp_path, range(10), note=notes.append)
    assert some.bits(range(10)) == right(range(10))
    assert len(notes) == 1 and notes[0].startswith(f"{path} is damaged (") and notes[0].endswith("encoded again")
    assert some.made == [3] and some.counts == (9, 1)
    assert path.read_bytes() == before
    assert filled(tmp_path, range(10)).made == []


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    filled(tmp_path, [0])
    path = path_of(tmp_path, 0)
    good = path.read_bytes()
    store = Store(tmp_path, LARGE, lambda _: None)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        assert store.read("numbers", key(0)) is None, place
        assert not path.exists()


@pytest.mark.usefixtures("nothing_held")
def test_damage_after_the_beginning_is_healed_too(tmp_path: Path) -> None:
    filled(tmp_path, range(4))
    notes: list[str] = []
    some = filled(tmp_path, range(4), note=notes.append)
    flip(path_of(tmp_path, 3), 1.0)
    assert some.bits([3, 1]) == right([3, 1]) and len(notes) == 1
    assert some.bits(range(4)) == right(range(4)) and len(notes) == 1 and some.made == [3]
    assert filled(tmp_path, range(4)).made == [3]  # for a method could have changed the encoders by then


# Several processes


@pytest.mark.usefixtures("nothing_held")
def test_a_file_that_goes_after_it_was_found_is_encoded_again(tmp_path: Path) -> None:
    notes: list[str] = []
    some = filled(tmp_path, range(4), note=notes.append)
    path_of(tmp_path, 2).unlink()
    assert some.bits(range(4)) == right(range(4)) and some.made == [0, 1, 2, 3, 2]
    assert remove_all(tmp_path) > 0 and there(tmp_path) == set()
    assert some.bits(range(4)) == right(range(4)) and some.made == [0, 1, 2, 3, 2, 0, 1, 3]
    assert some.bits(range(4)) == right(range(4)) and len(some.made) == 8 and notes == []


def test_a_file_that_goes_while_the_folder_is_measured_is_left_out(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).write_bytes(b"1")
    first, second, *rest = [entry.path for entry in os.scandir(tmp_path)]
    files = files_of(tmp_path)
    assert next(files).path == first
    Path(second).unlink()
    assert [file.path for file in files] == rest


def test_a_cache_that_is_cleared_while_it_is_filled_is_filled_again(tmp_path: Path) -> None:
    notes: list[str] = []
    some = filled(tmp_path, range(4), note=notes.append)
    remove_all(tmp_path)
    some.encoder.prepare(range(8))
    assert there(tmp_path) == {4, 5, 6, 7} and some.bits(range(8)) == right(range(8)) and notes == []


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
    (part,) = tmp_path.rglob(".*.part")
    assert entry_counts(tmp_path) == {"numbers": 1}
    os.utime(part, (0, 0))
    some = filled(tmp_path, range(1, 5), limit=5.1 * path_of(tmp_path, 0).stat().st_size)
    assert some.made == [1, 2, 3, 4] and some.bits(range(1, 5)) == right(range(1, 5))
    assert there(tmp_path) == {0, 1, 2, 3, 4}  # what was left behind has made room


def test_two_processes_that_make_the_same_entries_at_once_do_no_harm(tmp_path: Path) -> None:
    ready, go = os.pipe()

    def work() -> None:
        os.close(go)
        os.read(ready, 1)  # ends when the parent closes its end
        notes: list[str] = []
        for last in range(4, 64, 4):
            some = filled(tmp_path, range(last), note=notes.append)
            assert some.bits(range(last)) == right(range(last))
        assert notes == []

    children = [in_child(work) for _ in range(2)]
    os.close(go)
    os.close(ready)
    assert [status(child) for child in children] == [0, 0]
    assert there(tmp_path) == set(range(60)) and filled(tmp_path, range(60)).made == []


def test_processes_that_clear_and_fill_at_once_do_no_harm(tmp_path: Path, nothing_held: None) -> None:
    def work() -> None:
        notes: list[str] = []
        for _ in range(10):
            some = filled(tmp_path, range(32), note=notes.append)
            assert some.bits(range(32)) == right(range(32))
        assert notes == []

    children = [in_child(work) for _ in range(2)]
    while not all(os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) for child in children):
        remove_all(tmp_path)
    assert [status(child) for child in children] == [0, 0]


# The limit


def age(folder: Path, *numbers: int) -> None:
    """As if these had been used last a minute after each other, years ago."""
    for minute, number in enumerate(numbers):
        os.utime(path_of(folder, number), (60 * minute, 60 * minute))


def entry_bytes(folder: Path) -> int:
    """Of one file on disk, like every other."""
    (size,) = {file.size for file in files_of(folder)}
    return size


def test_the_limit_is_kept_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    filled(tmp_path, range(4))
    limit = 4.5 * entry_bytes(tmp_path)
    age(tmp_path, 2, 0, 3, 1)
    assert filled(tmp_path, [2]).made == []  # used again just now
    filled(tmp_path, [4, 5], limit=limit)
    assert there(tmp_path) == {1, 2, 4, 5} and size_of_all(tmp_path) <= limit


@pytest.mark.usefixtures("nothing_held")
def test_finding_an_entry_counts_as_using_it(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    age(tmp_path, 0, 1, 2)
    assert filled(tmp_path, [0]).made == []
    filled(tmp_path, [3], limit=3 * entry_bytes(tmp_path))
    assert there(tmp_path) == {0, 2, 3}


@pytest.mark.usefixtures("nothing_held")
def test_reading_an_entry_counts_as_using_it(tmp_path: Path) -> None:
    some = filled(tmp_path, range(3))
    age(tmp_path, 0, 1, 2)
    some.encoder([0])
    filled(tmp_path, [3], limit=3 * entry_bytes(tmp_path))
    assert there(tmp_path) == {0, 2, 3}
    assert some.bits(range(3)) == right(range(3)) and some.made == [0, 1, 2, 1]


def test_a_limit_that_was_lowered_is_kept_as_soon_as_something_is_added(tmp_path: Path) -> None:
    filled(tmp_path, range(20))
    age(tmp_path, *range(20))
    filled(tmp_path, [20], limit=3 * entry_bytes(tmp_path))
    assert there(tmp_path) == {18, 19, 20}


def test_other_files_take_room_and_go_too(tmp_path: Path) -> None:
    filled(tmp_path, range(2))
    limit = 3.5 * entry_bytes(tmp_path)
    (tmp_path / "of-another-layout.safetensors").write_bytes(bytes(100_000))
    os.utime(tmp_path / "of-another-layout.safetensors", (0, 0))
    filled(tmp_path, [2], limit=limit)
    assert there(tmp_path) == {0, 1, 2}


def test_what_a_run_uses_itself_stays_and_what_does_not_fit_is_kept_in_its_memory(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    limit = 4.5 * entry_bytes(tmp_path)
    notes: list[str] = []
    some = filled(tmp_path, [0, *range(10, 16)], limit=limit, note=notes.append)
    assert there(tmp_path) == {0, 10, 11, 12}
    some.encoder.prepare([20])
    assert len(notes) == 1 and "is full" in notes[0] and notes[0].endswith("raise --cache-gib")
    numbers = [0, *range(10, 16), 20]
    assert some.bits(numbers) == right(numbers) and some.made == numbers[1:]
    assert there(tmp_path) == {0, 10, 11, 12}


def test_an_entry_larger_than_the_limit_removes_nothing(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    notes: list[str] = []
    some = filled(tmp_path, [3], limit=0.5 * entry_bytes(tmp_path), note=notes.append)
    assert there(tmp_path) == {0, 1, 2} and some.bits([3]) == right([3]) and len(notes) == 1


def test_several_processes_exceed_the_limit_by_a_twentieth_each_at_most(tmp_path: Path) -> None:
    filled(tmp_path, [0])
    limit = 20 * entry_bytes(tmp_path)
    some, other = Numbers(Store(tmp_path, limit)), Numbers(Store(tmp_path, limit))
    for number in range(1, 31):
        some.encoder.prepare([number])
        other.encoder.prepare([number + 31])
        assert size_of_all(tmp_path) <= 1.1 * limit


# Folders that cannot be used


def test_a_refused_write_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    filled(tmp_path, [9])
    notes: list[str] = []
    with largest_file(100):
        some = filled(tmp_path, [0, 9, 1], note=notes.append)
    some.encoder.prepare([2])
    assert some.bits([0, 9, 1, 2]) == right([0, 9, 1, 2]) and some.made == [0, 1, 2]
    assert len(notes) == 1 and "File too large" in notes[0] and "stays in memory" in notes[0]
    assert there(tmp_path) == {9}


def test_a_place_that_is_taken_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("a file")
    notes: list[str] = []
    some = filled(tmp_path, [0, 1], note=notes.append)
    assert some.bits([0, 1]) == right([0, 1]) and some.made == [0, 1]
    assert len(notes) == 1 and "cannot be written" in notes[0] and "$BENCH_CACHE" in notes[0]


def test_a_folder_that_is_none_is_refused_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file cannot be used: .*set \$BENCH_CACHE to another one, or say --cache-gib"):
        filled(tmp_path / "file", [0])
    with pytest.raises(DataError, match="cannot be used"):
        size_of_all(tmp_path / "file")


def test_sizes_are_told_without_torch() -> None:
    code = "import sys, bench.cli.cache as c; print(c.describe_cache(clear=True)); assert 'torch' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "encoded  none" in told
