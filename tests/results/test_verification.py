"""What is stored of a cell is what was measured: every other thing is refused, alone, with its reason, and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.api import DataError
from bench.canonical import canonical_json, config_hash
from bench.cli.main import main
from bench.results.records.cell_reader import read_cell
from bench.results.records.listing import list_results
from bench.results.records.reader import read_experiment
from bench.results.records.writer import CellRecord, read_experiment_header
from tests.support.synthetic_results import World, as_schema_1, write_world

SMALL = World(
    tasks=("alignment",), methods=("sft", "soar"), seeds=2, prompts=8, milestone_prompts=4, grid=((3.0,), (5,))
)
CELLS = ["base/seed0", "sft/seed0", "sft/seed1", "soar/seed0", "soar/seed1"]
SCORES = "scores-000625.parquet"
PLACE = Path("alignment/sft")


@pytest.fixture(scope="module")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment; not to be changed."""
    return write_world(tmp_path_factory.mktemp("hashed"), SMALL)


@pytest.fixture(scope="module")
def unhashed(hashed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as it was recorded before hashes were; not to be changed."""
    folder = Path(shutil.copytree(hashed, tmp_path_factory.mktemp("unhashed") / hashed.name))
    as_schema_1(folder)
    return folder


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


def edit_lines(cell: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = cell / "record.jsonl"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def edit_events(cell: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change all events of a kind."""

    def changed(lines: list[str]) -> list[str]:
        events = [json.loads(line) for line in lines]
        for event in events:
            if event["kind"] == kind:
                change(event)
        return [canonical_json(event) for event in events]

    edit_lines(cell, changed)


def edit_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "experiment.json"
    header = json.loads(path.read_text())
    change(header)
    path.write_text(canonical_json(header))


def raise_scores(cell: Path, by: float) -> None:
    """In the last score file, and in the mean that the record has of it, so that these agree."""
    frame = pd.read_parquet(cell / SCORES)
    frame["scenes-clip"] += by
    frame["scenes-clip"] = frame["scenes-clip"].astype("float32")
    frame.to_parquet(cell / SCORES, index=False)
    mean = float(frame["scenes-clip"][frame["split"] != "held_out"].astype("float64").mean())

    def change(event: dict[str, Any]) -> None:
        if event["file"] == SCORES:
            event["scores"]["scenes-clip"]["mean"] = mean

    edit_events(cell, "milestone", change)


def state_budget(header: dict[str, Any], budget: str) -> None:
    header["budget"] = header["config"]["budget"] = budget
    header["config_hash"] = config_hash(header["config"])


# What is done to the folder of the experiment, in which cells it is found, and the words that say so.
ANYWHERE = [  # whether there are hashes or not
    ("swapped cells", lambda f: swap(f / PLACE / "seed0", f / PLACE / "seed1"), ["sft/seed0", "sft/seed1"],
     "it holds the record of alignment/sft/seed"),
    ("score files exchanged", lambda f: swap(f / PLACE / "seed0" / SCORES, f / PLACE / "seed1" / SCORES),
     ["sft/seed0", "sft/seed1"], SCORES),
    ("a missing score file", lambda f: (f / PLACE / "seed0" / SCORES).unlink(), ["sft/seed0"], "is missing"),
    ("a missing record", lambda f: (f / PLACE / "seed0" / "record.jsonl").unlink(), ["sft/seed0"],
     "record.jsonl is missing, but there are score files"),
    ("another config", lambda f: edit_events(f / PLACE / "seed0", "cell", lambda e: e["config"].update(lr=1)),
     ["sft/seed0"], ""),
]  # fmt: skip
UNHASHED = [
    ("a mean", lambda f: edit_events(
        f / PLACE / "seed0", "milestone", lambda e: e["scores"]["scenes-clip"].update(mean=0.5)),
     ["sft/seed0"], "the mean of scenes-clip is"),
    ("a count", lambda f: edit_events(
        f / PLACE / "seed0", "milestone", lambda e: e["scores"]["scenes-clip"].update(n=3)),
     ["sft/seed0"], "scores of scenes-clip, the record says 3"),
    ("a mean left out", lambda f: edit_events(
        f / PLACE / "seed0", "milestone", lambda e: e["scores"].pop("scenes-clip")),
     ["sft/seed0"], "the record has no mean of them"),
    ("scores out of range", lambda f: raise_scores(f / PLACE / "seed0", 3.0), ["sft/seed0"],
     "outside its range of -1.0 to 1.0"),
    ("scores that are texts", lambda f: pd.read_parquet(f / PLACE / "seed0" / SCORES).astype(
        {"scenes-clip": str}).to_parquet(f / PLACE / "seed0" / SCORES, index=False),
     ["sft/seed0"], "string, expected float32"),
    ("a part of the cost", lambda f: edit_events(
        f / PLACE / "seed0", "milestone", lambda e: e["ledger"].update(forward=e["ledger"]["forward"] + 1)),
     ["sft/seed0"], "its parts add up to"),
    ("a cost that shrinks", lambda f: edit_events(
        f / PLACE / "seed0", "end", lambda e: e["ledger"].update(cost=0.0, forward=0.0, backward=0.0)),
     ["sft/seed0"], "cost, forward, backward lower than in the line before"),
    ("updates", lambda f: edit_events(f / PLACE / "seed0", "step", lambda e: e.update(update=e["update"] + 1)),
     ["sft/seed0"], "it stands in the step of update"),
    ("a line twice", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [*t[:2], t[1], *t[2:]]), ["sft/seed0"],
     "a step stands there twice"),
    ("lines in another order", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [t[0], *t[3:5], *t[1:3], *t[5:]]),
     ["sft/seed0"], "lower than in the line before"),
    ("the margin of a scorer", lambda f: edit_header(f, lambda h: h["scorers"]["scenes-clip"].update(margin=0.5)),
     CELLS, "experiment.json states margin 0.5 of scenes-clip, it was made with 0.005"),
    ("the margin of a task", lambda f: edit_header(
        f, lambda h: h["tasks"]["alignment"].update(scorers=["scenes-clip"], margins={"scenes-clip": 0.5})),
     CELLS, "experiment.json states margin 0.5 of scenes-clip in task alignment, it was made with 0.005"),
    ("a higher budget", lambda f: edit_header(f, lambda h: state_budget(h, "70k")), CELLS,
     "experiment.json states the budget 70k, it was made with 60000 cost"),
    ("a task's name", lambda f: edit_header(f, lambda h: h["tasks"].update(other=h["tasks"].pop("alignment"))), CELLS,
     "experiment.json has no task 'alignment'"),
    ("more spent than there was", lambda f: edit_events(
        f / PLACE / "seed0", "cell", lambda e: e.update(
            config=e["config"] | {"budgets": ["5 cost"]},
            config_hash=config_hash(e["config"] | {"budgets": ["5 cost"]}))),
     ["sft/seed0"], "its ledger holds 60000 cost, more than its budget of 5"),
    ("no pictures", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [x for x in t if '"pictures"' not in x]),
     ["sft/seed0"], "it is finished, but has no pictures"),
    ("the last milestone left out", lambda f: edit_lines(
        f / PLACE / "seed0", lambda t: [x for x in t if SCORES not in x]),
     ["sft/seed0"], "its end and its last milestone do not hold the same ledger"),
]  # fmt: skip
HASHED = [
    ("pictures exchanged", lambda f: swap(f / PLACE / "seed0/pictures.png", f / "alignment/soar/seed0/pictures.png"),
     ["sft/seed0", "soar/seed0"], "pictures.png is not the file that was recorded, its hash differs"),
    ("another drift", lambda f: edit_events(
        f / PLACE / "seed0", "milestone", lambda e: e["drift"].update(velocity=0.9)),
     ["sft/seed0"], "line 3 is not the one that was written there"),
    ("a line twice", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [*t[:3], t[2], *t[3:]]), ["sft/seed0"],
     "line 4 is not the one that was written there"),
    ("lines in another order", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [t[0], t[2], t[1], *t[3:]]),
     ["sft/seed0"], "line 2 is not the one that was written there"),
    ("a line left out", lambda f: edit_lines(f / PLACE / "seed0", lambda t: [*t[:2], *t[3:]]), ["sft/seed0"],
     "line 3 is not the one that was written there"),
    ("the last line", lambda f: edit_events(f / PLACE / "seed0", "end", lambda e: e["sources"].update(a="b")),
     ["sft/seed0"], "is not the one that was written there"),
    ("another commit", lambda f: edit_events(
        f / PLACE / "seed0", "cell", lambda e: e["provenance"].update(commit="f" * 40)),
     ["sft/seed0"], "line 1 is not the one that was written there"),
    ("other scores of the same mean", lambda f: raise_scores(f / PLACE / "seed0", 0.0), ["sft/seed0"],
     f"{SCORES} is not the file that was recorded"),
]  # fmt: skip
CASES = [pytest.param(kind, *rest, id=f"{kind}: {name}") for kind, cases in (
    ("hashed", ANYWHERE), ("unhashed", ANYWHERE), ("unhashed", UNHASHED), ("hashed", HASHED)
) for name, *rest in cases]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "cells", "words"), CASES)
def test_a_cell_that_is_not_what_was_recorded_is_refused_and_the_others_are_not(
    kind: str, change: Callable[[Path], None], cells: list[str], words: str, tmp_path: Path,
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "results" / "synthetic"))
    assert read_experiment(folder).refused == ()
    change(folder)
    found = read_experiment(folder)
    assert [cell.name for cell in found.refused] == [f"alignment/{name}" for name in cells]
    assert all(words in "; ".join(cell.reasons) for cell in found.refused)
    assert len(found.results) == len(CELLS) - len(cells)
    assert main(["verify", "--results", str(folder.parent)]) == 1
    out, error = capsys.readouterr()
    assert words in error and f"alignment/{cells[0]}" in error and error.count("\n") == len(found.refused_by_reason())
    assert out.splitlines()[-1] == f"1 experiments, 5 cells: {len(found.refused_by_reason())} problems"


