"""Which changes of code make finished cells foreign: those of modules that their workers really imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.registry import ROOT
from bench.results.records.schema import Cell, End
from bench.results.records.writer import read_events
from tests.support.cells import options
from tests.support.synthetic_results import as_schema_1

CELLS = ("alignment/base/seed0", "alignment/sft/seed0")


@pytest.fixture(scope="module")
def checkout(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, with a finished run of theirs in `results`."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("bench", "methods", "rewards"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = run(folder, tiny_pipeline)
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, pipeline: Path) -> subprocess.CompletedProcess[str]:
    settings = options(pipeline, methods=["sft"], name="tiny", workers=1)
    command = [sys.executable, "-m", "bench", "run", "--preset", "smoke", *settings]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def touch(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")


def test_sources_are_those_that_the_worker_imported(checkout: Path) -> None:
    for name in CELLS:
        events = read_events(checkout / "results" / "tiny" / name)
        assert isinstance(events[0], Cell) and isinstance(events[-1], End)
        made, late = events[0].provenance, events[-1].sources
        sources = made.sources | late
        assert made.covers == "imported" and "bench/training/evaluate.py" in sources
        assert "rewards/scenes_geneval.py" in sources and "rewards/pickscore.py" not in sources
        assert not any(n.startswith(("bench/cli", "bench/results/report", "bench/preflight")) for n in sources)
        lazily = ("bench/datasets/scenes", "bench/models/families/", "rewards/", "methods/")
        assert all(n.startswith(lazily) for n in late), late
    assert "methods/sft.py" in sources and "methods/soar.py" not in sources


def test_other_code_of_reports_commands_and_unused_rewards_leaves_nothing_to_do(
    checkout: Path, tiny_pipeline: Path
) -> None:
    for name in ("bench/results/report/document.py", "bench/cli/run.py", "rewards/pickscore.py", "methods/soar.py"):
        touch(checkout / name)
    again = run(checkout, tiny_pipeline)
    assert again.returncode == 0, again.stderr
    assert "all cells are recorded in results/tiny: nothing to run" in again.stdout.replace("\n", " ")


def test_other_code_of_training_is_told(checkout: Path, tiny_pipeline: Path) -> None:
    before = (checkout / "bench/training/env.py").read_text(encoding="utf-8")
    touch(checkout / "bench/training/env.py")
    again = run(checkout, tiny_pipeline)
    (checkout / "bench/training/env.py").write_text(before, encoding="utf-8")
    assert again.returncode == 2
    assert "2 cells in results/tiny were made by other code" in again.stderr
    assert "differs in bench/training/env.py)" in again.stderr


def test_cells_of_the_older_kind_of_hash_are_read_and_told(checkout: Path, tiny_pipeline: Path) -> None:
    as_schema_1(checkout / "results" / "tiny")
    for name in CELLS:
        record = checkout / "results" / "tiny" / name / "record.jsonl"
        record.write_text(record.read_text(encoding="utf-8").replace('"covers": "imported", ', ""), encoding="utf-8")
    again = run(checkout, tiny_pipeline)
    assert again.returncode == 0, again.stderr
    assert "2 cells have the older kind of source hash" in again.stdout.replace("\n", " ")
