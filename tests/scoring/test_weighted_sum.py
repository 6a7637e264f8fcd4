"""Weighted sums of rewards: how they are written, what they give, and that their parts are nowhere called held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.api import ConfigError, DataError, PluginError, Prompt, Reward
from bench.canonical import canonical_json
from bench.config.reward_expression import is_sum, parts_of, read_sum
from bench.datasets.world import Candidates
from bench.experiments import grid
from bench.results.records.reader import read_experiment
from bench.results.records.schema import TaskInfo
from bench.results.records.writer import CellRecord, read_experiment_header, write_experiment_header
from bench.results.report.figure import scorer_kind
from bench.results.report.markdown import escape
from bench.results.report.reproduce import judges_table
from bench.results.statistics.analysis import Analysis
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum, weighted_sums
from rewards.geneval import GenEval
from tests.support.cells import GOLD, experiment, run
from tests.support.synthetic_results import World, as_schema_1, start, write_world

SUM = "standardised(0.7*scenes-aesthetic + 0.3*scenes-geneval)"


class Red(Reward):
    """Mean of the red channel, 0 to 255."""

    name: ClassVar[str] = "red"
    range: ClassVar[tuple[float, float]] = (0.0, 255.0)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return images[..., 0].mean((1, 2), dtype=np.float32)


class Blue(Red):
    """Mean of the blue channel; less is better, and only where the prompt is tagged."""

    name: ClassVar[str] = "blue"
    higher_is_better: ClassVar[bool] = False

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        return bool(metadata.get("tag"))

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return images[..., 2].mean((1, 2), dtype=np.float32)


PARTS = {"red": Scorer(Red()), "blue": Scorer(Blue())}


def pictures(red: Sequence[int], blue: Sequence[int]) -> np.ndarray:
    return np.stack([np.full((2, 2, 3), (r, 0, b), np.uint8) for r, b in zip(red, blue, strict=True)])


def test_how_a_sum_is_written() -> None:
    assert parts_of(None) == ()
    assert parts_of("clipscore") == ("clipscore",)
    assert parts_of("./my+own.py") == ("./my+own.py",)
    assert not is_sum("package.module:Class")
    assert read_sum("0.7*clipscore+.3 * ./my.py").parts == {"clipscore": 0.7, "./my.py": 0.3}
    assert read_sum("1*a + -2e-1*b").parts == {"a": 1.0, "b": -0.2}
    assert not read_sum("1*a").standardised
    assert read_sum(" standardised( 1*a+2*b ) ").standardised
    assert parts_of(SUM) == ("scenes-aesthetic", "scenes-geneval")


@pytest.mark.parametrize(
    "spec", ["0.7*a+b", "*a", "0.5*", "0*a", "nan*a", "inf*a", "x*a", "standardised(a)", "1*a++2*b"]
)
def test_what_is_no_sum_says_how_one_is_written(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"expected parts like 0\.7\*clipscore with \+ between them"):
        read_sum(spec)
    with pytest.raises(ConfigError, match="'a' stands there twice"):
        read_sum("1*a+2*a")


def test_the_sum_by_hand() -> None:
    reward = WeightedSum("0.5*red+2*blue", PARTS)
    scores = reward(pictures([10, 20], [1, 3]), ["", ""], [{"tag": "x"}] * 2)
    np.testing.assert_array_equal(scores, np.float32([0.5 * 10 - 2 * 1, 0.5 * 20 - 2 * 3]))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(Scorer(reward).parts["blue"], [1, 3])  # as the part gives them
    assert Scorer(PARTS["red"].reward).parts == {}
    assert reward.applies({"tag": "x"}) and not reward.applies({})


def test_standardised_by_the_pictures_where_each_part_applies() -> None:
    """red: 10, 20, 30, 40, mean 25 and variance 125; blue, of the first two alone: 2, 6, mean 4 and deviation 2."""
    prompts = [Prompt(i, "", {"tag": "x"} if i < 2 else {}) for i in range(4)]
    spec = "standardised(0.5*red+2*blue)"
    given = Candidates(pictures([10, 20, 30, 40], [2, 6, 90, 99]), prompts)
    scorer = weighted_sums(["red", spec], PARTS, lambda: given)[spec]
    images = pictures([25, 50], [4, 8])
    expected = [0.0, 0.5 * 25 / 125**0.5 - 2 * 2]
    np.testing.assert_allclose(scorer(images, ["", ""], [{"tag": "x"}] * 2), expected, rtol=1e-6)
    assert scorer.fingerprint != weighted_sums(["1*red+2*blue"], PARTS, None)["1*red+2*blue"].fingerprint
    same = Candidates(pictures([7, 7, 7, 7], [2, 6, 90, 99]), prompts)
    with pytest.raises(
        DataError, match="'red' tells apart, to standardise by, but it gave 4 of 4 pictures a score, all"
    ):
        weighted_sums([spec], PARTS, lambda: same)
    with pytest.raises(ConfigError, match="expected the candidates of a task"):
        weighted_sums([spec], PARTS, None)


def test_settings_that_name_sums(tiny_pipeline: Path) -> None:
    e = experiment(tiny_pipeline, **{"task.reward": SUM})
    assert e.tasks[0].reward == SUM
    for settings, told in (
        (
            {"task.reward": "0.7*scenes-aesthetik+0.3*scenes-ocr"},
            "no reward 'scenes-aesthetik' is registered; did you mean",
        ),
        ({"task.select": "0.7*scenes-ocr+nothing"}, "expected parts like"),
        ({"task.scorers": [*GOLD, SUM]}, "is a weighted sum, which judges nothing: list its parts"),
    ):
        with pytest.raises(ConfigError, match=told):
            experiment(tiny_pipeline, **settings)


@pytest.mark.slow
def test_a_cell_that_trains_and_selects_by_sums(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A chain with a sum as filter and one as reward: its record says who did what."""
    scorers = ["scenes-aesthetic", "scenes-ocr"]
    roles = {"task.reward": SUM, "task.select": "0.5*scenes-aesthetic+0.5*scenes-geneval", "task.scorers": scorers}
    few = {"budget": 300, "split": 0.2, "evaluation.milestones": [1.0], "evaluation.grid_steps": []}
    e = experiment(tiny_pipeline, methods=["sft+flowgrpo"], **roles, **few, **{"task.primary": scorers[0]})
    run(e, tmp_path, "sft+flowgrpo")
    events = CellRecord(tmp_path / e.name / e.tasks[0].name / "sft+flowgrpo" / "seed0").events()
    used = events[1].scorers  # type: ignore[union-attr]
    assert {name: use.roles for name, use in used.items()} == {
        "scenes-aesthetic": ("training", "filter", "evaluation"),
        "scenes-geneval": ("training", "filter"),
        "scenes-ocr": ("evaluation",),
    }
    assert used["scenes-ocr"].standard is None
    assert used["scenes-aesthetic"].standard is not None and used["scenes-aesthetic"].standard[1] > 0
    steps = [event.metrics for event in events if event.kind == "step"]
    logged = [m for m in steps if "reward.scenes-aesthetic" in m]
    assert logged and all(
        0 <= m["reward.scenes-aesthetic"] <= 10 and 0 <= m["reward.scenes-geneval"] <= 1 for m in logged
    )


