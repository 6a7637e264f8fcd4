"""The commands in turn on the smallest world: run, run again, report, check, sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli.main import main

SMALL = """
extends: smoke
name: small
methods: [sft, soar+flowgrpo]
budget: 400
task:
  scorers: [scenes-geneval, scenes-ocr, scenes-aesthetic]
  reward: scenes-aesthetic
  select: scenes-geneval
  candidates: 64
evaluation:
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


def test_from_a_run_to_its_report_and_samples(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(f"{SMALL}model: {tiny_pipeline}\n")
    results, report = tmp_path / "results", tmp_path / "results" / "small" / "REPORT.md"
    run = ["run", "--preset", str(tmp_path / "small.yaml"), "--results", str(results), "--workers", "1"]
    assert main(run) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "alignment/soar+flowgrpo/seed0" in out and "done, " in out
    assert str(report) in out and str(results / "small" / "figures" / "samples-alignment.png") in out
    page = results / "small" / "report.html"
    assert not (tmp_path / "REPORT.md").exists() and (results / "small" / ".gitignore").is_file()
    assert not (results / "small" / "progress.json").exists()
    assert out.splitlines()[-1].split() == ["open", str(page)] and b"</html>" in page.read_bytes()

    record = results / "small" / "alignment" / "sft" / "seed0" / "record.jsonl"
    before, text = record.read_bytes(), report.read_text()
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "done, " not in out and "nothing to run" in out
    assert (record.read_bytes(), report.read_text()) == (before, text)

    check = ["report", "--results", str(results), "--check"]
    assert main(check) == 0
    report.write_text(text.replace("sft", "sfft"))
    assert main(check) == 1
    assert main(check[:-1]) == 0 and report.read_text() == text

    for other in (["--budget", "801"], ["--train.learning_rate", "1e-3"]):  # other settings need another name
        assert main([*run, *other]) == 2
        assert "another" in capsys.readouterr().err

    grids = []
    for number, checkpoint in enumerate(([str(record.parent)], [str(record.parent / "checkpoint" / "model")], [])):
        grids.append(tmp_path / f"{number}.png")
        options = ["--model", str(tiny_pipeline), "--out", str(grids[-1]), "--steps", "2", "--samples", "1"]
        assert main(["sample", *checkpoint, *options]) == 0
    trained, same, base = (path.read_bytes() for path in grids)
    assert trained == same != base


BROKEN = '''
from bench.api import Method

class Broken(Method):
    """A method that fails at once."""
    name = "broken"

    def step(self, env):
        raise ValueError("out of ideas")
'''


def test_a_failed_cell_is_told_and_recorded_and_the_others_go_on(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(f"{SMALL}model: {tiny_pipeline}\n")
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    results = tmp_path / "results"
    run = ["run", "--preset", str(tmp_path / "small.yaml"), "--results", str(results), "--methods", f"{broken},sft"]
    assert main([*run, "--seeds", "[3]", "--task.train_prompts=8"]) == 1
    out, error = capsys.readouterr()
    assert "method 'broken' in step() raised ValueError: out of ideas" in out
    assert "1 cells failed" in error and str(results / "small" / "REPORT.md") in out
    cells = {path.parent.parent.name: path for path in (results / "small" / "alignment").glob("*/seed*/record.jsonl")}
    ends = {name: json.loads(path.read_text().splitlines()[-1]) for name, path in cells.items()}
    assert {name: end["status"] for name, end in ends.items()} == {"base": "done", "sft": "done", "broken": "failed"}
    assert cells["broken"].parent.name == "seed3"
    assert "out of ideas" in (results / "small" / "REPORT.md").read_text()
    header = json.loads((results / "small" / "experiment.json").read_text())
    assert header["command"].endswith("broken.py,sft --seeds '[3]' --task.train_prompts=8")