HEADERS = [
    ("hashed", lambda h: h["scorers"]["scenes-clip"].update(margin=0.5), "its hash is not that of its content"),
    ("hashed", lambda h: h.update(label=""), "its hash is not that of its content"),
    ("hashed", lambda h: state_budget(h, "70k"), "its hash is not that of its content"),
    ("unhashed", lambda h: h["config"].update(more=1), "config_hash is "),
    ("unhashed", lambda h: h.update(budget="70k"), "budget is '70k', but that of its config is '60k'"),
]


@pytest.mark.parametrize(("kind", "change", "words"), HEADERS)
def test_an_edited_header_is_refused(
    kind: str, change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "synthetic"))
    edit_header(folder, change)
    with pytest.raises(DataError, match=words):
        read_experiment_header(folder)


@pytest.mark.slow
def test_the_report_lists_what_it_refuses_and_reports_the_rest(
    hashed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    for name in ("synthetic", "broken", "gone"):
        shutil.copytree(hashed, results / name)
    edit_header(results / "broken", lambda header: header.update(label="x"))
    (results / "gone" / "experiment.json").unlink()
    swap(results / "synthetic" / PLACE / "seed0" / SCORES, results / "synthetic" / PLACE / "seed1" / SCORES)
    assert main(["report", "--results", str(results)]) == 1
    told = capsys.readouterr().err
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    own = (results / "synthetic" / "REPORT.md").read_text(encoding="utf-8")
    assert len(told.splitlines()) == 4
    for words in (
        "synthetic/alignment/sft/seed0: ",
        "synthetic/alignment/sft/seed1: ",
        "gone: gone holds no experiment.json",
        "broken: ",
    ):
        assert f"not reported: {words}" in told
    assert "| alignment | sft | 0 | refused | scores-000625.parquet is not the file that was recorded" in own
    assert "- broken: broken/experiment.json is not as it was written" in text and "- gone: " in text
    assert "| soar |" in text and "Minus base" in text and str(tmp_path) not in text + own
    assert main(["report", "--check", "--results", str(results)]) == 1
    assert main(["verify", "--results", str(results)]) == 1
    assert "3 experiments, 5 cells: 4 problems" in capsys.readouterr().out


def test_results_that_are_whole_verify(
    hashed: Path, unhashed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, count in ((hashed, 0), (unhashed, 5)):
        shutil.copytree(folder, tmp_path / str(count) / folder.name)
        assert main(["verify", "--results", str(tmp_path / str(count))]) == 0
        out, error = capsys.readouterr()
        assert error == "" and ("5 cells were recorded before hashes were" in out) == bool(count)
        assert out.endswith("1 experiments, 5 cells: all is as recorded\n")
    assert main(["verify", "--results", str(tmp_path / "0"), "--name", "another"]) == 2


def test_a_cell_that_is_not_finished_is_verified_as_far_as_it_goes(hashed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hashed, tmp_path / "synthetic"))
    record = CellRecord(folder / PLACE / "seed0")
    record.truncate(5)
    assert read_experiment(folder).refused == ()
    edit_lines(record.folder, lambda lines: [*lines[:3], lines[4], lines[3]])
    with pytest.raises(DataError, match="seed0 is not what was recorded: line 4 is not the one"):
        read_cell(record.folder, read_experiment_header(folder))


def test_an_older_record_gets_no_hashes(unhashed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(unhashed, tmp_path / "synthetic"))
    record = CellRecord(folder / PLACE / "seed0")
    record.truncate(3)
    record.end_failed("was interrupted")
    assert [event.hash for event in record.events()] == [None] * 4
    (failed,) = [cell for cell in read_experiment(folder).results if cell.status == "failed"]
    assert not failed.is_hashed


def test_telemetry_is_in_no_hash(hashed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hashed, tmp_path / "synthetic"))
    for path in folder.rglob("telemetry.jsonl"):
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[1:]))
    assert read_experiment(folder).refused == ()


def test_the_committed_results_are_what_was_recorded() -> None:
    for folder in list_results(Path(__file__).resolve().parents[2] / "results"):
        assert read_experiment(folder).refused == ()
