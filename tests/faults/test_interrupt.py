"""Ctrl-C as a terminal sends it, to every process of a run: one line, and the same bytes in the end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.stress.kill import ROOT, SETTINGS, command, digests, session, wait_for

SHORT = """
extends: killed.yaml
methods: [sft]
model: {model}
budget: 200
task: {{scorers: [scenes-geneval, scenes-aesthetic]}}
evaluation: {{milestones: [0.3, 0.6, 1.0]}}
"""
LINE = "bench: interrupted; the same command goes on where it stopped\n"


def begun(settings: Path, folder: Path) -> subprocess.Popen[str]:
    """The real command in a session of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command(settings, folder / "results"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "killed.yaml").write_text(SETTINGS)
    (folder / "short.yaml").write_text(SHORT.format(model=tiny_pipeline))
    return folder / "short.yaml"


def test_a_run_that_is_interrupted_says_one_line_and_reports_the_same(settings: Path, tmp_path: Path) -> None:
    record = tmp_path / "parts" / "results" / "killed" / "alignment" / "sft" / "seed0" / "record.jsonl"
    moments = [
        lambda: (tmp_path / "parts" / "results" / "killed" / "run.lock").exists(),  # the fork server still imports
        lambda: record.exists() and b'"step"' in record.read_bytes(),
    ]
    for moment in moments:
        run = begun(settings, tmp_path / "parts")
        assert wait_for(moment, 300) and run.poll() is None
        os.killpg(run.pid, signal.SIGINT)
        said = run.communicate(timeout=120)[1]
        assert (run.returncode, said) == (130, LINE)
        assert wait_for(lambda leader=run.pid: not session(leader), 60), "a process lives on"
    for folder in ("parts", "whole"):
        run = begun(settings, tmp_path / folder)
        assert run.wait(timeout=600) == 0, run.communicate()[1]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert digests(parts / "results" / "killed") == digests(whole / "results" / "killed")
    one, other = (folder / "results" / "killed" / "REPORT.md" for folder in (parts, whole))
    assert one.read_bytes() == other.read_bytes()
