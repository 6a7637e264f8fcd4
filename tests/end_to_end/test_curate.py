"""From a folder of pictures to scores, a selection, and a run that trains on it: one path through the command line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.api import DataError
from bench.cli.main import main
from bench.config.pictures import Data
from bench.scoring.folder.curate_folder import SelectionRule, curate_folder
from tests.support.user_pictures import image_folder

LIGHT = '''
import numpy as np
from bench.api import Reward

class Light(Reward):
    """How light a picture is, 0 to 255."""
    name = "light"
    version = "3"
    range = (0.0, 255.0)
    higher_is_better = {better}
    fingerprint = "0" * 16

    def __call__(self, images, prompts, metadata):
        with open({calls!r}, "a") as file:
            file.write("x" * len(images))
        return images.mean((1, 2, 3), dtype=np.float64)
'''
COUNT = 60


def flat(number: int) -> Image.Image:
    """One grey, lighter from picture to picture."""
    return Image.new("RGB", (8, 8), (4 * number,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "light.py").write_text(LIGHT.format(better=True, calls=str(tmp_path / "calls")))
    return image_folder(tmp_path / "pictures", COUNT, flat)


def edit_reward(folder: Path, text: str) -> None:
    """As if in another process: the file of this path was imported before it changed."""
    (folder.parent / "light.py").write_text(text)
    for name in [name for name in sys.modules if name.startswith("bench_plugin_light")]:
        del sys.modules[name]


def scored(folder: Path) -> int:
    """How many pictures the reward has seen."""
    calls = folder.parent / "calls"
    return len(calls.read_text()) if calls.exists() else 0


def choose(folder: Path, pipeline: Path, rule: SelectionRule | None) -> str:
    return curate_folder(Data(path=str(folder)), str(folder.parent / "light.py"), str(pipeline), rule, place(folder))


def place(folder: Path) -> Path:
    """Of the results."""
    return folder.parent / "results"


def written(folder: Path, name: str) -> Path:
    """What was written there about the pictures."""
    return place(folder) / "curated" / "pictures" / name


def test_scores_lie_in_the_results_and_are_not_made_twice(folder: Path, tiny_pipeline: Path) -> None:
    before = sorted(folder.iterdir())
    shown = choose(folder, tiny_pipeline, None)
    assert "light version 3: 60 pictures scored, mean 118, 0 to 236" in shown
    assert "selected    nothing: give --min SCORE or --top SHARE" in shown
    # the lightest tenth of 60 greys 0, 4, ..., 236: six of them, from 216 on, 226 in the mean
    assert "10%         6         216           226" in shown
    with written(folder, "scores-light.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], float(row["score"])) for row in rows] == [(f"{n}.png", 4.0 * n) for n in range(COUNT)]
    assert {(row["scorer"], row["version"]) for row in rows} == {("light", "3")}
    assert scored(folder) == COUNT
    choose(folder, tiny_pipeline, SelectionRule(minimum=100))
    assert scored(folder) == COUNT and sorted(folder.iterdir()) == before
    flat(99).resize((9, 9)).save(folder / "7.png")
    choose(folder, tiny_pipeline, None)
    assert scored(folder) == COUNT + 1


def test_an_edited_reward_scores_again_though_it_keeps_its_version(folder: Path, tiny_pipeline: Path) -> None:
    choose(folder, tiny_pipeline, SelectionRule(share=0.05))
    kept = written(folder, "selected-light.json").read_text()
    edit_reward(folder, LIGHT.format(better=True, calls=str(folder.parent / "calls")) + "    # a word\n")
    choose(folder, tiny_pipeline, SelectionRule(share=0.05))
    assert scored(folder) == 2 * COUNT and written(folder, "selected-light.json").read_text() == kept
    darkest = LIGHT.format(better=True, calls=str(folder.parent / "calls")).replace("images.mean", "255 - images.mean")
    edit_reward(folder, darkest)
    choose(folder, tiny_pipeline, SelectionRule(share=0.05))
    assert json.loads(written(folder, "selected-light.json").read_text())["names"] == ["0.png", "1.png", "2.png"]


def test_scores_of_unknown_source_are_made_again(folder: Path, tiny_pipeline: Path) -> None:
    """A file as it was written before it had the column `code`."""
    choose(folder, tiny_pipeline, None)
    path = written(folder, "scores-light.csv")
    table = pd.read_csv(path, dtype=str)
    table.drop(columns="code").to_csv(path, index=False)
    choose(folder, tiny_pipeline, None)
    assert scored(folder) == 2 * COUNT and pd.read_csv(path, dtype=str).equals(table)


@pytest.mark.parametrize(
    ("rule", "first", "words"),
    [(SelectionRule(minimum=200), 50, "score >= 200"), (SelectionRule(share=0.1), 54, "highest 10 % of each category")],
)
def test_a_selection_is_a_list_of_names(
    rule: SelectionRule, first: int, words: str, folder: Path, tiny_pipeline: Path
) -> None:
    assert f"selected    {COUNT - first} of 60 ({words})" in choose(folder, tiny_pipeline, rule)
    selection = json.loads(written(folder, "selected-light.json").read_text())
    assert selection["names"] == [f"{number}.png" for number in range(first, COUNT)]
    assert (selection["scorer"], selection["version"], selection["rule"], selection["scored"]) == (
        "light", "3", words, COUNT,
    )  # fmt: skip
    assert (selection["checkpoint"], selection["role"]) == ("0" * 16, "filter")
    assert str(folder) not in json.dumps(selection)


def test_a_threshold_that_keeps_nothing_is_refused(folder: Path, tiny_pipeline: Path) -> None:
    with pytest.raises(DataError, match="score >= 500 keeps none of 60 pictures; the highest score is 236"):
        choose(folder, tiny_pipeline, SelectionRule(minimum=500))
    assert not written(folder, "selected-light.json").exists()


def test_where_lower_is_better_the_lowest_are_the_top(folder: Path, tiny_pipeline: Path) -> None:
    edit_reward(folder, LIGHT.format(better=False, calls=str(folder.parent / "calls")))
    choose(folder, tiny_pipeline, SelectionRule(share=0.05))
    assert json.loads(written(folder, "selected-light.json").read_text())["names"] == ["0.png", "1.png", "2.png"]


TINY = """
extends: images
name: mine
methods: [sft]
budget: 2updates
seeds: 1
workers: 1
train: {batch_size: 8}
evaluation:
  milestones: [1.0]
  milestone_prompts: 1
  final_prompts: 4
  held_out_prompts: 2
  diversity_prompts: 2
  diversity_samples: 2
  grid_prompts: 1
  grid_steps: []
  drift_states: 2
  pictures: 2
  steps: 1
