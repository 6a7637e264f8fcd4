"""Prompt sets judge a run on the user's own pictures, and their scores stand beside the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.api import DataError
from bench.cli.experiment_options import with_pictures, with_prompt_sets
from bench.config.load import Experiment, load_settings
from bench.datasets.pictures.preparation import split_of
from bench.experiments import grid
from bench.experiments.cell import run_cell
from bench.results import report
from bench.results.records.reader import read_experiment
from bench.results.records.schema import PromptSetScores
from bench.results.records.writer import write_experiment_header
from bench.results.report.main_table import papers_table
from bench.results.report.terminal import terminal_table
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.score_tables import ALIKE
from tests.support.cells import settings
from tests.support.user_pictures import captions, image_folder, write_listing

CLAIMS = (
    ("single_object", "a red star", {"class": "bench", "count": 1}),
    ("single_object", "a blue star", {"class": "cat", "count": 1}),
    ("single_object", "a green star", {"class": "dog", "count": 1}),
    ("colors", "a red heart", {"class": "car", "count": 1, "color": "red"}),
)


def write_sets(folder: Path, trained: str) -> dict[str, Any]:
    """Three sets; the drawbench one holds a caption of training, in capitals."""
    lines = [json.dumps({"tag": tag, "include": [part], "prompt": text}) for tag, text, part in CLAIMS]
    (folder / "geneval.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "draw.csv").write_text(f"Prompts,Category\n{trained.upper()},Colors\nfour circles,Counting\n".lower())
    (folder / "own.txt").write_text("a circle\na star\n")
    return {
        "evaluation.prompt_sets.geneval.path": str(folder / "geneval.jsonl"),
        "evaluation.prompt_sets.geneval.samples": 2,
        "evaluation.prompt_sets.drawbench": {"path": str(folder / "draw.csv"), "scorers": ["clipscore", "aesthetic"]},
        "evaluation.prompt_sets.own": {"path": str(folder / "own.txt"), "scorers": ["jpeg"], "prompts": 1},
    }


@pytest.fixture(scope="module")
def done(tiny_pipeline: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    """The base and two seeds of SFT, judged; the folder holds results/."""
    folder = tmp_path_factory.mktemp("sets")
    trained = next(text for text in captions(30) if split_of(text) == "train")
    pictures = image_folder(folder / "pictures", 30)
    return run(folder / "results", tiny_pipeline, pictures, seeds=2, **write_sets(folder, trained))


def run(results: Path, pipeline: Path, pictures: Path, **more: Any) -> tuple[Experiment, Path]:
    """The base and SFT on these pictures, and where the results lie."""
    more = {
        "world": "images", "tasks": ["pictures"], "data.path": str(pictures),
        "task.scorers": ["scenes-aesthetic", "jpeg"], "task.select": None, "methods": ["sft"],
        "evaluation.held_out_prompts": 0, "evaluation.diversity_prompts": 2, "evaluation.final_prompts": 4,
        "budget": "3updates", "evaluation.milestones": [1.0], "evaluation.grid_steps": [], "evaluation.drift_states": 2,
    } | more  # fmt: skip
    e, _ = with_pictures(with_prompt_sets(load_settings("smoke", settings(pipeline, **more))))
    write_experiment_header(results / e.name, grid.experiment_header(e, results / e.name, "bench run"))
    for job in grid.experiment_jobs(e, results):
        run_cell(job, lambda event: None)
    return e, results


@pytest.fixture(scope="module")
def analysis(done: tuple[Experiment, Path]) -> Analysis:
    return Analysis(read_experiment(done[1] / done[0].name))


def sets_of(analysis: Analysis, method: str) -> dict[str, PromptSetScores]:
    cell = next(cell for cell in analysis.experiment.results if cell.header.method == method)
    return {one.name: one for one in cell.sets}


def test_every_cell_is_judged_on_every_set(analysis: Analysis) -> None:
    for method in ("base", "sft"):
        found = sets_of(analysis, method)
        assert {name: (one.prompts, one.there, one.samples) for name, one in found.items()} == {
            "geneval": (4, 4, 2), "drawbench": (2, 2, 1), "own": (1, 2, 1),
        }  # fmt: skip
        assert [set(one.scores) for one in found.values()] == [{"geneval"}, {"clipscore", "aesthetic"}, {"jpeg"}]
    frame = analysis.experiment.sets
    assert (frame.groupby(["method", "seed"]).size() == 7).all() and len(frame) == 3 * 7
    # a prompt's score is the mean of two pictures, each right or wrong
    assert set(frame["geneval"].dropna()) <= {0.0, 0.5, 1.0}


def test_prompts_that_training_may_use_are_counted_by_the_base(analysis: Analysis) -> None:
    trained = {text for text in captions(30) if split_of(text) == "train"}
    shared = sum(text in trained for _, text, _ in CLAIMS)
    assert 0 < shared < len(CLAIMS)
    found = {name: one.in_training for name, one in sets_of(analysis, "base").items()}
    assert found == {"geneval": shared, "drawbench": 1, "own": 0}
    assert all(one.in_training is None for one in sets_of(analysis, "sft").values())


def test_the_record_names_sets_by_what_they_hold(done: tuple[Experiment, Path], analysis: Analysis) -> None:
    e, results = done
    recorded = analysis.experiment.results[0].header.config["evaluation"]["prompt_sets"]
    assert recorded == e.cell_config("pictures", "base")["evaluation"]["prompt_sets"]
    assert recorded["drawbench"]["fingerprint"] == sets_of(analysis, "sft")["drawbench"].fingerprint
    stored = (results / e.name / "experiment.json").read_text()
    assert "draw.csv" not in stored and recorded["drawbench"]["fingerprint"] in stored
    roles = analysis.experiment.results[0].scorers
    assert roles is not None and roles.scorers["clipscore"].roles == ("evaluation",)
    assert roles.scorers["clipscore"].checkpoint


def test_a_set_that_changes_is_another_experiment(done: tuple[Experiment, Path], tmp_path: Path) -> None:
    e, _ = done
    path = Path(e.evaluation.prompt_sets["own"].path)
    before = path.read_text()
    path.write_text("a heart\na star\n")
    try:
        with pytest.raises(DataError, match=r"prompt set 'own': .*own\.txt has changed since this run began"):
            with_prompt_sets(e)
        again = load_settings(
            "smoke", {"evaluation.prompt_sets.own": {"path": str(path), "scorers": ["jpeg"], "prompts": 1}}
        )
        changed = with_prompt_sets(again)
    finally:
        path.write_text(before)
    assert changed.config_hash != with_prompt_sets(again).config_hash
    (tmp_path / "moved.txt").write_text(before)
    moved = load_settings("smoke", {"evaluation.prompt_sets.own": {
        "path": str(tmp_path / "moved.txt"), "scorers": ["jpeg"], "prompts": 1,
    }})  # fmt: skip
    assert with_prompt_sets(moved).config_hash == with_prompt_sets(again).config_hash


def test_geneval_is_the_mean_of_its_categories(analysis: Analysis) -> None:
    frame = analysis.experiment.sets
    own = frame[(frame["split"] == "set:geneval") & (frame["method"] == "sft")]
    by_category = own.groupby(["seed", "category"])["geneval"].mean().groupby("seed").mean()
    row = analysis.row("pictures", "sft", "geneval", "set:geneval", ALIKE)
    assert row is not None and row.mean.mean == pytest.approx(by_category.mean())


def test_the_report_has_published_rows_beside_ours(done: tuple[Experiment, Path], analysis: Analysis) -> None:
    _, results = done
    page = results.parent / "REPORT.md"
    report.write_report(results, page)
    assert report.check_report(results, page) == []
    text = (results / done[0].name / "REPORT.md").read_text()
    heading = "| Method | GenEval<br>geneval | OCR<br>empty | PickScore<br>empty | ClipScore<br>drawbench |"
    assert heading in text
    for paper in papers_table().rows:
        assert f"| *{paper.name}*<br>published, {paper.source} | {paper.figure('geneval')} |" in text
    assert "no such scorer: OCR (ocr), PickScore (pickscore), HPSv2.1 (hpsv2), ImageReward (imagereward)." in text
    assert "without seeds or intervals" in text and "| Method | colors | single\\_object |" in text
    row = analysis.row("pictures", "sft", "clipscore", "set:drawbench")
    assert row is not None
    ours = next(line for line in text[text.index(heading) :].splitlines() if line.startswith("| sft"))
    assert f"{row.mean.mean:.3f} ± " in ours
    assert "also among the captions and prompts that training may use: 1." in text


def test_the_table_in_the_terminal_fits(analysis: Analysis) -> None:
    lines = terminal_table(analysis.experiment).splitlines()
    assert max(map(len, lines)) <= 80 and not any(line.endswith("…") for line in lines)
    first = next(n for n, line in enumerate(lines) if line.startswith("Published ("))
    heading = next(n for n, line in enumerate(lines[first:], first) if "GenEval" in line)
    assert lines[heading].split()[0] == "GenEval" and "OCR" not in lines[heading]  # which has no scores here
    assert lines[heading + 1].startswith("SD3.5-Medium")
    own = lines.index(next(line for line in lines if line.startswith("Prompt set own: 1 of 2 prompts")))
    assert any("jpeg" in line for line in lines[own : own + 4])
    soar = next(line for line in lines if line.startswith("SOAR, 10k steps"))
    assert soar.split()[3:] == ["0.78", "0.295", "5.46", "–", "–"]


def test_seeds_are_judged_each_for_itself(done: tuple[Experiment, Path]) -> None:
    folder = done[1] / done[0].name / "pictures"
    seeds = [pd.read_parquet(folder / "sft" / f"seed{n}" / "prompts-drawbench.parquet") for n in (0, 1)]
    assert not np.array_equal(seeds[0]["aesthetic"], seeds[1]["aesthetic"])


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_pictures_of_one_caption_are_judged_by_the_sets_alone(tiny_pipeline: Path, tmp_path: Path, split: str) -> None:
    """Whatever split its hash would give it: all of them train, and the prompts of the sets are those of the report."""
    caption = next(text for text in captions(90) if split_of(text) == split)
    pictures = image_folder(tmp_path / "pictures", 6)
    write_listing(pictures, [{"file_name": f"{number}.png", "text": caption} for number in range(6)])
    (tmp_path / "own.txt").write_text("four red circles\nfour blue stars\nfour green hearts\nfour blue stars\n")
    more = {
        "evaluation.prompt_sets.own": {"path": str(tmp_path / "own.txt"), "scorers": ["jpeg"], "samples": 2},
        "evaluation.held_out_prompts": 2, "evaluation.grid_steps": [2], "evaluation.pictures": 2,
    }  # fmt: skip
    e, results = run(tmp_path / "results", tiny_pipeline, pictures, **more)
    assert e.data is not None and e.data.found is not None
    assert e.data.found.captions == {"train": 1, "tune": 0, "report": 0, "held_out": 0} and e.data.found.training == 6
    found = read_experiment(results / e.name)
    assert found.refused == () and set(found.cells["status"]) == {"done"}
    own = found.samples[found.samples["method"] == "sft"]
    assert set(own["split"]) == {"report"} and sorted(own["prompt_index"].unique()) == [0, 1, 2]
    assert own["scenes-aesthetic"].notna().all()
    drawn = next(cell.pictures for cell in found.results if cell.header.method == "sft")
    assert drawn is not None and len(drawn.captions) == 2 and caption not in drawn.captions
    assert {"four red circles", "four blue stars", "four green hearts"} > set(drawn.captions)
    recorded = found.results[0].header.config
    assert recorded["data"]["all_train"] is True and "own.txt" not in json.dumps(recorded)
    report.write_report(results, tmp_path / "REPORT.md")
    page = (results / e.name / "REPORT.md").read_text()
    assert (
        "too few captions to judge by: the prompts are those of the prompt sets" in page
        and "Prompt set own" in terminal_table(found)
    )
    read, _ = with_pictures(with_prompt_sets(load_settings("smoke", settings(
        tiny_pipeline, **{"world": "images", "tasks": ["pictures"], "data.path": str(image_folder(tmp_path / "p", 90))},
        **{"task.select": None, **more},
    ))))  # fmt: skip
    assert "all_train" not in read.data.identity()  # with captions enough, the sets stand beside them
