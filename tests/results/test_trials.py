"""The search on tune prompts: gains, order, edges and blocks, against means taken from the scores themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.config.load import load_settings
from bench.config.search import Range, Search
from bench.results import report
from bench.results.records.reader import read_experiment
from bench.results.records.writer import read_experiment_header
from bench.results.report.document import render_experiment
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.trials import (
    Judged,
    TaskTrials,
    Trial,
    best_over_tasks,
    place_in_range,
    search_of,
    search_trials,
)
from tests.support.synthetic_results import World, scores, write_world

SEARCH = Search(
    space={"all": {"train.learning_rate": Range(1e-5, 1e-3)}, "soar": {"rollout_steps": [5, 10, 40]}}, trials=3
)


def _stage(label: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in settings.items() if not name.startswith("train.")}
    return {"name": label, "config": config, "train": {"learning_rate": settings["train.learning_rate"]}}


STAGES = {
    label: _stage(label, settings) for method in ("sft", "soar") for label, settings in SEARCH.trials_of(method).items()
}
GAIN = {"sft-t00": 0.1, "sft-t01": 0.3, "sft-t02": -0.2, "soar-t00": 0.0, "soar-t01": 0.1, "soar-t02": 0.4}
FOUND = World(
    name="search",
    label="tuning",
    methods=tuple(STAGES),
    tasks=("alignment", "aesthetic"),
    seeds=2,
    prompts=64,
    milestone_prompts=16,
    gains={
        "alignment": {label: {"scenes-geneval": gain, "scenes-clip": gain / 10} for label, gain in GAIN.items()},
        "aesthetic": {label: {"scenes-aesthetic": -gain} for label, gain in GAIN.items()},
    },
    grid=((1.0, 3.0), (5, 20)),
    captions=("a cube",),
    split="tune",
    search=SEARCH,
    stages=STAGES,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a search; not to be changed."""
    return write_world(tmp_path_factory.mktemp("search") / "results", FOUND)


def _gain(label: str, scorer: str, count: int, share: float) -> float:
    """Mean over seeds and prompts of a trial's scores less the base's, at a share of its gain."""

    def mean(method: str, seed: int) -> float:
        return float(scores(FOUND, "alignment", method, seed, count, share)[scorer].astype(np.float64).mean())

    return (mean(label, 0) + mean(label, 1)) / 2 - mean("base", 0)


def test_gains_are_means_of_the_recorded_scores(folder: Path) -> None:
    """At guidance 3 on all 64 prompts, at 1 on the grid's 40 at the headline's 20 steps; the margin is .01."""
    analysis = Analysis(read_experiment(folder))
    assert search_of(analysis) == SEARCH
    one = {found.task: found for found in search_trials(analysis, SEARCH)}["alignment"]
    assert [(found.guidance, found.steps, found.prompts) for found in one.judged] == [(3, 20, 64), (1, 20, 40)]
    assert sorted(trial.label for trial in one.methods["sft"]) == ["sft-t00", "sft-t01", "sft-t02"]
    for trial in one.methods["sft"]:
        at_3 = _gain(trial.label, "scenes-geneval", 64, 1.0)
        at_1 = _gain(trial.label, "scenes-geneval", 40, 1.0 - 0.08 * 2 - 0.5 / 20)
        assert trial.gains == pytest.approx((at_3, at_1), abs=1e-9)
        assert trial.value == pytest.approx((at_3 + at_1) / 2 / 0.01, abs=1e-6)
        assert trial.rewards == {"scenes-clip": pytest.approx(_gain(trial.label, "scenes-clip", 64, 1.0), abs=1e-9)}
        assert trial.settings == SEARCH.trials_of("sft")[trial.label]
        assert trial.seeds == 2
    values = [trial.value for trial in one.methods["soar"]]
    assert values == sorted(values, reverse=True) and one.methods["soar"][0].label == "soar-t02"


def test_recorded_settings_go_before_drawn_ones(tmp_path: Path) -> None:
    stages = STAGES | {"sft-t01": {"name": "sft-t01", "config": {}, "train": {"learning_rate": 0.5}}}
    world = replace(FOUND, tasks=("alignment",), seeds=1, prompts=8, milestone_prompts=8, grid=((), ()), stages=stages)
    analysis = Analysis(read_experiment(write_world(tmp_path, world)))
    one = search_trials(analysis, SEARCH)[0]
    assert {trial.label: trial.settings for trial in one.methods["sft"]}["sft-t01"] == {"train.learning_rate": 0.5}
    assert [found.guidance for found in one.judged] == [3]


def _task(name: str, margin: float | None, **values: float) -> TaskTrials:
    trials = [Trial(label, 1, {"a": label}, (value,), {}, value) for label, value in values.items()]
    best_first = tuple(sorted(trials, key=lambda trial: -trial.value))
    return TaskTrials(name, "gold", margin, (Judged(3.0, 8, 10, {}),), {}, {"sft": best_first})


def test_the_best_over_tasks_has_the_highest_mean_of_those_finished_in_all() -> None:
    first = _task("one", 0.01, t0=1.0, t1=4.0, t2=3.0, t3=90.0)
    second = _task("two", 0.01, t0=6.0, t1=-3.0, t2=2.0)
    found = best_over_tasks([first, second], "sft")
    assert found is not None and (found[0].label, found[1]) == ("t0", 3.5)
    # by ranks: t0 4 and 1, t1 2 and 3, t2 3 and 2: all 2.5, the first label of them
    unstated = replace(second, margin=None)
    found = best_over_tasks([first, unstated], "sft")
    assert found is not None and (found[0].label, found[1]) == ("t0", -2.5)
    assert best_over_tasks([_task("one", 0.01, t0=1.0), _task("two", 0.01, t1=1.0)], "sft") is None


