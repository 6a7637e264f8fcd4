"""Rewards that give None for a picture: it counts nowhere, and how many they were is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.api import DataError, Prompt, Reward
from bench.config.task import Task
from bench.datasets.mixture import ClosedFormPolicy
from bench.datasets.world import Candidates
from bench.models.policy import PipelinePolicy
from bench.preflight.conformance.closed_form_check import closed_form_stage
from bench.results.records.reader import read_experiment
from bench.results.report.document import render_document
from bench.results.statistics.analysis import Analysis
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum
from bench.scoring.workers.messages import decode_scores, encode_scores
from bench.training.context import TaskContext
from bench.training.curation import _chosen, _chosen_pairs
from bench.training.evaluate import Evaluator, _mean_of_samples
from methods.raft import RAFT
from tests.support import synthetic_results
from tests.support.cells import experiment, scorers, world
from tests.support.synthetic_results import World, write_world


class Light(Reward):
    """The first level of a picture, from 0 to 1; None where it is odd."""

    name: ClassVar[str] = "light"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Any:
        return [None if level % 2 else level / 255 for level in images[:, 0, 0, 0].tolist()]


class Dark(Reward):
    """The opposite of the last level, and always."""

    name: ClassVar[str] = "dark"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Any:
        return 1 - images[:, -1, -1, -1] / 255


LEVELS = np.arange(6, dtype=np.uint8)
PICTURES = np.broadcast_to(LEVELS[:, None, None, None], (6, 4, 4, 3)).copy()
ASKED = PICTURES, [""] * 6, [{}] * 6


def test_a_picture_without_a_score_is_nan_here_and_from_another_process() -> None:
    expected = np.where(LEVELS % 2, np.nan, LEVELS / 255).astype(np.float32)
    assert np.array_equal(Scorer(Light())(*ASKED), expected, equal_nan=True)
    given = Light()(*ASKED)
    for scores in (given, np.array(given, object), [None if s is None else np.float32(s) for s in given]):
        there = decode_scores(json.loads(json.dumps(encode_scores(scores))))
        assert there.tolist() == pytest.approx(given)
    assert decode_scores(json.loads(json.dumps(encode_scores([None, None])))).tolist() == [None, None]


@pytest.mark.parametrize("spec", ["0.5*light+2*dark", "grouped(0.5*light+2*dark)"])
def test_a_sum_abstains_where_a_part_does(spec: str) -> None:
    both = {"light": Scorer(Light()), "dark": Scorer(Dark())}
    scores = Scorer(WeightedSum(spec, both))(*ASKED)
    assert np.isnan(scores).tolist() == (LEVELS % 2 == 1).tolist()
    light, dark = LEVELS[::2] / 255, 1 - LEVELS / 255
    if "grouped" in spec:
        light, dark = (light - light.mean()) / (light.std() + 1e-4), (dark - dark.mean()) / (dark.std() + 1e-4)
    assert scores[::2] == pytest.approx(0.5 * light + 2 * dark[::2], rel=1e-4, abs=1e-5)


def test_what_a_filter_abstains_from_is_not_kept() -> None:
    prompts = [Prompt(number, f"picture {number}", {}) for number in range(6)]
    task = Task(name="pictures", scorers=("light",), primary="light", top_share=0.5)
    state = _chosen(Candidates(PICTURES, prompts), task, Scorer(Light()))
    assert [part["rows"] for part in state["parts"]] == [[2, 4]] and state["scored"] == 6  # half of 0, 2 and 4
    with pytest.raises(DataError, match="light abstains from all 3 candidates: select by another scorer"):
        _chosen(Candidates(PICTURES[1::2], prompts[:3]), task, Scorer(Light()))


def test_a_pair_of_which_a_picture_is_not_judged_is_left_out() -> None:
    prompts, notes = [Prompt(number, f"picture {number}", {}) for number in range(3)] * 2, []
    task = Task(name="pictures", scorers=("light",), primary="light")
    pairs = Candidates(PICTURES[[0, 1, 4, 2, 4, 2]], prompts)  # of levels 0 and 2, 1 and 4, 4 and 2
    (part,) = _chosen_pairs(pairs, task, Scorer(Light()), notes.append)["parts"]
    assert (part["rows"], part["rejected"]["rows"]) == ([3, 2], [0, 5])
    assert part["prompts"] == ["picture 0", "picture 2"]
    assert notes == ["pairs: 1 of 3 are left out: light scores their pictures the same, or abstains"]
    with pytest.raises(DataError, match="the same score, or abstains, so that none is better"):
        _chosen_pairs(Candidates(PICTURES, prompts), task, Scorer(Light()), notes.append)


def test_training_leaves_it_out_of_its_group_and_logs_how_many() -> None:
    stage = closed_form_stage(RAFT(RAFT.Config(num_groups=4, num_generations=8)), ClosedFormPolicy.exact(), 1)
    stage.env._reward = Scorer(WeightedSum("1*light", {"light": Scorer(Light())}))
    metrics = stage.advance()
    assert metrics is not None and 0 < metrics["reward_abstained"] < 32
    assert stage.limit.ledger.reward_calls == 32 and all(np.isfinite(list(metrics.values())))
    assert metrics["reward_mean"] == pytest.approx(metrics["reward.light"], rel=1e-5)


@pytest.mark.slow
def test_an_evaluation_counts_abstentions(tiny_pipeline: Path) -> None:
    e = experiment(tiny_pipeline)
    ready = {name: s for name, s in scorers(e).items() if name in e.tasks[0].scorers}
    context = TaskContext(world(tiny_pipeline), e.tasks[0], PipelinePolicy.load(tiny_pipeline), ready)
    evaluator = Evaluator(context, e.evaluation)
    before = evaluator.judge(context.policy, 0, final=True)
    assert before.scores["scenes-aesthetic"]["abstained"] == 0
    left_out = evaluator._prompts[1].text

    class Choosy(Reward):
        name: ClassVar[str] = "scenes-aesthetic"

        def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Any:
            return [None if text == left_out else 0.25 + 0.5 * (text == before.frame) for text in prompts]

    evaluator._scorers["scenes-aesthetic"] = Scorer(Choosy())
    after = evaluator.judge(context.policy, 0, final=True)
    assert {name: after.scores["scenes-aesthetic"][name] for name in ("n", "abstained", "mean")} == {
        "n": 5, "abstained": 1, "mean": 0.25,
    }  # fmt: skip
    assert np.isnan(after.frame["scenes-aesthetic"]).sum() == 1


def test_a_prompt_s_score_is_the_mean_of_the_samples_that_were_judged() -> None:
    nan = np.nan
    samples = [np.array(row, np.float32) for row in ([1, nan, nan, 0.5], [3, 2, nan, 0.5])]
    assert np.array_equal(_mean_of_samples(samples), [2, 2, nan, 0.5], equal_nan=True)


def test_methods_are_compared_on_prompts_that_all_were_judged_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = World(tasks=("alignment",), seeds=2, prompts=16, milestone_prompts=8)
    scored = synthetic_results.scores
    gone = {("soar", 1): 5, ("sft", 0): 7}

    def abstaining(*given: Any) -> dict[str, np.ndarray]:
        found = scored(*given)
        row = gone.get(given[2:4], len(found["scenes-clip"]))
        found["scenes-clip"][row : row + 1] = np.nan
        return found

    whole = Analysis(read_experiment(write_world(tmp_path / "whole", small)))
    monkeypatch.setattr(synthetic_results, "scores", abstaining)
    part = Analysis(read_experiment(write_world(tmp_path / "part", small)))
    tables = {name: whole.scores("alignment", name, "scenes-clip") for name in ("soar", "sft", "base")}
    kept = [number for number in range(16) if number not in gone.values()]
    for baseline in ("sft", "base"):
        ours, theirs = (t.sort_index(axis=1, level=1).to_numpy()[:, kept] for t in (tables["soar"], tables[baseline]))
        found = part.difference("alignment", "soar", baseline, "scenes-clip")
        assert found is not None and found.interval.clusters == len(kept)
        assert found.interval.mean == pytest.approx((ours - theirs).mean(), abs=1e-7)
    assert part.scores("alignment", "base", "scenes-clip").shape == (1, 14)
    for scorer in ("scenes-geneval", "scenes-ocr"):
        few, all_of = (analysis.row("alignment", "soar", scorer) for analysis in (part, whole))
        assert few and all_of and few.mean == all_of.mean
        assert [d.interval for d in few.differences.values()] == [d.interval for d in all_of.differences.values()]
    texts = dict(render_document(tmp_path / "part", tmp_path / "REPORT.md").texts)
    assert all("soar" in text for text in texts.values()) and tmp_path / "REPORT.md" in texts
