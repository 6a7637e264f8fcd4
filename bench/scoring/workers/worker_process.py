"""The harness's side of a scorer in a process of its own: started, asked, and told apart by how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import PluginError

CHILD = Path(__file__).with_name("worker_main.py")
SECONDS = 600.0  # that a call may take, as a reward in the process of the harness may by default
_LAST_LINES = 5
_TO_END = 5.0  # seconds that a process which closed its output may take to end
# What would make the packages of this environment those of another one
_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class WorkerProcess:
    """Calls functions of a worker file in a process of its own; `bench.scoring.workers.worker_main` says how they talk.

    A call that fails ends the process.
    """

    def __init__(
        self, scorer: str, python: Path, worker: Path, *, threads: int = 1, memory_mib: int | None = None,
        seconds: float | None = SECONDS, variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start it. `scorer` is for messages; `memory_mib` bounds the memory that it may ask the system for.

        `seconds` bounds a call, None does not, and may be set anew between calls; `variables` are added
        to its environment.
        """
        self.scorer, self.seconds = scorer, seconds
        limits = [str(threads)] + ([] if memory_mib is None else [str(memory_mib)])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, "-P", CHILD, worker, *limits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            env={name: value for name, value in os.environ.items() if name not in _OWN} | dict(variables or {}),
        )  # fmt: skip

    def call(self, function: str, images: np.ndarray | None = None, **words: Any) -> Any:
        """What a function of the worker file returns, for arguments that JSON can hold and pictures uint8.

        Raises:
            PluginError: it raises, hangs, ends the process, or answers with something else than one line of JSON.
        """
        shape = None if images is None else images.shape
        line = json.dumps({"call": function, "words": words, "pictures": shape}).encode() + b"\n"
        answer = self._exchange(function, line, b"" if images is None else np.ascontiguousarray(images).tobytes())
        if "error" in answer:
            self.close()
            raise PluginError(f"reward {self.scorer!r}: {function}() in its worker process raised {answer['error']}")
        return answer["result"]

    def scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]] = ()
    ) -> np.ndarray:
        """Scores (B,) float32 by the worker's `score(images, prompts, metadata)`.

        Raises:
            PluginError: as `call` does, or these are not as many numbers as there are pictures.
        """
        given = self.call("score", images, prompts=list(prompts), metadata=[dict(m) for m in metadata])
        if not isinstance(given, list) or not all(type(score) in (int, float) for score in given):
            raise self._ended(f"expected a list of numbers from its worker process, got {str(given)[:80]}")
        if len(given) != len(images):
            raise self._ended(f"expected {len(images)} scores from its worker process, got {len(given)}")
        return np.array(given, np.float32)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what it was still to read
                stream and stream.close()
        self._process.wait()

    def __del__(self) -> None:
        if hasattr(self, "_process") and self._process.returncode is None:
            self.close()

    def _exchange(self, function: str, line: bytes, pictures: bytes) -> dict[str, Any]:
        """Send a request and read its answer; a process that takes too long is killed, which ends the wait as well."""
        assert self._process.stdin is not None and self._process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(threading.TIMEOUT_MAX if self.seconds is None else self.seconds, end)
        timer.start()
        try:
            self._process.stdin.write(line)
            self._process.stdin.write(pictures)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):  # ended already, or closed after an earlier failure
            answer = b""
        finally:
            timer.cancel()
        if is_late.is_set():
            raise self._ended(f"hangs: {function}() has not ended after {self.seconds:g} s, so its worker was ended")
        try:
            found = json.loads(answer) if answer.endswith(b"\n") else None
        except ValueError:
            found = None
        if isinstance(found, dict) and len({"result", "error"} & set(found)) == 1:
            return found
        if answer:
            raise self._ended(f"expected a line of JSON from its worker process, got {answer[:80]!r}")
        raise self._ended(f"its worker process {self._how_it_ended()} in {function}()")

    def _ended(self, what: str) -> PluginError:
        """End the process; the error that says so, with its last words."""
        self.close()
        return PluginError(f"reward {self.scorer!r}: {what}{self._last_words()}")

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=_TO_END)
        except subprocess.TimeoutExpired:
            return "stopped answering"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        return f"; it said last: {' | '.join(line.strip() for line in lines)}" if lines else ""
