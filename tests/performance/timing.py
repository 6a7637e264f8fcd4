"""Fair times on a machine that others use too: CPU seconds of one process, candidates in turn, their order turned."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]
_SHORTEST = 1.0  # CPU seconds of a candidate in a round, at least


@dataclass(frozen=True)
class Ratio:
    """A candidate's time over another's: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float
    rounds: int


def rounds_of(candidates: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each candidate in each round, after one round that does not count.

    What is over within a second is repeated in each round, all candidates as often: what else the machine does comes in
    bursts, and a short time is caught by one or is not.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names, repeats = list(candidates), 1
    for number in range(rounds + 1):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(_seconds(candidates[name], repeats))
        if not number:
            repeats = math.ceil(_SHORTEST / min(of_one[0] for of_one in times.values()))
    return {name: seconds[1:] for name, seconds in times.items()}


def _seconds(work: Work, repeats: int) -> float:
    """CPU seconds of one time of several."""
    begin = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - begin) / repeats


def ratio(times: list[float], others: list[float]) -> Ratio:
    """Of the times of the same rounds."""
    each = [a / b for a, b in zip(times, others, strict=True)]
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0],) * 3
    return Ratio(statistics.median(each), low, high, len(each))
