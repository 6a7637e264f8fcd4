"""How processes of ours end: not by a plugin, not in a copy that a plugin forked, and not the later for its threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EXIT_SECONDS = 5.0  # that a process may take to end once its work is done

end_process = os._exit  # for the harness; a plugin's own call is told where `plugin_stays` surrounds it


class ProcessExit(SystemExit):
    """A plugin has called `os._exit`, after which nobody could tell what happened."""


@contextmanager
def plugin_stays(what: str) -> Iterator[None]:
    """Surrounds what a plugin does: its `os._exit` raises instead, and a copy of the process that it forks ends here.

    In other threads, and in a process that was forked inside, `os._exit` ends the process as ever.

    Raises:
        ProcessExit: it has called `os._exit`.
    """
    me, before, is_inside = (os.getpid(), threading.get_ident()), os._exit, True

    def exit_or_tell(status: int) -> NoReturn:
        if is_inside and me == (os.getpid(), threading.get_ident()):
            raise ProcessExit(f"os._exit({status}) would end this process without a word")
        before(status)

    os._exit = exit_or_tell
    try:
        yield
    finally:
        is_inside = False
        os._exit = before
        if os.getpid() != me[0]:
            print(f"{what}: a process that it forked came back: end it by os._exit()", file=sys.stderr, flush=True)
            end_process(1)


def end_soon(status: int) -> None:
    """End this process with this status in a few seconds, whatever threads and children it waits for until then."""
    last_call = threading.Timer(EXIT_SECONDS, _end_now, (status,))
    last_call.daemon = True
    last_call.start()


def _end_now(status: int) -> None:
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"]
    with suppress(OSError, ValueError):  # closed by whoever read them
        print(f"bench: ended while {', '.join(left) or 'a child of a plugin'} was still at work", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    end_process(status)
