"""Fair times on a machine that others use too: CPU seconds of one process, candidates in turn, their order turned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """A candidate's time over another's: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float
    rounds: int


def rounds_of(candidates: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each candidate in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            begin = time.process_time()
            candidates[name]()
            if number:
                times[name].append(time.process_time() - begin)
    return times


def ratio(times: list[float], others: list[float]) -> Ratio:
    """Of the times of the same rounds."""
    each = [a / b for a, b in zip(times, others, strict=True)]
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0],) * 3
    return Ratio(statistics.median(each), low, high, len(each))
