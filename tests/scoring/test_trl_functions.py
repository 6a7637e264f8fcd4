"""Functions in trl's calling convention, where a reward is named: by hand, and in each command that takes a reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import registry
from bench.api import DataError, NonFiniteError, PluginError
from bench.cli.main import main
from bench.paths import portable
from bench.results.records.writer import CellRecord
from bench.scoring.folder.curate_folder import SelectionRule, curate_folder, data_settings
from bench.scoring.loading import load_scorers
from bench.scoring.scorer import Scorer
from bench.trl import reward_class, reward_function
from tests.support.cells import GOLD, experiment, run
from tests.support.user_pictures import image_folder

PICTURES = np.stack([np.full((4, 6, 3), grey, np.uint8) for grey in (0, 51, 255)])

FUNCTION = '''
"""A reward function as one writes it for trl."""

def light(prompts, completions, scale=None, **kwargs):
    """Mean grey level in [0, 1], and the prompt's length above it where the dataset has a scale."""
    scales = scale or [None] * len(prompts)
    return [
        float(picture.mean()) / 255 + (0 if one is None else one * len(prompt))
        for prompt, picture, one in zip(prompts, completions, scales)
    ]
'''


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """`path/to/file.py:function`."""
    (tmp_path / "mine.py").write_text(FUNCTION)
    return f"{tmp_path / 'mine.py'}:light"


def test_columns_come_as_lists_with_none_where_a_prompt_lacks_one(spec: str) -> None:
    reward = registry.load_reward(spec)()
    scores = Scorer(reward)(PICTURES, ["abc", "de", "f"], [{"scale": 2}, {}, {"scale": 10, "other": "x"}])
    np.testing.assert_allclose(scores, [6, 0.2, 11], rtol=1e-6)
    np.testing.assert_allclose(Scorer(reward)(PICTURES, ["", "", ""], [{}] * 3), [0, 0.2, 1], rtol=1e-6)
    assert (reward.name, reward.higher_is_better, reward.gold) == ("light", True, False)
    assert reward.source.startswith("light in mine.py")


def test_there_and_back_it_gives_the_same() -> None:
    def odd(prompts: list[str], completions: list[Any], tag: list[str], **kwargs: Any) -> list[float]:
        return [len(p) + len(t) + float(c.std()) for p, c, t in zip(prompts, completions, tag, strict=True)]

    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    prompts, tags = ["a", "bb", "ccc"], ["text", "colors", "text"]
    direct = odd(prompts, list(images), tags)
    back = reward_function(reward_class(odd)())
    given = back(prompts=prompts, completions=[Image.fromarray(i) for i in images], completion_ids=[[0]] * 3, tag=tags)
    assert given == pytest.approx(direct, rel=1e-6) and back.__name__ == "odd"


def test_its_version_follows_its_file(tmp_path: Path) -> None:
    versions = []
    for name, text in (("a", FUNCTION), ("b", FUNCTION), ("c", FUNCTION.replace("255", "256"))):
        (tmp_path / f"{name}.py").write_text(text)
        versions.append(registry.load_reward(f"{tmp_path / name}.py:light").version)
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        ("def light(prompts, completions): return [0.0]", r"takes no \*\*kwargs"),
        ("def light(completion_ids, trainer_state, **kwargs): ...", "needs completion_ids and trainer_state"),
        ("async def light(**kwargs): return []", "is asynchronous"),
    ],
)
def test_other_functions_are_refused_when_they_are_named(signature: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(signature)
    for load in (registry.load_reward, registry.load_plugin):
        with pytest.raises(PluginError, match=rf"reward function 'light': expected trl's convention.* {told}"):
            load(f"{tmp_path / 'mine.py'}:light")


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        ("pass", PluginError, "expected a list of floats, one for each of 3 pictures, got None"),
        ("return ['0.5'] * 3", PluginError, "expected a list of floats, one for each of 3 pictures"),
        ("return [0.5]", PluginError, "expected 3 scores for 3 pictures, got"),
        ("return [0.5, float('nan'), 0.5]", NonFiniteError, "1 of 3 are NaN or infinite, the first for the prompt 'b'"),
        ("return 1 / 0", PluginError, r"raised ZeroDivisionError: division by zero \(.*mine.py:2\)"),
    ],
)
def test_what_is_no_list_of_numbers_is_one_message(
    body: str, error: type[Exception], told: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(f"def light(**kwargs):\n    {body}\n")
    with pytest.raises(error, match=told):
        Scorer(registry.load_reward(f"{tmp_path / 'mine.py'}:light")())(PICTURES, ["a", "b", "c"], [{}] * 3)


def test_check_score_and_curate_take_it(
    spec: str, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", spec]) == 0
    assert "reward light: 8 checks\n" in (out := capsys.readouterr().out) and "7 passed" in out

    folder = image_folder(tmp_path / "pictures", 20, lambda number: Image.new("RGB", (64, 64), (12 * number,) * 3))
    assert main(["score", "--reward", spec, "--images", str(folder), "--out", str(tmp_path / "scores")]) == 0
    table = pd.read_csv(tmp_path / "scores" / "scores.csv")
    expected = {f"{number}.png": 12 * number / 255 for number in range(20)}
    assert dict(zip(table["file"], table["light"], strict=True)) == pytest.approx(expected, rel=1e-5)

    rule, results = SelectionRule(share=0.1), tmp_path / "results"
    curate_folder(data_settings(str(folder), []), spec, str(tiny_pipeline), rule, results)
    chosen = json.loads((results / "curated" / "pictures" / "selected-light.json").read_text())
    assert chosen["names"] == ["18.png", "19.png"] and chosen["scorer"] == "light"


@pytest.mark.parametrize("body", ["return [0.5, None, 0.25]", "return (s for s in (0.5, None, 0.25))"])
def test_none_of_a_function_is_a_picture_that_it_abstains_from(body: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"def light(**kwargs):\n    {body}\n")
    reward = registry.load_reward(f"{tmp_path / 'mine.py'}:light")()
    scores = Scorer(reward)(PICTURES, ["a", "b", "c"], [{}] * 3)
    assert np.array_equal(scores, np.array([0.5, np.nan, 0.25], np.float32), equal_nan=True)
    assert reward_function(reward)(prompts=["a", "b", "c"], completions=list(PICTURES)) == [0.5, None, 0.25]


@pytest.mark.slow
def test_it_trains_selects_and_judges_a_cell(spec: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    """As a part of a sum that trains by RL, as what selects, and as a judge."""
    roles = {"reward": f"0.5*{spec}+2*scenes-aesthetic", "select": spec, "scorers": [*GOLD, spec]}
    small = {"num_groups": 2, "num_generations": 2, "sampling_steps": 3}
    settings = experiment(
        tiny_pipeline, methods=["flowgrpo"], budget="1updates",
        **{f"task.{name}": value for name, value in roles.items()},
        **{f"flowgrpo.{name}": value for name, value in small.items()},
    )  # fmt: skip
    run(settings, tmp_path / "results", "flowgrpo")
    record = CellRecord(tmp_path / "results" / settings.name / "alignment" / "flowgrpo" / "seed0")
    events = record.events()
    assert record.status() == "done", events[-1]
    used = next(event for event in events if event.kind == "scorers").scorers[portable(spec)]
    assert set(used.roles) == {"training", "filter", "evaluation"}
    assert used.version == load_scorers({spec})[spec].reward.version
    (step,) = [event for event in events if event.kind == "step"]
    assert 0 <= step.metrics[f"reward.{portable(spec)}"] <= 1
    milestones = [event for event in events if event.kind == "milestone"]
    assert 0 < milestones[-1].scores[portable(spec)].mean < 1
    assert any(name.startswith("plugin/") for name in events[0].provenance.sources)


def test_a_column_that_it_needs_is_there_in_every_batch() -> None:
    def need(prompts: list[str], completions: list[Any], *, label: list[Any], more: Any = 3, **kwargs: Any) -> Any:
        assert more == 3
        return [0.0 if one is None else float(one) for one in label]

    scorer = Scorer(reward_class(need)())
    assert scorer(PICTURES, ["a"] * 3, [{}] * 3).tolist() == [0, 0, 0]
    assert scorer(PICTURES, ["a"] * 3, [{}, {"label": 2}, {}]).tolist() == [0, 2, 0]
    given = {"prompts": "b", "completions": 1, "trainer_state": 2, "label": 1}  # no columns, but the last
    assert scorer(PICTURES, ["a"] * 3, [given] * 3).tolist() == [1, 1, 1]


def test_what_trl_gives_ours_is_a_picture_or_refused() -> None:
    function = reward_function(registry.load_reward("jpeg")())
    grey = [Image.new("L", (16, 16), 128), Image.new("RGB", (16, 16), (128, 128, 128))]
    assert function(["a", "b"], grey) == [pytest.approx(-0.629)] * 2  # by hand in test_judges
    other = np.zeros((8, 24, 3), np.uint8)
    mixed = function(["a", "b", "c"], [np.asarray(grey[1]), other, grey[0]])
    assert mixed[0] == mixed[2] == pytest.approx(-0.629) and mixed[1] == function(["b"], [other])[0]
    assert function([], []) == []
    for wrong in (np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)):
        with pytest.raises(DataError, match=r"reward 'jpeg': expected completions that are pictures"):
            function(["a"], [wrong])


def test_a_missing_function_is_told_with_those_that_are_there(spec: str) -> None:
    with pytest.raises(PluginError, match=r"has no 'lihgt'; did you mean 'light'\?"):
        registry.load_reward(spec.replace(":light", ":lihgt"))
    with pytest.raises(PluginError, match=r"defines no subclass .*is named too, as in .*mine.py:light\)"):
        registry.load_reward(spec.removesuffix(":light"))