def test_edges_are_the_lowest_and_highest_values_tried() -> None:
    space: dict[str, Any] = {"rate": Range(1e-5, 1e-3), "k": [40, 10, 5], "odd": [1, 9, 3], "loss": ["a", "b"]}
    search = Search(space={"all": space}, trials=9)
    rates = sorted(settings["rate"] for settings in search.draw("sft"))
    places = [place_in_range(search, "sft", "rate", rate) for rate in rates]
    assert places == ["lowest", *["inside"] * 7, "highest"]
    assert [place_in_range(search, "sft", "k", value) for value in (5, 10, 40)] == ["lowest", "inside", "highest"]
    assert place_in_range(search, "sft", "odd", 9) is None and place_in_range(search, "sft", "loss", "a") is None


def test_the_report_tells_trials_edges_and_blocks_that_a_preset_takes(folder: Path, tmp_path: Path) -> None:
    document = render_experiment(folder)
    assert document.reported == ()  # no evidence
    assert [figure.name for _, figure in document.figures] == ["search-sft", "search-soar"]
    text = document.texts[0][1]
    assert "of tuning prompts only" in text and "tune prompts, which no reported number may use" in text
    assert "alignment: 3 of 3 trials finished, best first" in text
    assert "w 3, 20 steps, 64 prompts | w 1, 20 steps, 40 prompts" in text
    order = re.findall(r"^\| (soar-t\d\d) \| 2 \|", text, re.M)
    assert order[0] == "soar-t00" and order[3] == "soar-t02"  # aesthetic, where gains are turned round; alignment
    best = next(line for line in text.splitlines() if line.startswith("| alignment | soar-t02 | `rollout_steps`"))
    drawn = SEARCH.trials_of("soar")["soar-t02"]
    edge = {5: "lower edge: widen", 10: "inside", 40: "upper edge: widen"}[drawn["rollout_steps"]]
    assert "| 5, 10, 40 |" in best and edge in best
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert [block.splitlines()[0] for block in blocks] == [
        "# best over all tasks, on the tune prompts",
        "# best in aesthetic alone, on the tune prompts",
        "# best in alignment alone, on the tune prompts",
    ]
    assert yaml.safe_load(blocks[2])["soar"] == {
        "train": {"learning_rate": drawn["train.learning_rate"]},
        "rollout_steps": drawn["rollout_steps"],
    }
    (tmp_path / "mine.yaml").write_text(f"extends: quick\nname: mine\n{blocks[2]}")
    stage = {chain.label: chain.stages[0] for chain in load_settings(tmp_path / "mine.yaml").methods}["soar"]
    assert stage.train.learning_rate == drawn["train.learning_rate"]
    assert stage.config.rollout_steps == drawn["rollout_steps"]


def test_the_figure_has_what_the_trials_have(folder: Path) -> None:
    figure = render_experiment(folder).figures[1][1]
    assert figure.data["settings"] == [
        {"name": "train.learning_rate", "range": [1e-5, 1e-3], "values": []},
        {"name": "rollout_steps", "range": None, "values": ["5", "10", "40"]},
    ]
    assert len(figure.data["trials"]) == 6
    best = [trial for trial in figure.data["trials"] if trial["best"]]
    assert [trial["task"] for trial in best] == ["aesthetic", "alignment"]
    drawn = SEARCH.trials_of("soar")["soar-t02"]
    assert best[1]["x"] == [drawn["train.learning_rate"], [5, 10, 40].index(drawn["rollout_steps"])]
    assert figure.draw("svg").startswith(b"<?xml")


def test_tuning_without_a_recorded_search_is_told_as_before_there_were_any(tmp_path: Path) -> None:
    small = replace(FOUND, tasks=("alignment",), seeds=1, prompts=8, milestone_prompts=8, grid=((), ()), search=None)
    folder = write_world(tmp_path / "results", small)
    assert "search" not in json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    assert read_experiment_header(folder).search is None
    document = render_experiment(folder)
    assert document.figures == () and "tuning prompts only" in document.texts[0][1]
    assert "The search" not in document.texts[0][1]


def test_a_search_on_report_prompts_chooses_nothing(tmp_path: Path) -> None:
    world = replace(FOUND, tasks=("alignment",), seeds=1, prompts=8, milestone_prompts=8, grid=((), ()), split="report")
    assert search_of(Analysis(read_experiment(write_world(tmp_path, world)))) is None


@pytest.mark.slow
def test_the_figures_are_drawn_and_shown(tmp_path: Path) -> None:
    world = replace(FOUND, tasks=("alignment",), seeds=1, prompts=8, milestone_prompts=8, grid=((), ()))
    folder = write_world(tmp_path / "results", world)
    report.write_report(tmp_path / "results", tmp_path / "REPORT.md")
    assert "![Sensitivity of soar](figures/search-soar.png)" in (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "| sft, soar (3 trials each) |" in (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    assert (folder / "figures" / "search-soar.png").read_bytes().startswith(b"\x89PNG")
    assert report.check_experiment(folder) == []
