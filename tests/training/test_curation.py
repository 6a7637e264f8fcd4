"""Curated data: the right rows, once, the same from the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.api import DataError, Needs, Prompt
from bench.config.task import Task
from bench.datasets.world import Candidates
from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from bench.scoring.ranking import top_share
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum
from bench.training.context import TaskContext
from bench.training.curation import _chosen_pairs, cache_folder, curated_data, training_data
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
    assert 22.4 <= len(dataset) <= 22.4 + 3  # .35 of 64, rounded up in each of three categories


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
        23,
        "scenes-geneval",
        64,
    )  # .35 of each category, rounded up
    assert (len(whole), whole.selected_by, whole.scored) == (64, "nothing", 0)
    assert set(chosen.prompts) <= set(whole.prompts)


def test_pairs_are_ranked_by_the_reward_with_as_many_scores_as_a_selection(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    e, notes = experiment(tiny_pipeline, **{"task.reward": "scenes-aesthetic"}), []
    policy, ready = PipelinePolicy.load(tiny_pipeline), scorers(e)
    context = TaskContext(world(tiny_pipeline), e.tasks[0], policy, ready, note=notes.append)
    first, again = (training_data(context, Needs(data=True, pairs=True)) for _ in range(2))
    assert (first.scored, first.selected_by) == (64, "scenes-aesthetic")
    two = context.world.pairs(e.tasks[0].categories, 32)
    texts, about = [p.text for p in two.prompts], [p.metadata for p in two.prompts]
    a, b = ready["scenes-aesthetic"].training_scores(two.images, texts, about).reshape(2, 32)
    assert len(first) == (a != b).sum() > 20
    assert list(first.prompts) == [text for text, differ in zip(texts, a != b, strict=False) if differ]
    assert (len(notes) == 1) == bool((a == b).any())  # told when it is made, and not when it is read again
    place = int(np.flatnonzero(a != b)[0])
    better = two.images[[place if a[place] > b[place] else 32 + place]]
    torch.testing.assert_close(first.moments(np.array([0]))[0], policy.encode_pictures(better)[0].cpu())
    rows = np.arange(len(first))
    for one, other in ((first.moments, again.moments), (first.rejected, again.rejected)):
        assert all(map(torch.equal, one(rows), other(rows)))
    assert not torch.equal(first.moments(rows)[0], first.rejected(rows)[0])


def test_a_pair_has_more_captions_and_is_shown_as_often_as_its_folder_says():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    prompts, more = [Prompt(0, "a cat", {}), Prompt(1, "a dog", {})] * 2, [("one cat",), ()] * 2
    pairs = Candidates(pictures, prompts, more=more, repeats=[1, 2] * 2, ranked=True)
    (part,) = _chosen_pairs(pairs, Task(name="pairs", scorers=("light",), primary="light"), None, print)["parts"]
    assert (part["rows"], part["rejected"]["rows"]) == ([0, 1, 1], [2, 3, 3])
    assert part["prompts"] == ["a cat", "a dog", "a dog"] and part["more"] == [["one cat"], [], []]
    assert len({*part["digests"], *part["rejected"]["digests"]}) == 4


def test_pairs_that_all_score_the_same_are_refused(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (tmp_path / "flat.py").write_text(REWARD.replace("SIGN", "0"))
    flat = load_scorers({str(tmp_path / "flat.py")})[str(tmp_path / "flat.py")]
    e, policy = experiment(tiny_pipeline), PipelinePolicy.load(tiny_pipeline)
    with pytest.raises(DataError, match="both pictures of each of 32 pairs the same score"):
        curated_data(world(tiny_pipeline), e.tasks[0], policy, flat, pairs=True)
