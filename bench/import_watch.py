"""An import of a plugin that takes long is told with the line where it stands, and one that never ends is ended."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from traceback import StackSummary
from types import FrameType

from bench.plugin_code import is_ours, place_of
from bench.process_end import end_process

NOTE_SECONDS = 20.0  # after which it is told
IMPORT_SECONDS = 600.0  # that it may take, as load() of a reward may by default
_LOCKED_SECONDS = 5.0  # more, for one that lets no other thread speak


@contextmanager
def watched_import(origin: str) -> Iterator[None]:
    """Surrounds the import of what `origin` names; where that does not end in time, the process does, with status 2.

    Foreign code that hangs can neither interrupt itself nor say so. What holds the interpreter's lock all the time is
    ended by Python's own dump of its stack, with status 1.
    """
    ended, me = threading.Event(), os.getpid()
    outer = [frame for frame, _ in traceback.walk_stack(sys._getframe())]
    place = partial(_place, threading.get_ident(), outer)
    threading.Thread(target=_watch, args=(origin, place, ended), daemon=True).start()
    faulthandler.dump_traceback_later(IMPORT_SECONDS + _LOCKED_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        ended.set()
        if os.getpid() == me:  # in a copy that the plugin has forked it would wait for a thread that is not there
            faulthandler.cancel_dump_traceback_later()


def _watch(origin: str, place: Callable[[], str], ended: threading.Event) -> None:
    if ended.wait(NOTE_SECONDS):
        return
    _say(f"{origin}: its import takes long: {place()} after {NOTE_SECONDS:g} s")
    if ended.wait(IMPORT_SECONDS - NOTE_SECONDS):
        return
    _say(
        f"{origin} hangs at its import: {place()} after {IMPORT_SECONDS:g} s. Expected a module that "
        "only defines things: move what takes long or waits into load() of a reward, or into the steps of a method"
    )
    end_process(2)


def _say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


def _place(thread: int, outer: Sequence[FrameType]) -> str:
    """Where the import stands, among the frames of its thread that are not of the `outer` ones."""
    inner = [it for it in traceback.walk_stack(sys._current_frames().get(thread)) if it[0] not in outer]
    frames = StackSummary.extract(reversed(inner))
    plugin = [frame.filename for frame in frames if not is_ours(frame.filename)][:1]
    return f"it stands at {place_of(frames, plugin) or 'no line of its own'}"
