"""The answers that a scorer has given, on disk by the id of their request: a server that starts again knows them.

An answer is kept by the process that computed it, before anybody hears of it. A request that comes again, because its
answer was lost or the server was killed, is answered from here: its pictures are not scored a second time. What was
being scored at the moment of a kill, and was not kept yet, is scored again; its first scores have reached nobody.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.locks import hold_lock

KEPT_SECONDS = 86_400.0  # that nobody asks again for an answer any more
WAIT_SECONDS = 30.0  # for the worker of a killed server to end


class Journal:
    """One file, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it, and forget what is older than a day.

        Raises:
            DataError: another process holds it, or it is none.
        """
        self._path = path
        self._open = ExitStack()
        try:
            self._open.enter_context(hold_lock(path.with_name(f"{path.name}.lock"), wait=WAIT_SECONDS))
        except DataError as error:
            raise DataError(
                f"{path} is the journal of another server ({error}): stop that one, or give this one another --journal"
            ) from error
        with self._told():
            self._answers = sqlite3.connect(path, isolation_level=None)
            # A killed process loses nothing so; a power cut may take the last answers, and leaves the file whole
            self._answers.execute("PRAGMA journal_mode = WAL")
            self._answers.execute("PRAGMA synchronous = NORMAL")
            self._answers.execute(
                "CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, digest TEXT, answer TEXT, time REAL)"
            )
            self._answers.execute("DELETE FROM answers WHERE time < ?", [time.time() - KEPT_SECONDS])

    def answer(self, request: str, digest: str) -> Any:
        """What was answered to this request, None where nothing was.

        Raises:
            DataError: it asked for something else then.
        """
        with self._told():
            row = self._answers.execute("SELECT digest, answer FROM answers WHERE request = ?", [request]).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise DataError(f"request {request} asked for something else before: expected an id of its own for each")
        return json.loads(row[1])

    def keep(self, request: str, digest: str, answer: Any) -> None:
        """Keep an answer; no end of this process takes it back once this has returned."""
        with self._told():
            self._answers.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?)", [request, digest, json.dumps(answer), time.time()]
            )

    def close(self) -> None:
        """Let go of it."""
        self._answers.close()
        self._open.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(
                f"{self._path}: expected a journal of answers that can be read and written ({error}): free some space, "
                "or remove it"
            ) from error
