"""Virtual environments of scorers whose packages cannot live beside the harness's: built from pins, found again.

A folder of pins holds requirement files, installed in the order of `STEPS`, and `worker.py`, which runs there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.api import CheckpointMissing, DataError
from bench.files import write_whole
from bench.locks import hold_lock
from bench.paths import cache_folder

# Requirement files, and how pip is to install them
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dependencies.txt", ()),
    ("without-dependencies.txt", ("--no-deps",)),
    ("without-isolation.txt", ("--no-deps", "--no-build-isolation")),
)
_SHOWN = ("Downloading", "Using cached", "Building", "Installing")  # lines of pip that tell how far it is
_LAST_LINES = 8
_WIDTH = 110


@dataclass(frozen=True)
class PinnedEnvironment:
    """The environment of the reward `name`, whose pins lie in `folder`."""

    name: str
    folder: Path

    @property
    def home(self) -> Path:
        """`envs/<hash>` in the cache folder; the hash is of the pins and of this Python's version."""
        digest = hashlib.blake2b(_python_version().encode(), digest_size=8)
        for path in self._files():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return cache_folder() / "envs" / digest.hexdigest()

    @property
    def worker(self) -> Path:
        """The script that runs in it; `--try` imports what it needs, and nothing more."""
        return self.folder / "worker.py"

    def python(self) -> Path:
        """The interpreter of the built environment.

        Raises:
            CheckpointMissing: it has not been built, or not to its end.
        """
        if not self._built.is_file():
            raise CheckpointMissing(
                f"{self.name} runs in an environment of its own, expected in {self.home} ($BENCH_CACHE), but it has "
                f"not been built: `python -m bench reward-env {self.name}` builds it"
            )
        return self._interpreter

    def build(self, say: Callable[[str], None]) -> Path:
        """Build it, unless it is there; returns its folder. An unfinished one is built afresh.

        Raises:
            DataError: a step fails (no network, no space, no package for this Python), or somebody else is building.
        """
        with hold_lock(self.home.with_suffix(".lock")):
            if self._built.is_file():
                say(f"{self.home}: there already, built from the same pins")
                return self.home
            if self.home.exists():
                shutil.rmtree(self.home)
            begin = time.monotonic()
            for what, command in self._commands():
                say(f"== {what}")
                start = time.monotonic()
                self._run(what, command, say)
                say(f"== {what}: {time.monotonic() - start:.0f} s")
            self._mark(time.monotonic() - begin)
        say(f"{self.home}: built in {time.monotonic() - begin:.0f} s")
        return self.home

    @property
    def _built(self) -> Path:
        return self.home / "built.json"

    @property
    def _interpreter(self) -> Path:
        return self.home / "bin" / "python"

    def _files(self) -> list[Path]:
        return [self.folder / name for name, _ in STEPS if (self.folder / name).is_file()]

    def _commands(self) -> list[tuple[str, Sequence[str | Path]]]:
        # Without --no-compile most of the time goes into compiling what is never imported
        pip = (
            sys.executable, "-m", "pip", "--python", self._interpreter, "install", "--progress-bar", "off",
            "--no-input", "--no-compile",
        )  # fmt: skip
        installs: list[tuple[str, Sequence[str | Path]]] = [
            (f"packages of {name}", (*pip, *options, "--requirement", self.folder / name))
            for name, options in STEPS if (self.folder / name).is_file()
        ]  # fmt: skip
        make = ("an empty environment", (sys.executable, "-m", "venv", "--without-pip", self.home))
        return [make, *installs, ("trying it out", (self._interpreter, self.worker, "--try"))]

    def _run(self, what: str, command: Sequence[str | Path], say: Callable[[str], None]) -> None:
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last.append(line.strip())
                if line.strip().startswith(_SHOWN):
                    say(f"   {line.strip()[:_WIDTH]}")
        if process.returncode:
            raise DataError(
                f"reward-env {self.name}: {what} failed with status {process.returncode} under Python "
                f"{_python_version()}; expected a package index that pip reaches, some gigabytes free below "
                f"{self.home.parent}, and a Python that the pins in {self.folder} were made for. Its last lines:\n  "
                + "\n  ".join(last)
            )

    def _mark(self, seconds: float) -> None:
        """Say that it was built to its end, and of what."""
        pins = {path.name: path.read_text(encoding="utf-8").splitlines() for path in self._files()}
        found = {"python": sys.version, "seconds": round(seconds, 1), "pins": pins}
        write_whole(self._built, json.dumps(found, indent=2).encode())


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
