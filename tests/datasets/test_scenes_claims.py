"""Claims: what says the same is one statement, and each statement belongs to one split."""

from __future__ import annotations

import itertools

import pytest

from bench.datasets.scenes.captions import object_claim, partial_claims, text_claim
from bench.datasets.scenes.claims import all_claims, split_of, stated_in, statement
from bench.datasets.scenes.scene import is_true, sample_scenes
from bench.datasets.scenes.vocabulary import CATEGORIES, COLORS, COUNT_WORDS, GLYPHS, SHAPES, is_held_out

SPLITS = ("train", "tune", "report", "held_out")


def _position(first: str, second: str, relation: str) -> dict:
    parts = [{"class": first, "count": 1}, {"class": second, "count": 1, "position": [relation, 0]}]
    return object_claim("position", parts)


def test_the_order_of_parts_makes_no_other_statement() -> None:
    assert statement(_position("star", "ring", "right of")) == statement(_position("ring", "star", "left of"))
    assert statement(_position("star", "ring", "right of")) != statement(_position("star", "ring", "left of"))
    one = [{"class": "star", "count": 1, "color": "red"}, {"class": "ring", "count": 1, "color": "blue"}]
    other = [{**one[0], "color": "blue"}, {**one[1], "color": "red"}]
    assert statement(object_claim("color_attr", one)) == statement(object_claim("color_attr", one[::-1]))
    assert statement(object_claim("color_attr", one)) != statement(object_claim("color_attr", other))
    assert len({statement(text_claim(*said)) for said in (("A",), ("B",), ("A", "red"), ("A", "blue"))}) == 4


def test_every_claim_is_listed() -> None:
    shapes, colors = len(SHAPES), len(COLORS)
    counts = {category: len({statement(claim) for claim in all_claims(category)}) for category in CATEGORIES}
    assert counts == {
        "single_object": shapes,
        "two_object": shapes * (shapes - 1) // 2,
        "counting": shapes * len(COUNT_WORDS),
        "colors": shapes * colors,
        "position": shapes * (shapes - 1) * 2,  # four relations, each said from both sides
        "color_attr": shapes * (shapes - 1) // 2 * colors * (colors - 1),
        "text": len(GLYPHS) * (colors + 1),  # of no colour too
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_statement_belongs_to_one_split(category: str) -> None:
    said = {split: {statement(one) for claims in stated_in(split, category) for one in claims} for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not said[a] & said[b]
    everything = {statement(claim) for claim in all_claims(category)}
    assert set().union(*said.values()) == everything
    open_to_all = {statement(claim) for claim in all_claims(category) if not is_held_out(claim)}
    assert len(said["report"]) == max(1, round(0.3 * len(open_to_all)))
    assert len(said["tune"]) == max(1, round(0.1 * len(open_to_all)))
    assert len(said["train"]) > len(said["report"])


def test_every_sampled_claim_has_its_split() -> None:
    for split in ("train", "held_out"):
        for scene in sample_scenes("claims", 0, 0, 700, split=split, wrong_caption_share=0.3):
            assert (split_of(scene.metadata) == "held_out") == is_held_out(scene.metadata)


def test_partial_claims_say_less_and_are_true() -> None:
    for scene in sample_scenes("claims", 1, 0, 700):
        less = partial_claims(scene.metadata)
        assert bool(less) == (scene.category in ("colors", "two_object", "position", "color_attr", "text"))
        for claim in less:
            assert is_true(scene, claim), (scene.caption, claim)
            assert statement(claim) != statement(scene.metadata)


def test_shares_of_captions() -> None:
    scenes = sample_scenes("claims", 2, 0, 7000, wrong_caption_share=0.3, partial_caption_share=0.2)
    wrong = sum(scene.wrong_caption for scene in scenes) / len(scenes)
    partial = sum(scene.partial_caption for scene in scenes) / len(scenes)
    assert wrong == pytest.approx(0.3, abs=0.02)
    assert partial == pytest.approx(0.2 * 5 / 7, abs=0.02)  # two of seven categories have nothing to leave out
    for scene in scenes:
        assert is_true(scene, scene.metadata) == (not scene.wrong_caption)


def test_shares_leave_pictures_alone() -> None:
    plain = sample_scenes("claims", 3, 0, 140)
    less = sample_scenes("claims", 3, 0, 140, wrong_caption_share=0.3, partial_caption_share=0.3)
    assert [(s.items, s.text, s.style) for s in plain] == [(s.items, s.text, s.style) for s in less]
