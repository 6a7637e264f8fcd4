"""Files that appear whole, lines that are added whole, and locks: under real refusals of the operating system."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.api import DataError
from bench.files import appears_whole, append_whole, remove_parts, write_whole
from bench.locks import hold_lock


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The operating system refuses to let any file grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append(f"rename {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_whole(tmp_path / "new" / "a.json", b"1")
    part = f".a.json.{os.getpid()}.part"
    assert calls == [f"sync {tmp_path.name}", f"sync {part}", f"rename {part}", "sync new"]
    calls.clear()
    append_whole(tmp_path / "new" / "lines", b"1\n")
    append_whole(tmp_path / "new" / "lines", b"2\n")
    assert calls == ["sync lines", "sync new", "sync lines"]


def test_a_refused_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old")
    with largest_file(100), pytest.raises(DataError, match=r"cannot write .*a: .*free some space"):
        write_whole(tmp_path / "a", b"x" * 101)
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_refused_line_leaves_the_lines_before(tmp_path: Path) -> None:
    append_whole(tmp_path / "a", b"first\n")
    with largest_file(10), pytest.raises(DataError, match="cannot write"):
        append_whole(tmp_path / "a", b"second\n")  # 4 bytes of it fit
    assert (tmp_path / "a").read_bytes() == b"first\n"
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        append_whole(tmp_path / "full", b"1\n")


def test_a_folder_appears_whole_in_the_place_of_another(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with appears_whole(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / f"{content}.txt").write_text(content)
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["new.txt"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.4711.part").write_text("half")
    (tmp_path / ".model.4711.part").mkdir()
    (tmp_path / ".model.4711.part" / "half").touch()
    (tmp_path / ".hidden").touch()
    remove_parts(tmp_path)
    assert names(tmp_path) == [".hidden"]


def test_a_lock_names_its_holder_and_a_stale_one_is_recognised(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with hold_lock(lock) as stale:
        assert stale == ""
        with pytest.raises(DataError, match=rf"is held by process {os.getpid()} on .* since 20\d\d-"), hold_lock(lock):
            raise AssertionError("taken twice")
    with hold_lock(lock) as stale:
        assert stale == ""  # the last holder let go in order
    lock.write_text('{"pid": 4711, "host": "elsewhere", "since": "2026-01-01"}')
    with hold_lock(lock) as stale:
        assert stale == "process 4711 on elsewhere since 2026-01-01"


@pytest.mark.parametrize("place", ["/dev/null/results/run.lock", "/proc/results/run.lock"])
def test_a_place_that_cannot_be_written_is_named(place: str) -> None:
    with pytest.raises(DataError, match=f"cannot write {place}"), hold_lock(Path(place)):
        raise AssertionError("held")
