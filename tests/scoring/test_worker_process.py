"""A scorer in a process of its own: what it is sent, what comes back, and every way in which it can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.api import CheckpointMissing, DataError, PluginError
from bench.scoring.scorer import Scorer
from bench.scoring.workers.pinned_environment import PinnedEnvironment
from bench.scoring.workers.worker_process import WorkerLimits, WorkerProcess
from rewards.imagereward import PINS, ImageReward

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import os, signal, sys, time

print("a package greets its user")

def score(images, prompts, metadata):
    print("and goes on talking", flush=True)
    return [float(i.mean()) + 10 * len(p) + m.get("add", 0) for i, p, m in zip(images, prompts, metadata)]

def about(name):
    return {"variable": os.environ.get(name), "harness": "bench" in sys.modules, "id": os.getpid(), "path": sys.path}

def fail(how):
    if how == "raise":
        raise ZeroDivisionError("no such luck")
    if how == "exit":
        print("my last words", file=sys.stderr, flush=True)
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def hold(mebibytes):
    return len(bytearray(mebibytes << 20))
"""
PICTURES = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)  # means 5.5 and 17.5


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def process(worker: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess("mine", Path(sys.executable), worker, WorkerLimits(call_seconds=30))
    yield process
    process.close()


def test_scores_come_back_as_the_worker_gave_them(process: WorkerProcess) -> None:
    metadata = [{}, {"add": 0.25}]
    scores = process.scores(PICTURES, ["é", "漢\n字"], metadata)
    assert scores.dtype == np.float32 and scores.tolist() == [15.5, 47.75]
    # the picture itself arrives, not the memory that a view of it looks at
    assert process.scores(PICTURES[::-1], ["", ""], metadata).tolist() == [17.5, 5.75]
    assert process.scores(PICTURES[:, :, ::-1, ::2], ["", ""], metadata).tolist() == [5.5, 17.75]
    assert process.scores(PICTURES[:0], [], []).shape == (0,)


def test_the_worker_has_its_own_threads_and_none_of_the_harnesss_packages(
    worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    process = WorkerProcess("mine", Path(sys.executable), worker, WorkerLimits(threads=3))
    assert process.call("about", name="OMP_NUM_THREADS")["variable"] == "3"
    found = process.call("about", name="PYTHONPATH")
    assert found["variable"] is None and found["harness"] is False
    assert not {str(ROOT), str(ROOT / "bench" / "scoring" / "workers")} & set(found["path"])
    process.close()


@pytest.mark.slow
def test_memory_is_bounded_for_the_worker_alone(worker: Path) -> None:
    process = WorkerProcess("mine", Path(sys.executable), worker, WorkerLimits(memory_mib=600))
    assert process.call("hold", mebibytes=50) == 50 << 20
    with pytest.raises(PluginError, match=r"reward 'mine': hold\(\) in its worker process raised MemoryError"):
        process.call("hold", mebibytes=700)
    assert len(bytearray(700 << 20)) == 700 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raise", r"fail\(\) in its worker process raised ZeroDivisionError: no such luck \(.*worker.py:\d+\)$"),
        ("exit", r"its worker process ended with status 3 in fail\(\); it said last: a package .* \| my last words$"),
        ("kill", r"its worker process was ended by SIGKILL in fail\(\)"),
        ("hang", r"hangs: fail\(\) has not ended after 0.7 s, so its worker was ended"),
    ],
)
def test_a_call_that_fails_is_one_message(worker: Path, how: str, told: str) -> None:
    process = WorkerProcess(
        "mine", Path(sys.executable), worker, WorkerLimits(call_seconds=0.7 if how == "hang" else 30)
    )
    begin = time.monotonic()
    with pytest.raises(PluginError, match=told):
        process.call("fail", how=how)
    assert time.monotonic() - begin < 10
    with pytest.raises(PluginError, match="its worker process"):  # it is over, and says so again
        process.scores(PICTURES, ["", ""], [{}, {}])


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ("[1.0]", "expected 2 scores from its worker process, got 1"),
        ("[[1.0], [2.0]]", r"expected a list of numbers from its worker process, got \[\[1.0\], \[2.0\]\]"),
        ("1.0", "expected a list of numbers from its worker process, got 1.0"),
        ("[True, False]", "expected a list of numbers"),
        ("images", "raised TypeError: Object of type ndarray is not JSON serializable"),
    ],
)
def test_scores_of_another_shape_are_refused(worker: Path, scores: str, told: str) -> None:
    worker.write_text(f"def score(images, prompts, metadata):\n    return {scores}\n")
    with pytest.raises(PluginError, match=told):
        WorkerProcess("mine", Path(sys.executable), worker).scores(PICTURES, ["", ""], [{}, {}])


