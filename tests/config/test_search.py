"""Random search: trials are spread over their ranges, alike for methods, and become methods of the experiment."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.api import ConfigError, DataError
from bench.config.load import load_settings
from bench.config.search import Range, Search, joined, searched_method
from bench.config.settings import Experiment
from bench.parsing import Text


def test_each_part_of_a_range_is_tried_once() -> None:
    search = Search(space={"all": {"train.learning_rate": Range(1e-5, 1e-3)}}, trials=10)
    rates = [one["train.learning_rate"] for one in search.draw("sft")]
    tenths = sorted(int(10 * math.log10(rate / 1e-5) / 2) for rate in rates)
    assert tenths == list(range(10))
    assert rates != sorted(rates)


def test_lists_are_tried_evenly_and_the_same_setting_alike_for_all() -> None:
    space = {"all": {"train.batch_size": [16, 32, 64]}, "soar": {"rollout_steps": [5, 40]}}
    search = Search(space=space, trials=12, seed=3)
    sft, soar = search.draw("sft"), search.draw("soar")
    assert sorted(one["train.batch_size"] for one in sft) == 4 * [16] + 4 * [32] + 4 * [64]
    assert [one["train.batch_size"] for one in sft] == [one["train.batch_size"] for one in soar]
    assert sorted(one["rollout_steps"] for one in soar) == 6 * [5] + 6 * [40]
    assert "rollout_steps" not in sft[0]
    assert search.draw("soar") == soar  # drawn again, the same
    assert Search(space=space, trials=12, seed=4).draw("soar") != soar


def _file(folder: Path, search: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"extends: quick\nname: mine\nmethods: [sft, soar]\nbaseline: base\nsearch: {search}\n")
    return path


def test_trials_become_methods_over_their_methods_settings(tmp_path: Path) -> None:
    text = "{trials: 2, space: {all: {train.learning_rate: {low: 1.0e-5, high: 1.0e-3}}, soar: {rollout_steps: [7]}}}"
    experiment = load_settings(_file(tmp_path, text), {"train.weight_decay": 0.25})
    assert [chain.label for chain in experiment.methods] == ["sft-t00", "sft-t01", "soar-t00", "soar-t01"]
    sft, soar = experiment.stages("sft-t01")[0], experiment.stages("soar-t01")[0]
    assert (sft.source, soar.source) == ("sft", "soar")
    assert sft.train.learning_rate == soar.train.learning_rate != experiment.stages("sft-t00")[0].train.learning_rate
    assert sft.train.weight_decay == 0.25
    assert soar.config.rollout_steps == 7
    assert soar.config.num_points == 1  # of quick


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{space: {flowgrpo: {beta: [1.0]}}}", "search.space.flowgrpo: is no method of this experiment: sft, soar"),
        ("{space: {all: {train.learning_rate: {low: 1.0, high: 0.1}}}}", "low has to be below high"),
        ("{space: {all: {train.batch_size: []}}}", "expected at least one value"),
        ("{space: {all: {train.no_such: [1]}}}", "no_such"),
        ("{trials: 1, space: {all: {train.batch_size: [16]}}}", "search.trials"),
        ("12", "search: expected settings"),
    ],
)
def test_wrong_searches_get_one_message(search: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_file(tmp_path, search))
    assert message in str(caught.value)


def test_methods_of_the_command_line_are_searched(tmp_path: Path) -> None:
    path = _file(tmp_path, "{trials: 2, space: {all: {train.batch_size: [16, 32]}}}")
    experiment = load_settings(path, {"methods": Text("sft")})
    assert [chain.label for chain in experiment.methods] == ["sft-t00", "sft-t01"]
    with pytest.raises(ConfigError, match="soar\\+sft is a chain"):
        load_settings(path, {"methods": Text("soar+sft")})


def test_labels_of_trials_are_told_from_others() -> None:
    assert searched_method("diffusion-x-t07") == "diffusion-x"
    assert searched_method("sft") is None
    assert searched_method("sft-t7") is None


def test_an_experiment_keeps_its_search_as_no_part_of_its_numbers(tmp_path: Path) -> None:
    space = "{all: {train.batch_size: [16, 32]}, soar: {train.learning_rate: {low: 1.0e-5, high: 1.0e-3}}}"
    experiment = load_settings(_file(tmp_path, f"{{trials: 2, seed: 5, space: {space}}}"))
    ranges = {"all": {"train.batch_size": [16, 32]}, "soar": {"train.learning_rate": Range(1e-5, 1e-3)}}
    assert experiment.search == Search(space=ranges, trials=2, seed=5)
    assert Experiment.from_resolved(experiment.resolved()).search == experiment.search
    assert "search" not in experiment.shared_config


def test_a_search_goes_on_with_other_methods_and_with_nothing_else() -> None:
    every = {"train.batch_size": [16, 32]}
    sft, soar = Search({"all": every, "sft": {"a": [1]}}), Search({"all": every, "soar": {"b": [1]}})
    assert joined(None, sft) == joined(sft, None) == sft
    assert joined(sft, soar) == Search({"all": every, "sft": {"a": [1]}, "soar": {"b": [1]}})
    for other in (Search(sft.space, trials=13), Search(sft.space, seed=1), Search({"soar": {"b": [1]}})):
        with pytest.raises(DataError, match="another --name"):
            joined(sft, other)
