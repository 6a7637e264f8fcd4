"""Say whether this machine is fit, and with --tune how to use it best."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from bench import registry
from bench.api import BenchError, ConfigError
from bench.cli.catalogue import entries
from bench.cli.experiment_options import add_results
from bench.package_conflicts import package_conflicts

EPILOG = """Examples:
  bench doctor
  bench doctor --tune machine.yaml"""

NEEDED_GIB = 4.0
THREADS = (1, 2)
PASSES = (32, 64, 128, 256)  # rows of a forward pass
WORTHWHILE = 1.2  # times as quick: what another precision has to gain
DISTRIBUTION = "post-training-bench"
_SHOWN = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pandas", "matplotlib", "pydantic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_results(parser)
    parser.add_argument(
        "--tune", type=Path, nargs="?", const=Path("machine.yaml"), metavar="FILE",
        help="measure, and write workers, threads, precision and chunk sizes into FILE (default machine.yaml); "
        "`run --config FILE` reads it, a run never chooses by itself",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 where something stops a run."""
    return examine_machine(args.results) if args.tune is None else tune(args.tune)


@dataclass(frozen=True)
class MachineFinding:
    """One line: `bad` stops a run, `warn` may spoil it."""

    level: Literal["ok", "warn", "bad"]
    text: str


def examine_machine(results: Path) -> int:
    """Print what was found; returns 1 where something stops a run, else 0."""
    bad = 0
    for check in (_versions, _machine, _torchvision, _packages, _plugins):
        for finding in check():
            bad += finding.level == "bad"
            print(f"{finding.level:<4}  {finding.text}", flush=True)
    for finding in (*_writable(results), *_throughput()):
        bad += finding.level == "bad"
        print(f"{finding.level:<4}  {finding.text}", flush=True)
    print(f"\nnot fit yet: {bad} of these stop a run" if bad else "\nthis machine is fit")
    return 1 if bad else 0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Memory that this process may use, the container's limit included; None where the system does not say."""
    if not hasattr(os, "sysconf"):
        return None
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        amounts.append(int(limit.read_text()))
    return min(amounts) / 2**30


def _versions() -> Iterator[MachineFinding]:
    yield MachineFinding("ok", f"python {platform.python_version()}, {platform.platform()}")
    found, missing = [], []
    for name in _SHOWN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield MachineFinding("ok", ", ".join(found))
    if missing:
        yield MachineFinding("bad", f"not installed: {', '.join(missing)}; run pip install -e .")
    try:
        requires(DISTRIBUTION)
    except PackageNotFoundError:
        yield MachineFinding(
            "bad", f"{DISTRIBUTION} itself is not installed, so no plugin is registered: pip install -e ."
        )


def _machine() -> Iterator[MachineFinding]:
    count, gib = cores(), memory_gib()
    yield MachineFinding(
        "ok" if count >= 2 else "warn", f"{count} cores; the default uses 2 worker processes of one thread"
    )
    if gib is not None:
        yield MachineFinding(
            "ok" if gib >= NEEDED_GIB else "warn", f"{gib:.1f} GiB of memory; the default needs {NEEDED_GIB:g}"
        )
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * count:
        yield MachineFinding(
            "warn", f"load average {os.getloadavg()[0]:.1f}: other processes compete, timings will be too low"
        )
    yield from _torch()


def _torch() -> Iterator[MachineFinding]:
    import torch

    build = "CUDA " + str(torch.version.cuda) if torch.version.cuda else "CPU"
    yield MachineFinding("ok", f"torch is a {build} build, {torch.get_num_threads()} threads by default")
    if torch.cuda.is_available():
        yield MachineFinding("ok", f"GPU: {torch.cuda.get_device_name(0)}")
    elif torch.version.cuda:
        yield MachineFinding("warn", "a CUDA build of torch without a GPU: it works, and takes gigabytes of disk")


