"""Who works in a folder: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.files import disk_errors
from bench.paths import inside
from bench.reading import MOST_BYTES, parse_json, read_text

_RETRY_SECONDS = 0.1
_CLOCK_SECONDS = 60.0  # by which the clock may have been set since

_held: set[TextIOWrapper] = set()  # the lock files of this process


def _let_go() -> None:
    """In a process that was forked from this one: it holds none of the locks, and would keep them after us."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True)
class Holder:
    """Who says in a lock file that it holds the lock, since when, and what else it says (`about`)."""

    pid: int
    host: str
    since: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def began(self) -> datetime:
        """When it took the lock."""
        return _time(self.since)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def lives(self) -> bool:
        """Whether that process still lives; one of another machine, where nobody can look, counts as alive."""
        if not self.is_here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        started = _started(self.pid)
        return started is None or started <= self.began.timestamp() + _CLOCK_SECONDS


@contextmanager
def hold_lock(path: Path, wait: float = 0.0, about: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Hold the lock file `path`; gives who held it and ended without letting go, or an empty text.

    `wait` is how many seconds to wait for a holder that is about to end; `about` (JSON-able) is what `holder` tells.

    Raises:
        DataError: somebody else holds it, and since when; or it cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = inside(path.parent, path.name).open("a+", encoding="utf-8")
    with file:
        _acquire(file, path, wait)
        stale = _who_holds(file)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "about": dict(about or {})}
        _write(file, path, json.dumps(me))
        _held.add(file)
        try:
            yield str(stale or "")
        finally:
            if file in _held:
                _held.remove(file)
                _write(file, path, "")


def lock_holder(path: Path) -> Holder | None:
    """Who says that it holds the lock; None where nobody does. Only reads, and takes no lock.

    Raises:
        DataError: it cannot be read.
    """
    lock = inside(path.parent, path.name)
    try:
        return _who(read_text(lock))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _acquire(file: TextIOWrapper, path: Path, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() >= end:
                holder = _who_holds(file) or "another process"
                raise DataError(
                    f"{path.parent} is held by {holder}: wait for it, stop it, or give this run another --name"
                ) from error
        time.sleep(_RETRY_SECONDS)


def _who_holds(file: TextIOWrapper) -> Holder | None:
    file.seek(0)
    return _who(file.read(MOST_BYTES))


def _who(text: str) -> Holder | None:
    """What the holder wrote about itself; None where it let go in order, or is just about to write."""
    try:
        who = parse_json(text)
        _time(who["since"])
        return Holder(int(who["pid"]), str(who["host"]), who["since"], dict(who.get("about", {})))
    except (ValueError, KeyError, TypeError):
        return None


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _started(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None where the system does not tell (or not like Linux).

    A number is given again to another process, after a restart of the machine at the latest.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines() if "btime" in line)
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _write(file: TextIOWrapper, path: Path, text: str) -> None:
    with disk_errors(path):
        file.seek(0)
        file.truncate()
        file.write(text)
        file.flush()