def test_a_cell_does_not_go_on_with_another_checkpoint(tmp_path: Path) -> None:
    from bench.config.task import Task
    from bench.experiments.scorer_roles import record_scorers

    task = Task(name="a", primary="red", scorers=("red",))
    record = CellRecord(tmp_path)
    start(record, World(), "a", "sft", 0)
    red = Scorer(Red())
    record_scorers(record, task, {"red": red}, goes_on=False)
    record_scorers(record, task, {"red": red}, goes_on=True)
    red.reward.fingerprint = "0123"  # type: ignore[attr-defined]
    with pytest.raises(
        DataError, match="'red' has changed since the cell began: expected version 1 with checkpoint none"
    ):
        record_scorers(record, task, {"red": red}, goes_on=True)


# The report


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    """An experiment whose reward is a sum of two of its six scorers, and whose filter is a third one."""
    world = World(tasks=("alignment",), seeds=1, methods=("sft",), prompts=16, milestone_prompts=8, grid=((), ()))
    folder = write_world(tmp_path, world)
    header = read_experiment_header(folder)
    reward = "0.7*scenes-clip+0.3*scenes-aesthetic-head"
    header = header.model_copy(update={"tasks": {"alignment": TaskInfo(reward=reward, filter="scenes-ocr")}})
    write_experiment_header(folder, header)
    as_schema_1(folder)
    used = {"scenes-clip": ["training", "evaluation"], "scenes-ocr": ["filter", "evaluation"], "hidden": ["training"]}
    used |= {"scenes-geneval": ["evaluation"], "both": ["training", "filter"]}
    uses = {name: {"version": "1", "checkpoint": "ab" * (name == "hidden"), "roles": r} for name, r in used.items()}
    for path in folder.glob("*/*/seed*/record.jsonl"):
        first, _, rest = path.read_text().partition("\n")
        path.write_text(f"{first}\n{canonical_json({'kind': 'scorers', 'scorers': uses})}\n{rest}")
    return Analysis(read_experiment(folder))


def test_the_parts_of_a_sum_are_marked_as_used_in_training(analysis: Analysis) -> None:
    marked = {
        name for name in analysis.scorers("alignment") if "used in training" in scorer_kind(analysis, "alignment", name)
    }
    assert marked == {"scenes-clip", "scenes-aesthetic-head", "scenes-ocr"}
    assert analysis.task_info("alignment").used == marked


def test_what_trains_or_selects_is_never_called_held_out(analysis: Analysis) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in judges_table(analysis).splitlines()[2:]]
    assert {row[0]: (row[1], row[3], row[4]) for row in rows} == {
        "both": ("–", "–", "RL reward and data filter"),
        "hidden": ("–", "`ab`", "RL reward"),
        "scenes-clip": ("proxy", "–", "RL reward"),
        "scenes-geneval": ("gold", "–", "held out"),
        "scenes-ocr": ("gold", "–", "data filter"),
    }