def _torchvision() -> Iterator[MachineFinding]:
    if importlib.util.find_spec("torchvision") is None:
        yield MachineFinding("ok", "torchvision is not installed, and not needed")
        return
    command = [sys.executable, "-c", "import torchvision"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        yield MachineFinding("ok", "torchvision is installed and fits torch")
        return
    reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
    yield MachineFinding(
        "bad", f"torchvision does not fit this torch and breaks diffusers and transformers: pip uninstall it ({reason})"
    )


def _packages() -> Iterator[MachineFinding]:
    problems = package_conflicts()
    yield from (MachineFinding("bad", problem) for problem in problems)
    if not problems:
        yield MachineFinding("ok", "packages methods and rewards are ours")


def _plugins() -> Iterator[MachineFinding]:
    for group, kind in ((registry.METHODS, "methods"), (registry.REWARDS, "rewards")):
        found = entries(group)
        for entry in found:
            if entry.problem:
                yield MachineFinding("bad", f"{kind} {entry.name}: {entry.problem}")
        level: Literal["ok", "bad"] = "ok" if found else "bad"
        yield MachineFinding(level, f"{len(found)} {kind} registered: {', '.join(entry.name for entry in found)}")


def _writable(results: Path) -> Iterator[MachineFinding]:
    folder = results.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        yield MachineFinding("bad", f"cannot write into {folder}: {error.strerror}")
    else:
        yield MachineFinding("ok", f"{results} can be written")


def _throughput() -> Iterator[MachineFinding]:
    from bench.datasets.worlds import load_world
    from bench.models.policy import PipelinePolicy
    from bench.preflight.forecast.throughput import forward_rate, threads, training_rate

    try:
        policy = PipelinePolicy.load(load_world("scenes").model)
    except BenchError as error:
        yield MachineFinding("bad", str(error))
        return
    for count in THREADS:
        with threads(count):
            forward, training = forward_rate(policy, 64), training_rate(policy, 32)
        yield MachineFinding(
            "ok", f"{count} thread{'s' if count > 1 else ''}: {forward:,.0f} forward passes/s, {training:,.0f} forward "
            "and backward passes/s",
        )  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """Samples per second: forward and training (forward and backward) by batch size, on one thread; both in bfloat16,
    and training of 32 samples in float32 on all cores as threads."""

    forward: dict[int, float]
    training: dict[int, float]
    forward_bfloat16: dict[int, float]
    bfloat16: float
    threaded: float

    @property
    def chunk(self) -> int:
        """The samples of the quickest forward pass."""
        return max(self.forward, key=self.forward.__getitem__)


def tune(path: Path) -> int:
    """Measure, and write workers, threads, precision and chunk sizes into a YAML file; returns 0.

    Raises:
        ConfigError: the file exists, or has no .yaml name.
        DataError: the embedded base is missing.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--tune {path}: expected a name that ends with .yaml")
    if path.exists():
        raise ConfigError(f"--tune {path}: the file exists; remove it or give another name")
    count = cores()
    rates = _measure(count)
    for size, rate in rates.forward.items():
        print(f"forward, {size} samples a pass: {rate:,.0f}/s")
    for size, rate in rates.training.items():
        print(f"forward and backward, {size} samples a pass: {rate:,.0f}/s")
    for size, rate in rates.forward_bfloat16.items():
        print(f"forward in bfloat16, {size} samples a pass: {rate:,.0f}/s")
    print(f"forward and backward in bfloat16: {rates.bfloat16:,.0f}/s")
    print(f"forward and backward on {count} threads: {rates.threaded:,.0f}/s")
    text = _configuration(rates, count, sampling=_sampling_precision(rates))
    path.write_text(text, encoding="utf-8")
    print(f"\n{path}\n{text}\nuse it: python -m bench run --config {path}")
    return 0


def _measure(count: int) -> Rates:
    from bench.datasets.worlds import load_world
    from bench.models.policy import PipelinePolicy
    from bench.preflight.forecast.throughput import forward_rate, threads, training_rate

    policy = PipelinePolicy.load(load_world("scenes").model)
    with threads(1):
        forward = {size: forward_rate(policy, size) for size in PASSES}
        training = {size: training_rate(policy, size) for size in (8, 16, 32)}
        with policy.in_precision("bfloat16"):
            forward_half = {size: forward_rate(policy, size) for size in PASSES}
            half = training_rate(policy, 32)
    with threads(count):
        return Rates(forward, training, forward_half, half, threaded=training_rate(policy, 32))


def _sampling_precision(rates: Rates) -> str | None:
    """bfloat16 where sampling gains more than a fifth by it and no score moves beyond its margin; else None."""
    gain = rates.forward_bfloat16[rates.chunk] / rates.forward[rates.chunk]
    if gain <= WORTHWHILE:
        print(f"sampling in bfloat16: {gain:.2f} times as quick, so it is not proposed")
        return None
    from bench.preflight.precision import changes_in

    changes = changes_in("bfloat16")
    for change in changes:
        print(f"{change.scorer}: {change.difference:+.4f} by sampling in bfloat16, margin {change.margin:g}")
    return "bfloat16" if all(change.agrees for change in changes) else None


def _configuration(rates: Rates, count: int, sampling: str | None) -> str:
    """The YAML text: processes of one thread unless threads are quicker, bfloat16 where it gains more than a fifth."""
    separate = rates.threaded < count * rates.training[32]
    precision = "bfloat16" if rates.bfloat16 > WORTHWHILE * rates.training[32] else "float32"
    micro_batch = max(rates.training, key=rates.training.__getitem__)
    lines = [
        f"# Measured by `bench doctor --tune` on {count} cores. A run uses it only when told: run --config FILE.",
        "# Threads, precision and chunk sizes are in the numbers' last digits, so they are recorded with the results.",
        f"workers: {count if separate else 1}",
        f"threads: {1 if separate else count}",
        f"train: {{micro_batch: {micro_batch}, precision: {precision}}}",
        f"evaluation: {{batch_size: {rates.chunk // 2}, precision: {sampling or 'null'}}}  # two rows for each sample",
    ]
    return "\n".join(lines) + "\n"
