"""Ctrl-C reaches every process of a terminal: the one that was started answers it, once, and never amid an import."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import CodeType, FrameType

_AGAIN_SECONDS = 0.05
WAIT_SECONDS = 20.0  # for the end of an import, which a plugin's may never have


@contextmanager
def interrupts_after_imports(until: CodeType) -> Iterator[None]:
    """KeyboardInterrupt waits for the end of an import that is under way within the function of this code, if not long.

    Libraries may swallow it there, or be left half imported. In other threads than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = time.monotonic() if asked is None else asked
        while frame is not None and frame.f_code is not until and time.monotonic() < asked + WAIT_SECONDS:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def children_hear_none() -> Iterator[None]:
    """Processes that are started meanwhile never hear of Ctrl-C: whoever started them decides when they end."""
    resource_tracker.ensure_running()  # the first start of a process would start it, and let Ctrl-C in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