def test_the_report_says_where_a_scorer_differs_from_what_it_follows(analysis: Analysis, tiny_pipeline: Path) -> None:
    assert "\n- " not in judges_table(analysis)  # of headers that have noted nothing
    folder = analysis.experiment.folder
    header, noted = read_experiment_header(folder), grid._scorer_info(experiment(tiny_pipeline), "geneval")
    write_experiment_header(folder, header.model_copy(update={"scorers": {**header.scorers, "geneval": noted}}))
    assert f"\n- geneval: {escape(GenEval.source)}" in judges_table(Analysis(read_experiment(folder)))
    for told in ("mask2former-swin-small-coco-instance", "in the place of OpenMMLab's retraining", "CLIP in float32"):
        assert told in GenEval.source


def test_a_report_of_older_records_has_no_such_table(tmp_path: Path) -> None:
    world = World(tasks=("alignment",), seeds=1, methods=("sft",), prompts=16, milestone_prompts=8, grid=((), ()))
    assert judges_table(Analysis(read_experiment(write_world(tmp_path, world)))) == ""


class DifferentiableRed(Red):
    """The same with gradient."""

    differentiable: ClassVar[bool] = True

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        return 255 * images[:, 0].mean((1, 2))


class DifferentiableBlue(Blue):
    """The same with gradient."""

    differentiable: ClassVar[bool] = True

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        return 255 * images[:, 2].mean((1, 2))


def test_a_sum_of_differentiable_parts_has_their_gradients() -> None:
    """2 red - 3 blue, since less blue is better; red by its mean 10 and deviation 4."""
    parts = {"red": Scorer(DifferentiableRed()), "blue": Scorer(DifferentiableBlue())}
    both = WeightedSum("2*red+3*blue", parts)
    both.standards["red"] = (10.0, 4.0)
    assert both.differentiable
    assert not WeightedSum("2*red+3*blue", {**parts, "blue": Scorer(Blue())}).differentiable
    images = pictures([30, 50], [20, 10])
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255).requires_grad_()
    scores = Scorer(both).training_scores_with_gradient(x, ["", ""], [{"tag": "a"}] * 2)
    assert scores.tolist() == pytest.approx([2 * 20 / 4 - 3 * 20, 2 * 40 / 4 - 3 * 10], rel=1e-5)
    scores.sum().backward()
    assert x.grad is not None
    size = x.shape[2] * x.shape[3]
    assert x.grad[:, 0].flatten().tolist() == pytest.approx([255 * 2 / 4 / size] * 2 * size, rel=1e-5)
    assert x.grad[:, 2].flatten().tolist() == pytest.approx([-255 * 3 / size] * 2 * size, rel=1e-5)


def test_a_score_without_its_gradient_is_refused() -> None:
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(PluginError, match="it is not differentiable"):
        Scorer(Red()).training_scores_with_gradient(x, [""], [{}])
    cut = DifferentiableRed()
    cut.scores = lambda images, prompts, metadata: images.detach().mean((1, 2, 3))  # type: ignore[method-assign]
    with pytest.raises(PluginError, match=r"expected scores .* without one"):
        Scorer(cut).training_scores_with_gradient(x, [""], [{}])


def test_a_grouped_sum_normalises_each_part_within_its_call() -> None:
    """2 (red - mean)/(deviation + 1e-4) - 3 of blue, of which less is better. GDPO, arXiv 2601.05242."""
    both = WeightedSum("grouped(2*red + 3*blue)", PARTS)
    assert both.groupwise and not both.differentiable and not WeightedSum("2*red+3*blue", PARTS).groupwise
    scores = both(pictures([10, 30, 20], [7, 1, 4]), [""] * 3, [{"tag": "a"}] * 3)
    red, blue = np.sqrt(200 / 3) + 1e-4, np.sqrt(6) + 1e-4  # means 20 and 4
    assert scores.tolist() == pytest.approx([-20 / red - 9 / blue, 20 / red + 9 / blue, 0], rel=1e-5)
    assert both.latest["red"].tolist() == [10, 30, 20]


def test_a_part_that_tells_nothing_apart_adds_nothing_to_a_group() -> None:
    both = WeightedSum("grouped(2*red + 3*blue)", PARTS)
    alone = both(pictures([10, 30], [5, 5]), [""] * 2, [{"tag": "a"}] * 2)
    assert alone.tolist() == pytest.approx([-2, 2], rel=1e-4)
    assert both(pictures([9, 9], [5, 5]), [""] * 2, [{"tag": "a"}] * 2).tolist() == [0, 0]


def test_how_a_grouped_sum_is_written() -> None:
    assert is_sum("grouped(0.5*a+2*b)") and parts_of("grouped(0.5*a+2*b)") == ("a", "b")
    read = read_sum("grouped(0.5*a+2*b)")
    assert (read.parts, read.standardised, read.grouped) == ({"a": 0.5, "b": 2.0}, False, True)
    assert not read_sum("standardised(0.5*a+2*b)").grouped
