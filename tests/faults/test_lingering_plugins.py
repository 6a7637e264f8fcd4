"""Methods and rewards that leave threads and processes behind: the run ends, and its records are as without them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bench.cli.main import main
from bench.process_end import EXIT_SECONDS
from bench.results.records.writer import CellRecord
from tests.faults.test_bad_inputs import CELL, METHOD, command

LIVES = 300.0  # seconds that what is left behind would live
LEFT = {
    "threading": "__import__('threading').Thread(target=__import__('time').sleep, args=({lives},)).start()",
    # A child of multiprocessing, which Python waits for at the end as for a thread
    "spawning": "__import__('multiprocessing').get_context('fork').Process(target=left_behind).start()",
    "forking": "__import__('os').fork() or left_behind()",
    "returning": "__import__('os').fork()",
    "raising": "if __import__('os').fork() == 0: raise SystemExit(0)",
}
HEAD = """
import os, time

def left_behind():
    with open({told!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep({lives})
    os._exit(0)

"""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    """The ids of the processes that are left behind, which end with the test."""
    path = tmp_path / "told"
    path.touch()
    yield path
    for line in path.read_text().splitlines():
        os.kill(int(line), signal.SIGKILL)


def facts(record: Path) -> list[dict[str, object]]:
    """What happened in a cell, whatever the name of its method, which is in all hashes of lines."""
    events = [json.loads(line) for line in record.read_text().splitlines()]
    return [{key: value for key, value in event.items() if key not in ("sources", "hash")} for event in events[1:]]


def test_a_run_ends_and_its_records_are_as_without_them(tiny_pipeline: Path, tmp_path: Path, told: Path) -> None:
    for name, left in {"plain": "pass", **LEFT}.items():
        body = METHOD.format(name=name, body=left.format(lives=LIVES), end="env.update()")
        (tmp_path / f"{name}.py").write_text(HEAD.format(told=str(told), lives=LIVES) + body)
    methods = ",".join(str(tmp_path / f"{name}.py") for name in ("plain", *LEFT))
    begin = time.monotonic()
    assert main(command(tmp_path, tiny_pipeline, "--methods", methods, "--workers", "3")) == 0
    assert time.monotonic() - begin < 60 + 2 * EXIT_SECONDS
    assert len(told.read_text().splitlines()) == 4  # two updates of two methods
    records = {name: Path(str(CELL).replace("sft", name)) / "record.jsonl" for name in ("plain", *LEFT)}
    plain = facts(tmp_path / records.pop("plain"))
    assert [event["kind"] for event in plain].count("end") == 1 and plain[-1]["status"] == "done"
    for name, record in records.items():
        assert facts(tmp_path / record) == plain, name
        assert CellRecord((tmp_path / record).parent).status() == "done"
    main(command(tmp_path, tiny_pipeline, "--methods", methods))  # nobody holds a lock


REWARD = """
import threading, time
import numpy as np
from bench.api import Reward

class Lingering(Reward):
    name = "lingering"
    reads_prompts = False

    def __call__(self, images, prompts, metadata):
        threading.Thread(target=time.sleep, args=({lives},), name="left-behind").start()
        return np.zeros(len(images))
"""


def test_a_command_ends_although_a_thread_lives_on(tmp_path: Path) -> None:
    (tmp_path / "lingering.py").write_text(REWARD.format(lives=LIVES))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    given = ["score", "--reward", "lingering.py", "--images", "pictures", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *given], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.returncode == 0 and "1 of 1 pictures judged" in done.stdout
    assert done.stderr.endswith("bench: ended while left-behind was still at work\n")
