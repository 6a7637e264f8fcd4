"""Cells that fail for reasons of their surroundings, and what happens when they are run again; replay."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from bench.api import BenchError
from bench.canonical import hash_file
from bench.cli.main import main
from bench.experiments import cell as runner
from bench.results.records.reader import read_experiment
from bench.results.records.schema import End
from bench.results.records.writer import RECORD, CellRecord
from tests.faults.test_bad_inputs import command, refused
from tests.support.cells import experiment, facts, run
from tests.support.user_pictures import image_folder
from tests.test_files import largest_file

REWARD = '''
from pathlib import Path
import numpy as np
from bench.api import Reward

class Service(Reward):
    """A reward that needs a file of the machine, as others need a server."""
    name = "service"

    def __call__(self, images, prompts, metadata):
        if len(images) > 1 and not Path({path!r}).exists():
            raise ConnectionError("no service")
        return images.astype(np.float32).mean((1, 2, 3)) / 255 {more}
'''


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every update."""
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)


def reason(folder: Path) -> str:
    end = CellRecord(folder).events()[-1]
    assert isinstance(end, End) and end.status == "failed"
    return end.reason or ""


def notes(events: list[dict[str, object]]) -> list[object]:
    return [event["message"] for event in events if event["event"] == "note"]


@pytest.mark.usefixtures("often")
def test_a_mended_cell_goes_on_and_one_of_other_code_begins_afresh(tiny_pipeline: Path, tmp_path: Path) -> None:
    service, plugin = tmp_path / "service", tmp_path / "service.py"
    plugin.write_text(REWARD.format(path=str(service), more=""))
    settings = {
        "flowgrpo.num_groups": 2,
        "flowgrpo.num_generations": 2,
        "task.reward": str(plugin),
        "budget": "4updates",
    }
    e = experiment(tiny_pipeline, methods=["flowgrpo"], **settings)
    service.touch()
    run(e, tmp_path / "whole", "flowgrpo")

    def going_away(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["update"] == 2:
            service.unlink()

    job = runner.CellJob(e, tmp_path / "parts", "alignment", "flowgrpo", 0)
    with pytest.raises(BenchError, match="reward 'service' on 4 pictures raised ConnectionError: no service"):
        runner.run_cell(job, going_away)
    assert "no service" in reason(job.folder)
    failed = tmp_path / "failed"
    shutil.copytree(tmp_path / "parts", failed)

    service.touch()
    events = run(e, tmp_path / "parts", "flowgrpo")
    assert notes(events) == ["failed before; goes on from update 2"]
    assert facts(job.folder) == facts(tmp_path / "whole" / e.name / job.name)

    plugin.write_text(REWARD.format(path=str(service), more="* 0.5"))
    events = run(e, failed, "flowgrpo")
    assert notes(events) == ["failed before; starts afresh"]
    again = failed / e.name / job.name
    assert facts(again).keys() == facts(job.folder).keys()
    assert (again / RECORD).read_bytes() != (job.folder / RECORD).read_bytes()  # of another plugin


def test_a_full_disk_is_told_recorded_and_gone_on_from(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = experiment(tiny_pipeline, methods=["sft"], budget="4updates")
    run(e, tmp_path / "whole", "sft")
    cell = tmp_path / "parts" / e.name / "alignment" / "sft" / "seed0"

    def fill_the_disk(event: dict[str, object]) -> None:
        if event["event"] == "start":  # the record is open: nobody may read what never ends
            (cell / "telemetry.jsonl").symlink_to("/dev/full")

    with pytest.raises(BenchError, match=r"cannot write .*telemetry.jsonl: No space left on device.*free some space"):
        runner.run_cell(runner.CellJob(e, tmp_path / "parts", "alignment", "sft", 0), fill_the_disk)
    (cell / "telemetry.jsonl").unlink()
    assert "No space left on device" in reason(cell)
    with monkeypatch.context() as patch, largest_file(200_000):  # the record fits, a checkpoint does not
        patch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(BenchError, match=r"cannot write .*0000001.safetensors: .*File too large"):
            run(e, tmp_path / "parts", "sft")
    assert "File too large" in reason(cell) and not list(cell.rglob("*.part"))
    assert notes(run(e, tmp_path / "parts", "sft")) == ["failed before; starts afresh"]
    assert facts(cell) == facts(tmp_path / "whole" / e.name / "alignment" / "sft" / "seed0")


@pytest.mark.parametrize("label", ["sft", "sft+soar"])
def test_a_budget_too_small_for_one_update(tiny_pipeline: Path, tmp_path: Path, label: str) -> None:
    e = experiment(tiny_pipeline, methods=[label], budget="20" if label == "sft" else "60")
    with pytest.raises(
        BenchError, match=r"got a budget of [23]0 cost, which is too small for one update \(.*\): raise"
    ):
        run(e, tmp_path, label)
    assert "too small for one update" in reason(tmp_path / e.name / "alignment" / label / "seed0")


def test_a_base_that_is_damaged_fails_every_cell_and_the_report_says_so(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_pipeline, base)
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(command(tmp_path, tiny_pipeline, "--model", str(base))) == 1
    out, error = capsys.readouterr()
    assert "2 cells failed" in error and "Restore or fetch it again" in out
    cells = read_experiment(tmp_path / "results" / "tiny").cells
    assert list(cells["status"]) == ["failed", "failed"]
    assert (
        "expected a complete StableDiffusion3Pipeline folder"
        in (tmp_path / "results" / "tiny" / "REPORT.md").read_text()
    )


NAN = '''
from bench import flow
from bench.api import Method, Needs

class Nan(Method):
    """SFT whose loss is NaN for one sample of the third update."""
    name = "nan"
    needs = Needs(data=True)

    def step(self, env):
        for batch in env.draw.batches():
            z1, sigma = env.draw.noise(batch.index), env.draw.sigma(batch.index)
            v = env.model.velocity(flow.interpolate(batch.z0, z1, sigma), sigma, batch.cond)
            loss = flow.per_sample_mse(v, z1 - batch.z0)
            if {condition}:
                loss = loss * z1.new_tensor([float("nan") if i == 19 else 1.0 for i in batch.index])
            env.backward({{"base": (1.0, loss)}}, count=env.batch_size)
        return env.update()
'''


@pytest.mark.parametrize("checkpoints", [True, False])
def test_replay_finds_the_batch_again_and_changes_nothing(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    checkpoints: bool,
) -> None:  # fmt: skip
    from bench.experiments.grid import experiment_header
    from bench.results.records.writer import write_experiment_header

    if checkpoints:
        monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    plugin = tmp_path / "nan.py"
    plugin.write_text(NAN.format(condition="True"))
    e = experiment(tiny_pipeline, methods=[str(plugin)])
    write_experiment_header(tmp_path / e.name, experiment_header(e, tmp_path / e.name))
    with pytest.raises(BenchError, match=r"update 3: loss 'base': .* 1 of 8 samples .*\(positions 3\).*bench replay"):
        run(e, tmp_path, "nan")
    cell = tmp_path / e.name / "alignment" / "nan" / "seed0"
    before = {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()}
    again = ["replay", str(cell), "--plugin", str(plugin), "--model", str(tiny_pipeline)]
    assert main(again) == 1
    out = capsys.readouterr().out
    assert (
        "has changed" not in out and f"from {'the checkpoint of update 2' if checkpoints else 'the beginning'}" in out
    )
    assert "the same batch as was kept, bit for bit" in out and "loss.base[3] is nan, sample 19, '" in out
    assert "trained weights before the update: 0 of " in out
    assert {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()} == before

    plugin.write_text(NAN.format(condition="False"))
    for name in [name for name in sys.modules if name.startswith("bench_plugin_nan")]:
        del sys.modules[name]
    assert main(again) == 0
    out = capsys.readouterr().out
    assert f"--plugin {plugin} is another file than was recorded: its hash is {hash_file(plugin)}, not " in out
    assert "the code has changed since (plugin/nan.py), so" in out and "it passes now" in out


def test_replay_of_a_cell_on_pictures_of_the_users_own_asks_where_they_lie(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from bench.datasets.pictures.preparation import prepare_pictures
    from bench.experiments.grid import experiment_header
    from bench.results.records.writer import write_experiment_header

    plugin, folder = tmp_path / "nan.py", image_folder(tmp_path / "pictures", 30)
    plugin.write_text(NAN.format(condition="True"))
    own = {"world": "images", "tasks": ["pictures"], "data.path": str(folder)}
    own |= {"task.scorers": ["scenes-aesthetic"], "task.select": None, "evaluation.held_out_prompts": 0}
    e = experiment(tiny_pipeline, methods=[str(plugin)], **own)
    assert e.data is not None
    e = replace(e, data=prepare_pictures(e.data, tiny_pipeline).settings)
    write_experiment_header(tmp_path / e.name, experiment_header(e, tmp_path / e.name))
    with pytest.raises(BenchError, match="update 3: loss 'base'") as caught:
        run(e, tmp_path, "nan")
    cell = str(tmp_path / e.name / "pictures" / "nan" / "seed0")
    again = ["replay", cell, "--plugin", str(plugin), "--model", str(tiny_pipeline)]
    refused(again, ["trained on pictures of your own", "--data FOLDER"], capsys)
    others = image_folder(tmp_path / "others", 31)
    refused([*again, "--data", str(others)], ["expected the pictures and settings that"], capsys)
    (told,) = re.findall(r"`python -m bench (replay .*?)`", str(caught.value))
    assert shlex.split(told) == [*again, "--data", str(folder)]
    assert main(shlex.split(told)) == 1
    assert "the same batch as was kept, bit for bit" in capsys.readouterr().out
