"""Curated data: the right rows, once, the same from the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.api import Needs
from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from bench.scoring.ranking import top_share
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum
from bench.training.context import TaskContext
from bench.training.curation import cache_folder, curated_data, training_data
from tests.support.cells import experiment, run, scorers, world


def test_the_top_share_is_taken_within_each_category():
    scores = np.array([0.9, 0.1, 0.5, 0.2, 0.3, 0.4], np.float32)
    categories = ["a", "a", "a", "b", "b", "b"]
    assert top_share(scores, categories, 1 / 3).tolist() == [0, 5]
    assert top_share(scores, categories, 0.5).tolist() == [0, 2, 4, 5]
    assert top_share(scores, categories, 1.0).tolist() == [0, 1, 2, 3, 4, 5]


def test_ties_go_to_the_earlier_row():
    assert top_share(np.zeros(4, np.float32), ["a"] * 4, 0.5).tolist() == [0, 1]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=40), st.floats(0.01, 1))
def test_nothing_left_out_beats_anything_kept(rows, share):
    scores, categories = np.array([r[0] for r in rows]), [r[1] for r in rows]
    kept = set(top_share(scores, categories, share).tolist())
    for name in set(categories):
        inside = [scores[i] for i in range(len(rows)) if categories[i] == name and i in kept]
        outside = [scores[i] for i in range(len(rows)) if categories[i] == name and i not in kept]
        assert inside and (not outside or min(inside) >= max(outside))


@pytest.fixture
def made(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    e = experiment(tiny_pipeline)
    task, ready = e.tasks[0], scorers(e)
    policy = PipelinePolicy.load(tiny_pipeline)
    return lambda note=None: curated_data(world(tiny_pipeline), task, policy, ready[task.select], note)


def moments(dataset):
    """Of all rows."""
    return dataset.moments(np.arange(len(dataset)))


def test_the_cache_gives_back_what_was_made(made):
    first, second = made(), made()
    for one, other in zip(moments(first), moments(second), strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()
    assert (list(first.prompts), list(first.metadata)) == (list(second.prompts), list(second.metadata))
    assert (first.selected_by, first.scored) == (second.selected_by, second.scored) == ("scenes-geneval", 64)
    assert len(list((cache_folder() / "curated").iterdir())) == 1


REWARD = """
from bench.api import Reward

class Mine(Reward):
    name, range, reads_prompts = "mine", (-255.0, 255.0), False

    def __call__(self, images, prompts, metadata):
        return SIGN * images.mean((1, 2, 3))
"""


def test_another_source_of_the_same_name_and_version_chooses_afresh(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (task,), policy = experiment(tiny_pipeline).tasks, PipelinePolicy.load(tiny_pipeline)
    chosen = []
    for name, sign in (("one", 1), ("other", -1), ("again", 1)):
        (tmp_path / f"{name}.py").write_text(REWARD.replace("SIGN", str(sign)))
        select = load_scorers({str(tmp_path / f"{name}.py")})[str(tmp_path / f"{name}.py")]
        for spec in (select, Scorer(WeightedSum("2*mine", {"mine": select}))):
            chosen.append(list(curated_data(world(tiny_pipeline), task, policy, spec).prompts))
    assert chosen[0] == chosen[1] == chosen[4] == chosen[5] != chosen[2] == chosen[3]
    assert len(list((cache_folder() / "curated").iterdir())) == 4  # the third source is the first one's


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["00000000.safetensors", "00000000.json"])
def test_a_damaged_cache_is_told_once_and_made_again(made, damage, name):
    first = made()
    (path,) = (cache_folder() / "curated").glob(f"*/{name}")
    before = path.read_bytes()
    damage(path)
    notes = []
    again = made(notes.append)
    assert len(notes) == 1 and notes[0].startswith(f"curated data: {path.parent}") and "made again" in notes[0]
    assert all(map(torch.equal, moments(first), moments(again)))
    assert (list(first.prompts), list(first.metadata)) == (list(again.prompts), list(again.metadata))
    assert path.read_bytes() == before
    made(notes.append)
    assert len(notes) == 1


@pytest.mark.slow
def test_a_cell_tells_of_a_damaged_cache(made, tiny_pipeline, tmp_path):
    made()
    (path,) = (cache_folder() / "curated").glob("*/*.safetensors")
    cut(path)
    events = run(experiment(tiny_pipeline, budget="1updates"), tmp_path / "results", "sft")
    assert [event["message"][:13] for event in events if event["event"] == "note"] == ["curated data:"]
    assert events[-1]["status"] == "done"


def test_selection_by_the_exact_scorer_keeps_right_captions_first(made):
    dataset = made()
    assert 16 <= len(dataset) <= 16 + 6  # a quarter of 64, rounded up in each of six categories


@pytest.mark.slow
def test_curated_captions_are_no_evaluation_prompts(made, tiny_pipeline):
    evaluation = {p.text for s in ("report", "tune") for p in world(tiny_pipeline).prompts(s, ["colors"], 200)}
    assert not evaluation & set(made().prompts)


def test_a_method_may_ask_for_all_candidates(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    e = experiment(tiny_pipeline)
    context = TaskContext(world(tiny_pipeline), e.tasks[0], PipelinePolicy.load(tiny_pipeline), scorers(e))
    chosen, whole = (training_data(context, Needs(data=True, unselected=every)) for every in (False, True))
    assert (len(chosen), chosen.selected_by, chosen.scored) == (
        17,
        "scenes-geneval",
        64,
    )  # a quarter of each category, rounded up
    assert (len(whole), whole.selected_by, whole.scored) == (64, "nothing", 0)
    assert set(chosen.prompts) <= set(whole.prompts)
