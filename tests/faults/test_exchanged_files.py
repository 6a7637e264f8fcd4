"""Files of interrupted and finished cells that were exchanged, edited or lost: refused or passed over, and said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.api import DataError
from bench.canonical import canonical_json
from bench.cli.main import main
from bench.config.job import CellJob
from bench.config.pictures import Data
from bench.config.settings import Experiment
from bench.datasets.pictures.preparation import prepare_pictures
from bench.experiments import cell as runner
from bench.experiments import grid, replay
from bench.experiments.resume import remaining_jobs
from bench.paths import portable_values
from bench.results.records.hashes import line_hash
from bench.results.records.writer import CellRecord, write_experiment_header
from tests.results.test_verification import edit_events, edit_lines, swap
from tests.support.cells import experiment, facts, run
from tests.support.no_files import ends_within, full_folder, pipe
from tests.support.user_pictures import image_folder

STOP = 12  # updates; two milestones and all but the last checkpoints lie before


class Interrupted(BaseException):
    """Stands for a signal: nothing in the harness catches it."""


@pytest.fixture(scope="module")
def sft(tiny_pipeline: Path) -> Experiment:
    return experiment(tiny_pipeline, methods=["sft"], seeds=2, **{"evaluation.milestones": [0.3, 0.6, 1.0]})


@pytest.fixture(scope="module")
def whole(sft: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of cells that nobody touched; not to be changed."""
    results = tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        run(sft, results, "sft", seed)
    run(sft, results, "base")
    write_experiment_header(results / sft.name, grid.experiment_header(sft, results / sft.name))
    return results / sft.name


