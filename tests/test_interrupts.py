"""Ctrl-C waits for the end of an import, and is heard by nobody but the process that was started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.interrupts import children_hear_none, interrupts_after_imports

MODULE = """
import signal, time
signal.raise_signal(signal.SIGINT)
time.sleep(0.2)
whole = True
"""


def test_an_import_is_ended_before_the_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        import interrupted_module  # type: ignore[import-not-found]

        assert interrupted_module.whole
        signal.pause()  # what was put off comes now

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    with pytest.raises(KeyboardInterrupt), interrupts_after_imports(work.__code__):
        work()
    assert sys.modules["interrupted_module"].whole
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)] == before


def test_an_import_without_an_end_is_interrupted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless_module.py").write_text(MODULE.replace("0.2", "60"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("bench.interrupts.WAIT_SECONDS", 0.2)

    def work() -> None:
        import endless_module  # type: ignore[import-not-found]  # noqa: F401

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupts_after_imports(work.__code__):
        work()
    assert 0.2 < time.monotonic() - begin < 10


def test_elsewhere_it_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_after_imports(children_hear_none.__code__):
        signal.raise_signal(signal.SIGINT)


def test_children_do_not_hear_of_it() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    with children_hear_none():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=60)[0] == "went on\n" and process.returncode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
