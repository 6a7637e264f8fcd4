"""A plugin whose import hangs is told with its line, and ends the process in a bounded time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# It hangs on its own lines, in a library that it calls, and in C that lets no other thread run.
SLEEPS = "import time\n\n\nwhile True:\n    time.sleep(0.01)\n"
INNER = "import threading\n\n\ndef wait():\n    threading.Event().wait()\n\n\nwait()\n"
LOCKED = "import re\n\nre.match(r'(a+)+$', 'a' * 60 + 'b')\n"


def command(path: Path, *, note: float, limit: float) -> subprocess.CompletedProcess[str]:
    """`bench list FILE`, with these seconds in the place of 20 and 600."""
    code = (
        "import sys, bench.import_watch as watch; from bench.cli.main import main; "
        f"watch.NOTE_SECONDS, watch.IMPORT_SECONDS, watch._LOCKED_SECONDS = {note}, {limit}, 0.3; "
        f"sys.exit(main(['list', {str(path)!r}]))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "place"), [(SLEEPS, r"hanging\.py:[45]"), (INNER, r"hanging\.py:5, in \S+threading\.py:\d+")]
)
def test_an_import_that_hangs_is_told_with_its_line_and_ended(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "hanging.py"
    path.write_text(text)
    done = command(path, note=0.3, limit=0.9)
    note, failure = done.stderr.splitlines()
    assert done.returncode == 2 and str(path) in note
    assert re.search(rf"its import takes long: it stands at \S*{place} after 0\.3 s$", note)
    assert re.search(
        rf"hangs at its import: it stands at \S*{place} after 0\.9 s\. Expected a module that only", failure
    )


@pytest.mark.slow
def test_one_that_lets_no_thread_speak_is_ended_by_a_dump_of_its_stack(tmp_path: Path) -> None:
    path = tmp_path / "locked.py"
    path.write_text(LOCKED)
    done = command(path, note=0.1, limit=0.2)
    assert done.returncode == 1 and f'File "{path}", line 3 in <module>' in done.stderr


@pytest.mark.slow
def test_one_that_ends_is_left_alone_however_long_the_command_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"  # is listed alone: its step is never made
    lines = "    name = 'slow'\n\n    def step(self, update):\n        raise NotImplementedError\n"
    path.write_text(f"import time\n\nfrom bench.api import Method\n\ntime.sleep(0.5)\n\n\nclass Slow(Method):\n{lines}")
    done = command(path, note=0.2, limit=30)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert f"{path}:5 after 0.2 s" in done.stderr and "Slow" not in done.stderr and "slow" in done.stdout