@pytest.mark.parametrize("said", ["hello\n", "[1]\n", '{"result": 1', '{"result": 1, "error": 2}\n', "{}\n"])
def test_a_process_that_speaks_another_language_is_refused(
    said: str, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.py"
    other.write_text(f"print({said!r}, end='')")
    monkeypatch.setattr("bench.scoring.workers.worker_process.WORKER_MAIN", other)
    told = f"expected a line of JSON from its worker process, got {said.encode()!r}"
    with pytest.raises(PluginError, match=re.escape(told)):
        WorkerProcess("mine", Path(sys.executable), worker).scores(PICTURES, ["", ""], [{}, {}])


@pytest.mark.slow
def test_the_worker_ends_with_its_parent(worker: Path) -> None:
    """However the parent ended, and whatever the worker is at."""
    code = (
        "import sys; from pathlib import Path; from bench.scoring.workers.worker_process import WorkerProcess as W\n"
        f"w = W('mine', Path(sys.executable), Path({str(worker)!r}))\n"
        "print(w.call('about', name='HOME')['id'], flush=True); w.call('fail', how='hang')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    process = int(parent.stdout.readline())
    assert is_alive(process)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    end = time.monotonic() + 10
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(process)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_another_process_computes_is_charged() -> None:
    class InProcess(ImageReward):
        def __call__(self, images, prompts, metadata):  # type: ignore[no-untyped-def]
            return np.zeros(len(images))

    reward = InProcess()
    reward.worker_flops = 12e9
    scorer = Scorer(reward)
    scorer.measure(PICTURES[0], "", {})
    assert scorer.flops == 12e9


# Environments


def pinned(folder: Path, **files: str) -> PinnedEnvironment:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.replace('_', '-')}.txt").write_text(text)
    return PinnedEnvironment("mine", folder)


def test_the_environment_lies_by_its_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    first = pinned(tmp_path / "pins", dependencies="a==1\n").home
    assert first.parent == tmp_path / "cache" / "envs" and re.fullmatch("[0-9a-f]{16}", first.name)
    assert pinned(tmp_path / "same", dependencies="a==1\n").home == first
    others = [
        pinned(tmp_path / "pins", dependencies="a==2\n").home,
        pinned(tmp_path / "other", without_dependencies="a==1\n").home,
        pinned(tmp_path / "pins", dependencies="a==1\n", without_dependencies="b==1\n").home,
    ]
    assert len({first, *others}) == 4
    with pytest.raises(CheckpointMissing, match=r"has not been built: `python -m bench reward-env mine` builds it"):
        pinned(tmp_path / "pins").python()


@pytest.mark.slow
def test_a_built_environment_is_found_and_one_step_that_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    environment, said = pinned(tmp_path / "pins", dependencies=f"{tmp_path}/nowhere.whl\n"), list[str]()
    with pytest.raises(DataError) as caught:
        environment.build(said.append)
    told = str(caught.value)
    assert told.startswith("reward-env mine: packages of dependencies.txt failed with status 1 under Python 3.")
    assert "nowhere.whl" in told and "gigabytes free" in told and said[0] == "== an empty environment"
    with pytest.raises(CheckpointMissing):
        environment.python()
    environment.home.joinpath("built.json").write_text("{}")
    assert environment.build(said.append) == environment.home and said[-1].endswith("built from the same pins")
    assert environment.python().is_file()


def test_every_package_of_imagereward_is_pinned() -> None:
    lines = [line for path in sorted(PINS.glob("*.txt")) for line in path.read_text().splitlines()]
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9.a-z]*", pin) for pin in pins)
    assert {"torch==2.13.0", "image-reward==1.5", "transformers==4.36.2", "fairscale==0.4.13"} <= set(pins)


def test_imagereward_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "weights"))
    for ask in (ImageReward.require_checkpoint, ImageReward().load):
        with pytest.raises(CheckpointMissing, match="`python -m bench reward-env imagereward` builds it"):
            ask()
    home = PinnedEnvironment("imagereward", PINS).home
    home.mkdir(parents=True)
    (home / "built.json").write_text(json.dumps({}))
    for ask in (ImageReward.require_checkpoint, ImageReward().load):
        with pytest.raises(
            CheckpointMissing, match=r"zai-org/ImageReward: expected ImageReward.safetensors, med_config"
        ):
            ask()
    assert os.environ["BENCH_CACHE"] == str(tmp_path)
