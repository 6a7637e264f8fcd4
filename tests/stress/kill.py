"""Kills a real run at random points, starts it again, and compares what it ends with to a run that nobody touched.

    python tests/stress/kill.py --points 50

Parent and workers are killed by SIGKILL, the parent by SIGTERM and SIGINT, and the whole group by each of them, as a
terminal or a cluster's scheduler does it: anywhere between the start and the end of the run. After every kill all
processes of the run have to end by themselves. Takes about 15 seconds a point.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bench.config.job import CellJob

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds in which a killed run's processes have to end, on a machine with other work to do
KILLS_OF_ONE_RUN = 6

SETTINGS = """
extends: smoke
name: killed
methods: [sft, soar+flowgrpo]
budget: 600
task:
  scorers: [scenes-geneval, scenes-ocr, scenes-aesthetic]
  reward: scenes-aesthetic
  select: scenes-geneval
  candidates: 64
train: {ema_half_life: 0.2, caption_dropout: 0.3}
evaluation:
  milestones: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
  milestone_prompts: 4
  final_prompts: 6
  held_out_prompts: 2
  diversity_prompts: 0
  grid_prompts: 2
  grid_steps: [2]
  drift_states: 4
  pictures: 2
  steps: 2
"""


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    command: str


def digests(experiment: Path) -> dict[str, str]:
    """Hashes of every deterministic file of an experiment's cells, final weights included, by relative path."""
    found = {}
    for path in sorted(experiment.glob("*/*/seed*/**/*")):
        if path.is_file() and path.name not in ("telemetry.jsonl", "cell.lock"):
            found[str(path.relative_to(experiment))] = hashlib.blake2b(path.read_bytes()).hexdigest()
    return found


def command(settings: Path, results: Path) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "bench", "run", "--preset", str(settings), "--results", str(results)]


def start(settings: Path, results: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own, by which its processes are found again."""
    with output.open("wb") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            command(settings, results), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment,
        )  # fmt: skip


def session(leader: int) -> list[Process]:
    """The living processes of a session, its leader included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, owner = stat.read_text().rpartition(")")[2].split()[:4]
            text = stat.with_name("cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if int(owner) == leader and state != "Z":
            found.append(Process(int(stat.parent.name), int(parent), text))
    return found


def workers(leader: int) -> list[int]:
    """The workers of a run: the children of its fork server."""
    processes = session(leader)
    servers = {p.pid for p in processes if p.parent == leader and "forkserver" in p.command}
    return [p.pid for p in processes if p.parent in servers]


def wait_for(what: Any, seconds: float) -> bool:
    """Whether `what()` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return bool(what())


def kill_cell(job: CellJob, kind: str, number: int) -> None:
    """Run a cell in this process, with a checkpoint after every update, that ends by SIGKILL.

    It ends before it posts its `number`-th event of a kind; `rename`: after writing and before renaming that file.
    """
    from bench.experiments import cell as runner

    runner.CHECKPOINT_SECONDS = 0.0
    post, replace = killed_at(kind, number), Path.replace

    def counted_replace(self: Path, target: Path) -> Path:
        post({"event": "rename"})
        return replace(self, target)

    Path.replace = counted_replace  # type: ignore[method-assign, assignment]
    runner.run_cell(job, post)


def killed_at(kind: str, number: int) -> Callable[[dict[str, Any]], None]:
    """Takes the events of a cell; ends this process by SIGKILL at the `number`-th of a kind, loading apart."""
    seen = 0

    def post(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += event["event"] == kind and event.get("part") != "load()"
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return post


def _strike(run: subprocess.Popen[bytes], choice: random.Random) -> str:
    """Send one signal to the run; says which to whom."""
    name, number = choice.choice([("SIGKILL", signal.SIGKILL), ("SIGTERM", signal.SIGTERM), ("SIGINT", signal.SIGINT)])
    living = workers(run.pid)
    if choice.random() < 0.4:
        os.killpg(run.pid, number)  # a session's leader leads its group too
        return f"{name} to the whole group"
    if name == "SIGKILL" and living and choice.random() < 0.5:
        os.kill(choice.choice(living), signal.SIGKILL)
        return "SIGKILL to a worker"
    run.send_signal(number)
    return f"{name} to the parent"


def _kill_once(settings: Path, results: Path, output: Path, delay: float, choice: random.Random) -> str | None:
    """Run, and kill after `delay` seconds of work; None where the run was quicker."""
    run = start(settings, results, output)
    wait_for(lambda: b"starts" in output.read_bytes() or run.poll() is not None, 600.0)
    if wait_for(lambda: run.poll() is not None, delay):
        return None
    struck = _strike(run, choice)
    status = run.wait(600.0)
    if not wait_for(lambda: not session(run.pid), PATIENCE):
        raise SystemExit(f"{struck}: {session(run.pid)} live on after the run")
    return f"{struck} after {delay:.2f} s, exit status {status}"


def main() -> int:
    """Kill at `--points` points; 0 where every run ended as the one that nobody touched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choice = random.Random(options.seed)
    sys.path.insert(0, str(ROOT))
    from tests.support.tiny_world import build_pipeline

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["BENCH_CACHE"] = str(folder / "cache")
        settings, output = folder / "killed.yaml", folder / "output.txt"
        settings.write_text(f"{SETTINGS}model: {build_pipeline(folder / 'pipeline')}\n")
        whole, seconds = _uninterrupted(settings, folder / "whole", output)
        print(f"uninterrupted: {len(whole)} files, {seconds:.1f} s of work", flush=True)
        done, round_ = 0, 0
        while done < options.points:
            round_ += 1
            results = folder / f"round{round_}"
            for _ in range(min(KILLS_OF_ONE_RUN, options.points - done)):
                # The first run alone had to make the curated data, so others are quicker
                told = _kill_once(settings, results, output, choice.uniform(0.0, 0.6 * seconds), choice)
                if told is None:
                    break
                done += 1
                print(f"{done:3d}  {told}", flush=True)
            parts, _ = _uninterrupted(settings, results, output)
            different = sorted(name for name in {*whole, *parts} if whole.get(name) != parts.get(name))
            if different:
                print(f"round {round_} differs in {', '.join(different)}")
                return 1
            print(f"round {round_}: the same {len(parts)} files, bit for bit", flush=True)
    return 0


def _uninterrupted(settings: Path, results: Path, output: Path) -> tuple[dict[str, str], float]:
    """Run to the end; the files' hashes, and the seconds from the first cell's start on."""
    run = start(settings, results, output)
    wait_for(lambda: b"starts" in output.read_bytes() or run.poll() is not None, 600.0)
    begin = time.monotonic()
    if run.wait(3600.0) != 0:
        raise SystemExit(f"the run failed:\n{output.read_text()}")
    return digests(results / "killed"), time.monotonic() - begin


if __name__ == "__main__":
    raise SystemExit(main())
