"""Cells whose scorers run in processes of their own: the same numbers, and one message where a scorer fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.api import ConfigError, PluginError
from bench.cli import check as command
from bench.results.records.writer import CellRecord
from tests.support.cells import GOLD, experiment, facts, run

MORTAL = "tests.support.worker_rewards:Mortal"


def test_training_and_evaluation_find_the_same_with_scorers_in_processes(tiny_pipeline: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "methods": ["flowgrpo"], "train.micro_batch": 3, "evaluation.batch_size": 4, "task.top_share": 1.0,
        "task.reward": "0.5*scenes-aesthetic+0.5*scenes-geneval", "task.select": None,
        "evaluation.milestones": [1.0], "evaluation.grid_steps": [], "evaluation.drift_states": 0, "budget": "300",
    }  # fmt: skip
    processes = {f"scorers.{name}.threads": 1 for name in GOLD}
    found = []
    for place, more in (("here", {}), ("processes", processes)):
        e = experiment(tiny_pipeline, **settings, **more)
        run(e, tmp_path / place, "flowgrpo")
        found.append(facts(tmp_path / place / e.name / e.tasks[0].name / "flowgrpo" / "seed0"))
    here, there = found
    told = there["record.jsonl"].replace(b'"where": "process, device auto, threads 1"', b'"where": "here"')
    assert told != there["record.jsonl"] and told == here["record.jsonl"]
    assert [name for name in here if here[name] != there[name]] == ["record.jsonl"]


def test_a_scorer_that_dies_is_a_failed_record(tiny_pipeline: Path, tmp_path: Path) -> None:
    e = experiment(
        tiny_pipeline,
        **{
            "task.scorers": ["jpeg", MORTAL],
            "task.primary": "jpeg",
            "task.select": None,
            "scorers.mortal.memory": "4GiB",
        },
        **{"evaluation.batch_size": 2},
    )
    events: list[dict[str, Any]] = []
    told = r"reward 'mortal': its worker process was ended by SIGKILL in score\(\); its memory is limited to 4GiB"
    with pytest.raises(PluginError, match=told):
        events = run(e, tmp_path, "base")
    record = CellRecord(tmp_path / e.name / e.tasks[0].name / "base" / "seed0")
    assert record.status() == "failed" and not events
    assert "was ended by SIGKILL in score()" in str(record.events()[-1])


def test_where_scorers_run_changes_no_configuration(tiny_pipeline: Path) -> None:
    here = experiment(tiny_pipeline)
    there = experiment(tiny_pipeline, reward_server="http://127.0.0.1:9", **{"scorers.scenes-ocr.device": "cpu"})
    assert here.config_hash == there.config_hash and here.cell_config("alignment", "sft") == there.cell_config(
        "alignment", "sft"
    )
    assert there.scorers["scenes-ocr"].device == "cpu"


def test_the_conformance_checks_examine_a_scorer_in_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.check_plugins(["jpeg"], process=True) == 0
    assert "reward jpeg (process, device auto, threads 1)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="are for rewards, but none was named"):
        command.check_plugins(["sft"], process=True)
