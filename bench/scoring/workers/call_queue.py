"""Calls worked off one after another, in the order they came, while whoever asked goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]


class CallQueue:
    """One thread, which ends with this object and never keeps the process alive, as an executor's would."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._waiting,), daemon=True).start()

    def begin(self, call: Callable[[], T]) -> Callable[[], T]:
        """Queue a call; what this returns waits for it, and returns or raises what it did."""
        future: Future[T] = Future()
        self._waiting.put((future, call))
        return future.result

    def __del__(self) -> None:
        self._waiting.put(None)


def _work(waiting: SimpleQueue[_Task | None]) -> None:
    while (task := waiting.get()) is not None:
        future, call = task
        try:
            future.set_result(call())
        except BaseException as error:  # whoever waits raises it
            future.set_exception(error)
        del task, future, call  # so that nothing lives on because this thread waits