@pytest.fixture(scope="module")
def interrupted(sft: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results whose two cells were interrupted, with a checkpoint after every update; not to be changed."""
    results = tmp_path_factory.mktemp("interrupted")
    original = runner._Cell._judge_or_save

    def stop(self, *args):  # type: ignore[no-untyped-def]
        original(self, *args)
        if self.log.update == STOP:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(runner._Cell, "_judge_or_save", stop)
        for seed in (0, 1):
            with pytest.raises(Interrupted):
                run(sft, results, "sft", seed)
    return results / sft.name


def swap_checkpoints(folder: Path, pattern: str) -> None:
    cells = [folder / f"seed{seed}" / "checkpoint" for seed in (0, 1)]
    for path in sorted(cells[0].glob(pattern)):
        swap(path, cells[1] / path.name)


def last_milestone(folder: Path) -> Path:
    return sorted((folder / "seed0").glob("scores-*.parquet"))[-1]


def checkpoint(folder: Path, kind: str) -> Path:
    return folder / "seed0" / "checkpoint" / f"{STOP:08d}.{kind}"


def rewrite(cell: Path) -> None:
    """Another drift, and every hash as if it had been measured so: a record as whole as the one of another run."""
    edit_events(cell, "milestone", lambda event: event["drift"].update(velocity=0.5))
    before = [""]

    def sealed(line: str) -> str:
        values = json.loads(line)
        before.append(line_hash(values, before[-1]))
        return canonical_json(values | {"hash": before[-1]})

    edit_lines(cell, lambda lines: [sealed(line) for line in lines])


def reorder(lines: list[str]) -> list[str]:
    return [*lines[:-2], lines[-1], lines[-2]]


BEGINNING, ONE_BEFORE = "starts afresh", f"goes on from update {STOP - 1}"
CASES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("all checkpoints exchanged", lambda f: swap_checkpoints(f, "0*"),
     "expected a checkpoint of {name}/alignment/sft/seed0, got one of {name}/alignment/sft/seed1", BEGINNING),
    ("the newest exchanged", lambda f: swap_checkpoints(f, f"{STOP:08d}*"),
     "expected a checkpoint of {name}/alignment/sft/seed0, got one of", ONE_BEFORE),
    ("its tensors exchanged", lambda f: swap_checkpoints(f, f"{STOP:08d}.safetensors"),
     "does not match its hash in the manifest", ONE_BEFORE),
    ("an edited line", lambda f: edit_events(f / "seed0", "milestone", lambda e: e["drift"].update(velocity=0.5)),
     "is not the one that was written there", BEGINNING),
    ("an edited first line", lambda f: edit_events(
        f / "seed0", "cell", lambda e: e["provenance"].update(commit="f" * 40)),
     "line 1 is not the one that was written there", BEGINNING),
    ("a line twice", lambda f: edit_lines(f / "seed0", lambda lines: [*lines[:4], lines[3], *lines[4:]]),
     "line 5 is not the one that was written there", BEGINNING),
    ("the last lines in another order", lambda f: edit_lines(f / "seed0", reorder),
     "is not the one that was written there", BEGINNING),
    ("the last line left out", lambda f: edit_lines(f / "seed0", lambda lines: lines[:-1]),
     "are not there as they were written", ONE_BEFORE),
    ("the record of another run", lambda f: rewrite(f / "seed0"), "are not there as they were written", BEGINNING),
    ("a pipe as its manifest", lambda f: pipe(checkpoint(f, "json")), "is a pipe: expected a file", ONE_BEFORE),
    ("a pipe as its tensors", lambda f: pipe(checkpoint(f, "safetensors")), "is a pipe: expected a file", ONE_BEFORE),
    ("a missing score file", lambda f: last_milestone(f).unlink(), ".parquet is missing", BEGINNING),
    ("a changed score file", lambda f: last_milestone(f).write_bytes(b"1"),
     "is not the file that was recorded", BEGINNING),
    ("exchanged score files", lambda f: swap(last_milestone(f), f / "seed1" / last_milestone(f).name),
     "is not the file that was recorded", BEGINNING),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words", "where"), [pytest.param(*rest, id=name) for name, *rest in CASES])
def test_an_interrupted_cell_goes_on_from_what_is_whole_and_ends_as_if_untouched(
    change: Callable[[Path], object], words: str, where: str, sft: Experiment, whole: Path, interrupted: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(interrupted, tmp_path / sft.name)
    change(tmp_path / sft.name / "alignment" / "sft")
    with ends_within(60):
        notes = [event["message"] for event in run(sft, tmp_path, "sft") if event["event"] == "note"]
    assert any(words.format(name=sft.name) in note for note in notes[:-1]), notes
    assert where in notes[-1]
    cell = Path("alignment/sft/seed0")
    assert facts(tmp_path / sft.name / cell) == facts(whole / cell)


@pytest.mark.parametrize("make", [pipe, full_folder])
@pytest.mark.parametrize("file", ["checkpoint/cell.lock", f"checkpoint/{STOP:08d}.json", "scores-000006.parquet"])
def test_what_stands_where_a_file_belongs_ends_a_cell_by_one_message_or_is_passed_over(
    file: str, make: Callable[[Path], None], sft: Experiment, interrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(interrupted, tmp_path / sft.name)
    path = tmp_path / sft.name / "alignment" / "sft" / "seed0" / file
    make(path)
    with ends_within(60):
        try:
            told = str([event for event in run(sft, tmp_path, "sft") if event["event"] == "note"])
            assert file.endswith(".json")
        except DataError as error:
            told = str(error)
    assert path.name in told and ("is a pipe: expected a file" in told or "expected a file, but" in told)
    assert make is pipe or (path / "mine.txt").read_text() == "mine"


def test_a_base_goes_on_with_what_is_whole_of_what_was_judged(sft: Experiment, whole: Path, tmp_path: Path) -> None:
    """It has no checkpoints: its record alone says what was judged."""
    shutil.copytree(whole, tmp_path / sft.name)
    folder = tmp_path / sft.name / "alignment" / "base" / "seed0"
    CellRecord(folder).truncate(3)
    edit_events(folder, "milestone", lambda event: event["drift"].update(velocity=0.5))
    notes = [event["message"] for event in run(sft, tmp_path, "base") if event["event"] == "note"]
    assert "line 3 is not the one that was written there" in notes[0] and "starts afresh" in notes[-1]
    assert facts(folder) == facts(whole / "alignment" / "base" / "seed0")


def test_a_finished_cell_is_verified_before_it_counts_as_done(sft: Experiment, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / sft.name)
    jobs = grid.experiment_jobs(sft, tmp_path)
    assert remaining_jobs(jobs, tmp_path / sft.name, allow_mixed=True).jobs == []
    cell = tmp_path / sft.name / "alignment" / "sft"
    swap(cell / "seed0" / "pictures.png", cell / "seed1" / "pictures.png")
    with pytest.raises(DataError, match=r"seed0 is not what was recorded: pictures.png .*; so are 1 more .*Restore it"):
        remaining_jobs(jobs, tmp_path / sft.name, allow_mixed=True)
    swap(cell / "seed0", cell / "seed1")
    with pytest.raises(DataError, match=r"seed0 is not what was recorded: it holds the record of alignment/sft/seed1"):
        remaining_jobs(jobs, tmp_path / sft.name, allow_mixed=True)


def test_two_evaluations_after_one_update_each_keep_their_scores(tiny_pipeline: Path, tmp_path: Path) -> None:
    """The budget ends before the next update fits: that of the last milestone is the last one, too."""
    e = experiment(tiny_pipeline, methods=["sft"], **{"evaluation.milestones": [0.96, 1.0]})
    run(e, tmp_path, "sft")
    job = CellJob(e, tmp_path, "alignment", "sft", 0)
    milestones = [event for event in CellRecord(job.folder).events() if event.kind == "milestone"]
    assert len({event.update for event in milestones}) == 1 < len(milestones)
    assert [event.file[13:] for event in milestones] == [".parquet", "-final.parquet"]
    assert CellRecord(job.folder).sound()[1] is None


def test_a_replay_begins_at_no_checkpoint_of_another_cell(sft: Experiment, tmp_path: Path) -> None:
    job = CellJob(sft, tmp_path, "alignment", "sft", 0)
    for state in ({}, {"cell": f"{sft.name}/alignment/sft/seed0"}):  # older ones do not say
        replay._refuse_other_cell(job, state)
    with pytest.raises(DataError, match=r"a checkpoint of .*/seed0, got one of .*/seed1"):
        replay._refuse_other_cell(job, {"cell": f"{sft.name}/alignment/sft/seed1"})


def test_a_replay_trains_on_every_caption_where_the_cell_did(tiny_pipeline: Path, tmp_path: Path) -> None:
    data = Data(path=str(image_folder(tmp_path / "pictures", 12)))
    own = {"world": "images", "tasks": ["pictures"], "data.path": data.path, "task.select": None}
    e = experiment(tiny_pipeline, methods=["sft"], **own, **{"task.scorers": ["scenes-aesthetic"]})
    for all_train in (True, False):
        found = prepare_pictures(data, tiny_pipeline, all_train=all_train).settings
        recorded = portable_values(json.loads(canonical_json(found.identity())))
        again = replay._pictures(tmp_path / "cell", e, data, recorded)
        assert again == found and again.found is not None and again.found.all_train is all_train


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def rename(path: Path) -> None:
    path.rename(path.with_name("other.safetensors"))


def narrower(path: Path) -> None:
    config = path.with_name("config.json")
    config.write_text(config.read_text().replace('"pos_embed_max_size": ', '"pos_embed_max_size": 1'))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip, "checkpoint/model/diffusion_pytorch_model.safetensors is not the file that was recorded"),
        (rename, "checkpoint/model/other.safetensors is no part of the model that was recorded"),
        (narrower, "checkpoint/model/config.json is not the file that was recorded"),
    ],
)
def test_sample_draws_from_no_model_but_the_cells_own(
    change: Callable[[Path], None], words: str, sft: Experiment, whole: Path, tiny_pipeline: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(whole, tmp_path / sft.name)
    cell = tmp_path / sft.name / "alignment" / "sft" / "seed0"
    command = ["--prompt", "a star", "--samples", "1", "--steps", "1", "--out", str(tmp_path / "samples.png")]
    command += ["--model", str(tiny_pipeline)]
    assert main(["sample", str(cell), *command]) == 0
    assert (tmp_path / "samples.png").is_file() and capsys.readouterr().err == ""
    assert "/" not in (cell / "checkpoint" / "model" / "config.json").read_text()  # no path of this machine
    change(cell / "checkpoint" / "model" / "diffusion_pytorch_model.safetensors")
    for place in (cell, cell / "checkpoint", cell / "checkpoint" / "model"):
        assert main(["sample", str(place), *command]) == 2
        assert words in capsys.readouterr().err
    assert main(["verify", "--results", str(tmp_path)]) == (0 if change is rename else 1)