"""


def test_from_curation_to_a_report_that_names_the_scorer(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    folder = image_folder(
        tmp_path / "pictures", COUNT, lambda n: Image.fromarray(rng.integers(0, 4 * n + 1, (70, 64, 3), dtype=np.uint8))
    )
    (folder / "59.png").write_bytes(b"")
    model = ["--model", str(tiny_pipeline), "--allow-broken", "0.02"]
    results = tmp_path / "results"
    curate = ["curate", "--data", str(folder), "--reward", "scenes-aesthetic", "--top", "0.5"]
    assert main([*curate, "--results", str(results), *model]) == 0
    path = results / "curated" / "pictures" / "selected-scenes-aesthetic.json"
    command = f"run --data {folder} --data.selection {path} --allow-broken 0.02 --model {tiny_pipeline}"
    assert command in capsys.readouterr().out
    chosen = json.loads(path.read_text())["names"]
    assert len(chosen) == 30

    (tmp_path / "tiny.yaml").write_text(TINY)
    data = ["--data", str(folder), "--data.selection", str(path)]
    run = ["run", "--preset", str(tmp_path / "tiny.yaml"), *data, "--results", str(results), *model]
    assert main(run) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "60: 59 can be used, 1 left out (1.7% broken; 2.0% allowed)" in out
    assert "Supervised methods use scenes-aesthetic as a data filter" in " ".join(out.split())
    report = (results / "mine" / "REPORT.md").read_text()
    assert "Supervised methods use scenes-aesthetic as a data filter" in report
    assert "60 rows, 59 used, left out: 1 zero bytes" in report
    assert (
        "30 of them" not in report and "selected by scenes-aesthetic (highest 50 % of each category) among 59" in report
    )

    lists = results / "mine" / "data"
    assert (lists / "left-out.csv").read_text().splitlines()[1].split(",")[1:3] == ["59.png", "zero bytes"]
    kept = pd.read_parquet(lists / "pictures.parquet")
    assert len(kept) == 59
    assert kept.loc[0, "width":"to_height"].tolist() == [64, 70, 0, 3, 64, 64, 64, 64]
    end = json.loads((results / "mine/pictures/sft/seed0/record.jsonl").read_text().splitlines()[-1])
    assert end["status"] == "done" and end["ledger"]["curation_reward_calls"] == 59
    assert str(tmp_path.parent) not in (results / "mine/pictures/sft/seed0/record.jsonl").read_text()

    assert main(run) == 0 and "nothing to run" in capsys.readouterr().out
    before = (folder / chosen[0]).read_bytes()
    flat(58).save(folder / chosen[0])
    assert main(run) == 2 and "1 of the 30 selected pictures are gone, broken or changed" in capsys.readouterr().err
    (folder / chosen[0]).write_bytes(before)
    flat(58).save(folder / next(name for name in kept["name"] if name not in chosen))
    assert main(run) == 2 and "was recorded with other settings" in capsys.readouterr().err
