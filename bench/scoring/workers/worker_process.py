"""The harness's side of a worker process: starts it, calls its functions, and makes one error of any way to fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import PluginError

WORKER_MAIN = Path(__file__).with_name("worker_main.py")
SECONDS = 600.0  # that a call may take, as a reward in the process of the harness may by default
_STDERR_LINES = 5
_EXIT_SECONDS = 5.0  # that a process which closed its output may take to end
# What would make the packages of this environment those of another one
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class WorkerLimits:
    """What a worker process may use: threads, MiB of main memory, and seconds for a call and for `load`; None: any."""

    threads: int = 1
    memory_mib: int | None = None
    call_seconds: float | None = SECONDS
    load_seconds: float | None = SECONDS


class WorkerProcess:
    """Calls functions of a worker file in a process of its own; `bench.scoring.workers.worker_main` has the protocol.

    A call that fails ends the process.
    """

    def __init__(
        self, scorer: str, python: Path, worker: Path, limits: WorkerLimits | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start it. `scorer` is for messages; `variables` are added to its environment."""
        self.scorer, self.limits = scorer, limits or WorkerLimits()
        numbers = (self.limits.threads, self.limits.memory_mib)
        command: list[str | Path] = [python, "-P", WORKER_MAIN, worker, *(str(n) for n in numbers if n is not None)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            env={name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
            | dict(variables or {}),
        )  # fmt: skip

    def call(self, function: str, images: np.ndarray | None = None, **arguments: Any) -> Any:
        """What a function of the worker file returns, for arguments that JSON can hold and pictures uint8.

        Raises:
            PluginError: it raises, hangs, ends the process, or its response is not one line of JSON.
        """
        return self._call(function, self.limits.call_seconds, images, arguments)

    def load(self, **arguments: Any) -> Any:
        """What `load` of the worker file returns, within `limits.load_seconds`.

        Raises:
            PluginError: as `call` does.
        """
        return self._call("load", self.limits.load_seconds, None, arguments)

    def scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]] = ()
    ) -> np.ndarray:
        """Scores (B,) float32 by the worker's `score(images, prompts, metadata)`.

        Raises:
            PluginError: as `call` does, or these are not as many numbers as there are pictures.
        """
        scores = self.call("score", images, prompts=list(prompts), metadata=[dict(m) for m in metadata])
        if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
            raise self._failure(f"expected a list of numbers from its worker process, got {str(scores)[:80]}")
        if len(scores) != len(images):
            raise self._failure(f"expected {len(images)} scores from its worker process, got {len(scores)}")
        return np.array(scores, np.float32)

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

    def _call(
        self, function: str, seconds: float | None, images: np.ndarray | None, arguments: Mapping[str, Any]
    ) -> Any:
        shape = None if images is None else images.shape
        request = json.dumps({"function": function, "arguments": arguments, "pictures": shape}).encode() + b"\n"
        pictures = b"" if images is None else np.ascontiguousarray(images).tobytes()
        line, is_late = self._exchange(seconds, request, pictures)
        if is_late:
            raise self._failure(f"hangs: {function}() has not ended after {seconds:g} s, so its worker was ended")
        try:
            response = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            response = None
        if isinstance(response, dict) and len({"result", "error"} & set(response)) == 1:
            if "error" not in response:
                return response["result"]
            self.close()
            raise PluginError(f"reward {self.scorer!r}: {function}() in its worker process raised {response['error']}")
        if line:
            raise self._failure(f"expected a line of JSON from its worker process, got {line[:80]!r}")
        raise self._failure(f"its worker process {self._how_it_ended()} in {function}()")

    def _exchange(self, seconds: float | None, request: bytes, pictures: bytes) -> tuple[bytes, bool]:
        """Send a request and read the line of its response, empty where the process has ended; whether it was late.

        A process that takes too long is killed, which ends the wait as well.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(threading.TIMEOUT_MAX if seconds is None else seconds, end)
        timer.start()
        try:
            self._process.stdin.write(request)
            self._process.stdin.write(pictures)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):  # ended already, or closed after an earlier failure
            line = b""
        finally:
            timer.cancel()
        return line, is_late.is_set()

    def _failure(self, problem: str) -> PluginError:
        """End the process; the error that reports the problem, with the end of its standard error."""
        self.close()
        return PluginError(f"reward {self.scorer!r}: {problem}{self._stderr_tail()}")

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def _stderr_tail(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-_STDERR_LINES:]
        return f"; it said last: {' | '.join(line.strip() for line in lines)}" if lines else ""
