"""The embedded world keeps its prompt sets apart."""

from __future__ import annotations

import itertools

import pytest

from bench.api import ConfigError, DataError
from bench.datasets.scenes.claims import split_of, stated_in, statement
from bench.datasets.scenes.scene import sample_scenes
from bench.datasets.scenes.vocabulary import CATEGORIES, is_held_out
from bench.datasets.scenes.world import ScenesWorld
from bench.datasets.worlds import load_world
from rewards.scenes_geneval import ScenesGenEval
from tests.support.cells import world


@pytest.fixture
def scenes(tiny_pipeline):
    return world(tiny_pipeline)


def test_no_statement_is_in_two_splits(scenes):
    said = {
        split: {statement(p.metadata) for p in scenes.prompts(split, CATEGORIES, 1400)}
        for split in ("train", "tune", "report", "held_out")
    }
    for a, b in itertools.combinations(said, 2):
        assert not said[a] & said[b], (a, b)


def test_all_is_said_before_anything_is_said_again(scenes):
    most = len(stated_in("report", "color_attr"))
    of_one = scenes.prompts("report", ["color_attr"], 2 * most)
    assert len({statement(p.metadata) for p in of_one[:most]}) == most
    assert len({p.text for p in of_one}) > most  # the second round has other words


def test_held_out_combinations_are_only_in_their_split(scenes):
    assert all(is_held_out(p.metadata) for p in scenes.prompts("held_out", CATEGORIES, 100))
    for split in ("train", "tune", "report"):
        assert not any(is_held_out(p.metadata) for p in scenes.prompts(split, CATEGORIES, 300))


def test_a_longer_list_begins_with_the_shorter(scenes):
    assert scenes.prompts("report", CATEGORIES, 50)[:20] == scenes.prompts("report", CATEGORIES, 20)


def test_categories_are_kept_to(scenes):
    assert {p.category for p in scenes.prompts("report", ["position", "text"], 60)} == {"position", "text"}
    assert {p.category for p in scenes.candidates(["counting"], 12).prompts} == {"counting"}


def test_right_captions_are_right_and_whole() -> None:
    found = load_world("scenes-right").candidates(CATEGORIES, 700)
    whole = {scene.caption for scene in sample_scenes("candidates", 0, 0, 3 * 512)}
    assert {prompt.text for prompt in found.prompts} <= whole
    texts, claims = [p.text for p in found.prompts], [p.metadata for p in found.prompts]
    assert ScenesGenEval()(found.images, texts, claims).mean() > 0.98  # of broad renders the reader misses a few


@pytest.mark.slow
def test_candidates_state_what_training_may_state(scenes):
    candidates = scenes.candidates(CATEGORIES, 400)
    assert candidates.images.shape == (400, 64, 64, 3)
    assert {split_of(p.metadata) for p in candidates.prompts} == {"train"}


def test_single_objects_have_no_held_out_combination(scenes):
    with pytest.raises(ConfigError, match=r"evaluation\.held_out_prompts"):
        scenes.prompts("held_out", ["single_object"], 1)


def test_an_unknown_split_and_a_missing_model_are_named(scenes, tmp_path):
    with pytest.raises(ConfigError, match="expected one of train, tune"):
        scenes.prompts("test", CATEGORIES, 1)
    with pytest.raises(DataError, match="bench pretrain"):
        ScenesWorld(str(tmp_path))
