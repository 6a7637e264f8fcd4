"""A lock belongs to the process that took it, and ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.api import DataError
from bench.locks import hold_lock

# Prints once it holds the lock and has forked a process that lives on
HOLDER = """
import os, sys, time
from pathlib import Path
from bench.locks import hold_lock
with hold_lock(Path(sys.argv[1])):
    if os.fork() == 0:
        os.close(1)
        time.sleep(20)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "leave"])
def test_a_fork_that_outlives_the_holder_does_not_keep_it(end: str, tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=rf"is held by process {holder.pid} on"), hold_lock(lock):
            pass
        if end == "kill":
            holder.kill()
        else:
            holder.communicate("\n")
        holder.wait(10)
        begin = time.monotonic()
        with hold_lock(lock, wait=2.0):
            assert time.monotonic() - begin < 2


def test_a_fork_that_leaves_the_block_lets_nothing_go(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    held = hold_lock(lock)
    held.__enter__()
    child = os.fork()
    if child == 0:
        try:
            held.__exit__(None, None, None)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert f'"pid": {os.getpid()}' in lock.read_text()
    with pytest.raises(DataError, match=f"is held by process {os.getpid()} on"), hold_lock(lock):
        pass
    held.__exit__(None, None, None)
    assert lock.read_text() == ""
    with hold_lock(lock):
        pass
