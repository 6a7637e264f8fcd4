"""Nothing runs because a record says so: plugins that it names, and where its base lies."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.api import DataError
from bench.canonical import canonical_json, config_hash, hash_file
from bench.cli.main import main
from bench.config.job import CellJob
from bench.experiments.grid import experiment_header
from bench.experiments.recorded import recorded_model, replay_command, with_given_plugins
from bench.experiments.resume import cell_header
from bench.results.records.hashes import line_hash
from bench.results.records.writer import CellRecord, write_experiment_header
from tests.support.cells import experiment

CELL = Path("cell")
EVIL = "import pathlib; pathlib.Path({ran!r}).touch()\n"


def config(**changes: Any) -> dict[str, Any]:
    """What a record has of a cell's plugins."""
    task = {"primary": "jpeg", "scorers": ["jpeg"], "reward": None, "select": None, "margins": {"jpeg": 0.1}}
    stages = changes.pop("stages", [{"name": "sft", "source": "sft"}])
    return {"stages": stages, "task": task | changes}


@pytest.fixture
def cell(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A failed cell, as a stranger might send it; to be changed."""
    e = experiment(tiny_pipeline, methods=["sft"])
    write_experiment_header(tmp_path / e.name, experiment_header(e, tmp_path / e.name))
    job = CellJob(e, tmp_path, "alignment", "sft", 0)
    CellRecord(job.folder).start(cell_header(job, "cpu"))
    (job.folder / "failure").mkdir()
    (job.folder / "failure" / "batch.json").write_text('{"update": 1, "reason": "none"}')
    return job.folder


def change(cell: Path, **values: Any) -> None:
    """Other values in the recorded settings of the cell's task, or, where it has no such, of the cell."""
    event = json.loads((cell / "record.jsonl").read_text())
    for name, value in values.items():
        event["config"]["task" if name in event["config"]["task"] else name] = (
            event["config"]["task"] | {name: value} if name in event["config"]["task"] else value
        )
    (cell / "record.jsonl").write_text(canonical_json(event) + "\n")


def sealed(header: dict[str, Any]) -> str:
    """An experiment's header with the hashes that it would have been written with."""
    header = {**header, "config_hash": config_hash(header["config"])}
    return json.dumps({**header, "hash": line_hash(header, "")})


@pytest.mark.slow
@pytest.mark.parametrize(
    "named",
    [
        {"stages": "{evil}"},
        {"stages": "evil.py"},
        {"stages": "evil:Method"},
        {"reward": "{evil}:score"},
        {"select": "evil:score"},
        {"reward": "0.5*{evil}+0.5*scenes-aesthetic"},
        {"scorers": ["scenes-aesthetic", "evil.py"], "primary": "scenes-aesthetic"},
        {"scorers": ["evil:Reward"], "primary": "evil:Reward"},
    ],
)
def test_replay_runs_nothing_that_a_record_names(
    named: dict[str, Any], cell: Path, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    evil, ran = tmp_path / "evil.py", tmp_path / "ran"
    evil.write_text(EVIL.format(ran=str(ran)))
    values = json.loads(json.dumps(named).replace("{evil}", str(evil)))
    if "stages" in values:
        stages = json.loads((cell / "record.jsonl").read_text())["config"]["stages"]
        values["stages"] = [stages[0] | {"source": values["stages"]}]
    change(cell, **values)
    assert main(["replay", str(cell), "--model", str(tiny_pipeline)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"names the plugin \S*evil\S*, which is not registered here.* give it by --plugin FILE", error)
    assert not ran.exists()
    spec = "evil:score" if "evil:score" in str(named) else "evil:Method" if "stages" in named else "evil:Reward"
    given = spec if spec in str(named) else str(evil)
    assert main(["replay", str(cell), "--model", str(tiny_pipeline), "--plugin", given]) == 2  # it is no plugin at all
    assert ran.exists() and "evil" in capsys.readouterr().err


@pytest.mark.slow
def test_replay_takes_nothing_but_numbers_from_a_header(
    cell: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How and where a cell is computed, and by which methods, is none of a record's business."""
    path = cell.parents[2] / "experiment.json"
    header = json.loads(path.read_text())
    header["config"] |= {"reward_server": "http://127.0.0.1:9", "device": "cuda:7", "methods": [{"label": "x"}]}
    path.write_text(sealed(header))
    (cell / "failure" / "batch.safetensors").touch()
    assert main(["replay", str(cell), "--model", str(tiny_pipeline)]) == 0
    assert "it passes now" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["replay", "sample"])
def test_a_base_is_looked_for_in_the_project_alone_unless_it_is_given(
    command: str, cell: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = cell.parents[2] / "experiment.json"
    stored = json.loads(header.read_text())
    for model in (str(tiny_pipeline), ".../pipeline", f"../..{tiny_pipeline}"):
        change(cell, model=model)
        header.write_text(sealed(stored | {"config": stored["config"] | {"model": model}}))
        out = ["--out", str(tmp_path / "x.png")] if command == "sample" else []
        assert main([command, str(cell), *out]) == 2
        error = capsys.readouterr().err
        assert "was made from the base" in error and "say where that base lies, by --model" in error


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "checkpoint", "record.jsonl", "failure"])
def test_replay_follows_no_link(
    place: str, cell: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell / "checkpoint").mkdir(exist_ok=True)
    path = cell.parents[1] if not place else cell / place
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert main(["replay", str(cell), "--model", str(tiny_pipeline)]) == 2
    assert f"{path} is a link" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["/srv/model", ".../model", "../model", "a/../../model", "~/../x"])
def test_a_recorded_path_that_leads_out_is_not_followed(model: str) -> None:
    with pytest.raises(DataError, match=r"cell was made from the base .*: say where that base lies, by --model"):
        recorded_model(model, CELL)


def test_a_recorded_path_within_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for model, found in ((None, None), ("a/b", "a/b"), ("./a", "./a"), ("~/a", "/home/ada/a"), ("id/name", "id/name")):
        assert recorded_model(model, CELL) == found


def test_given_plugins_stand_for_the_recorded_ones(tmp_path: Path) -> None:
    mine, bright = tmp_path / "mine.py", tmp_path / "bright.py"
    mine.write_text("1")
    bright.write_text("2")
    held = {"plugin/mine.py": hash_file(mine), "plugin/bright.py": "0123456789abcdef"}
    recorded = config(
        stages=[{"name": "a", "source": "sft"}, {"name": "b", "source": ".../mine.py"}],
        reward="0.7*~/bright.py:Bright + 0.3*jpeg",
        select="standardised(1*jpeg+2*~/bright.py:Bright)",
        scorers=["jpeg", "~/bright.py:Bright"],
        margins={"~/bright.py:Bright": 0.2},
    )
    found, told = with_given_plugins(recorded, [str(mine), str(bright)], held, CELL)
    assert [stage["source"] for stage in found["stages"]] == ["sft", str(mine)]
    assert found["task"] == {
        "primary": "jpeg",
        "scorers": ["jpeg", f"{bright}:Bright"],
        "reward": f"0.7*{bright}:Bright + 0.3*jpeg",
        "select": f"standardised(1*jpeg+2*{bright}:Bright)",
        "margins": {f"{bright}:Bright": 0.2},
    }
    shown = f"--plugin {bright} is another file than was recorded: its hash is {hash_file(bright)}"
    assert told == [f"{shown}, not 0123456789abcdef"]
    assert with_given_plugins(config(), [], {}, CELL) == (config(), [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"cell names the plugin .../mine.py, bright:Bright, which is not registered"),
        (["a/mine.py"], r"cell names the plugin bright:Bright, which"),
        (["a/other.py", "bright:Bright"], r"cell names the plugin .../mine.py, which"),
        (["a/mine.py:Other", "bright:Bright"], r"cell names the plugin .../mine.py, which"),
        (["a/mine.py", "bright:Other"], r"cell names the plugin bright:Bright, which"),
        (["a/mine.py", "bright:Bright", "x.py"], r"--plugin x.py: cell names no such plugin, but .*mine.py, bright"),
    ],
)
def test_other_plugins_are_refused(given: list[str], message: str) -> None:
    recorded = config(stages=[{"name": "a", "source": "/srv/mine.py"}], reward="bright:Bright")
    with pytest.raises(DataError, match=message):
        with_given_plugins(recorded, given, {}, CELL)


@pytest.mark.parametrize("damaged", [{}, {"task": None}, {"task": {}}, {"task": {"primary": 1}}, {"stages": 3}])
def test_a_record_without_settings_is_told(damaged: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="cell: its record has no settings that can be run again"):
        with_given_plugins(damaged, [], {}, CELL)


def test_the_command_that_replays_a_cell_brings_what_its_record_does_not(tiny_pipeline: Path, tmp_path: Path) -> None:
    e = experiment(tiny_pipeline, methods=["sft"])
    job = CellJob(e, tmp_path, "alignment", "sft", 0)
    assert replay_command(job) == f"python -m bench replay {job.folder} --model {tiny_pipeline}"
