"""Watches one worker from outside: how long a reward has gone on, and the most memory that the worker held.

A worker that hangs in foreign code can neither interrupt itself nor say so; the parent can do both. Only a reward that
was reported to begin and not to end is ever overdue: nothing else has a time limit, however slow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_TICK = 2.0  # seconds; a parent that was stopped itself must not count that time


class Watchdog:
    """Takes the worker's events and the passing time; `limit` seconds for load() or one call of a reward, if any."""

    def __init__(self, limit: float | None) -> None:
        self.peak_mib: float | None = None
        self.phase = "starting"
        self._limit = limit
        self._reward: tuple[str, str] | None = None
        self._seconds = 0.0

    def sees(self, event: Mapping[str, Any]) -> bool:
        """Take one event; whether it was meant for the watchdog alone."""
        kind = event["event"]
        if kind == "score":
            self._reward, self._seconds = (event["reward"], event["part"]), 0.0
        elif kind == "scored":
            self._reward = None
        elif kind in ("step", "evaluate"):
            self.phase = kind
        return kind in ("score", "scored")

    def tick(self, seconds: float) -> None:
        """`seconds` have passed since the last tick."""
        self._seconds += min(seconds, LONGEST_TICK)

    def measure_memory(self, process: int) -> None:
        """Look at the memory of the process of this id, while it lives."""
        peak = _peak_mib(process)
        if peak is not None:
            self.peak_mib = max(peak, self.peak_mib or 0.0)

    def overdue(self) -> str | None:
        """What is wrong where a reward has been at work for too long."""
        if self._limit is None or self._reward is None or self._seconds < self._limit:
            return None
        reward, part = self._reward
        return (
            f"reward {reward!r} hangs: {part} has not ended after {self._seconds:.0f} s, expected at most "
            f"{self._limit:g} s, so its worker was ended. Mend the reward, or raise the limit by --reward-seconds"
        )


def _peak_mib(process: int) -> float | None:
    """The most memory that a process has held at once, in MiB; None where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) / 1024 if match else None
