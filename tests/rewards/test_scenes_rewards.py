"""The gold scorers on constructed pictures, with the scores worked out by hand."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import hard_negatives, sample_prompts, sample_scenes
from bench.datasets.scenes.types import Item, Scene, Style
from bench.datasets.scenes.verify import Thing, claims, edit_distance, nothing_excluded, relations, satisfies
from rewards.scenes_aesthetic import ScenesAesthetic, colorfulness, contrast, noise, sharpness
from rewards.scenes_geneval import ScenesGenEval
from rewards.scenes_ocr import ScenesOCR

PLAIN = Style("light", 0.9, 0.0, 0.0, 0.0, "vivid", 0.0, 1.0, 0.0, 0.0, 0, 0)
RED_CIRCLE = Item("circle", "red", 16, 20, 18, 0)
BLUE_STAR = Item("star", "blue", 46, 20, 18, 0)
GREEN_STAR = Item("star", "green", 46, 48, 18, 0)


def picture(*items: Item) -> np.ndarray:
    return render_scenes([Scene("single_object", items, "", PLAIN, "", {})])


def score(reward, images: np.ndarray, claim: dict) -> float:
    (value,) = reward(images, [""], [claim])
    return float(value)


def claim(tag: str, *parts: dict, **rest) -> dict:
    return {"tag": tag, "include": list(parts), **rest}


CIRCLE, STAR = {"class": "circle", "count": 1}, {"class": "star", "count": 1}
BOTH = (RED_CIRCLE, BLUE_STAR)
TWO_STARS = {"class": "star", "count": 2}


@pytest.mark.parametrize(
    ("items", "claimed", "strict", "partial"),
    [
        ((RED_CIRCLE,), claim("single_object", CIRCLE), 1, 1),
        ((BLUE_STAR,), claim("single_object", CIRCLE), 0, 0),
        ((), claim("single_object", CIRCLE), 0, 0),
        (BOTH, claim("two_object", CIRCLE, STAR), 1, 1),
        ((RED_CIRCLE,), claim("two_object", CIRCLE, STAR), 0, 1 / 2),
        ((BLUE_STAR, GREEN_STAR), claim("single_object", STAR), 0, 0),  # one too many of the named class
        (BOTH, claim("single_object", STAR), 1, 1),  # a class that is not named, as in GenEval
        ((BLUE_STAR, GREEN_STAR), claim("counting", TWO_STARS, exclude=[{"class": "star", "count": 3}]), 1, 1),
        ((BLUE_STAR,), claim("counting", TWO_STARS, exclude=[{"class": "star", "count": 3}]), 0, 1 / 2),
        ((BLUE_STAR, GREEN_STAR), claim("counting", STAR, exclude=[{"class": "star", "count": 2}]), 0, 0),
        ((RED_CIRCLE,), claim("colors", {**CIRCLE, "color": "red"}), 1, 1),
        ((RED_CIRCLE,), claim("colors", {**CIRCLE, "color": "pink"}), 0, 1 / 2),
        (BOTH, claim("color_attr", {**CIRCLE, "color": "red"}, {**STAR, "color": "blue"}), 1, 1),
        (BOTH, claim("color_attr", {**CIRCLE, "color": "blue"}, {**STAR, "color": "red"}), 0, 1 / 2),
        (BOTH, claim("position", CIRCLE, {**STAR, "position": ["right of", 0]}), 1, 1),
        (BOTH, claim("position", CIRCLE, {**STAR, "position": ["left of", 0]}), 0, 2 / 3),
        (BOTH, claim("position", CIRCLE, {**STAR, "position": ["below", 0]}), 0, 2 / 3),
        ((RED_CIRCLE, Item("A", "red", 46, 46, 20, 0)), claim("single_object", CIRCLE), 0, 1 / 2),  # an unknown blob
        ((Item("A", "red", 20, 32, 20, 0), Item("7", "red", 44, 32, 20, 0)), claim("text", text="A7"), 1, 1),
        ((Item("A", "red", 20, 32, 20, 0), Item("7", "red", 44, 32, 20, 0)), claim("text", text="A4"), 0, 1 / 2),
        ((Item("A", "red", 20, 32, 20, 0), Item("star", "red", 44, 32, 20, 0)), claim("text", text="A"), 0, 0),
        ((Item("A", "red", 32, 32, 24, 0),), claim("text", text="A", color="red"), 1, 1),
        ((Item("A", "red", 32, 32, 24, 0),), claim("text", text="A", color="blue"), 0, 1 / 2),
        ((Item("A", "red", 32, 32, 24, 0),), claim("text", text="7", color="red"), 0, 0),  # no credit for colour alone
    ],
)
def test_geneval_by_hand(items: tuple, claimed: dict, strict: float, partial: float) -> None:
    assert score(ScenesGenEval(), picture(*items), claimed) == strict
    assert score(ScenesGenEval(partial=True), picture(*items), claimed) == pytest.approx(partial, abs=1e-6)


@pytest.mark.slow
def test_geneval_right_near_misses_and_random_captions() -> None:
    scenes = sample_scenes("reward", 0, 0, 700, style="clean")
    images, reward = render_scenes(scenes), ScenesGenEval()
    assert reward(images, [], [s.metadata for s in scenes]).mean() >= 0.99
    rng = random.Random(0)
    assert reward(images, [], [hard_negatives(s, rng, 1)[0][1] for s in scenes]).mean() <= 0.005
    prompts = sample_prompts("reward", 1, 0, 707)[::-1][:700]
    assert reward(images, [], [p.metadata for p in prompts]).mean() < 0.08


def test_batch_scores_as_its_singles() -> None:
    scenes = sample_scenes("reward", 2, 0, 70)
    images, metadata = render_scenes(scenes), [s.metadata for s in scenes]
    for reward in (ScenesGenEval(), ScenesGenEval(partial=True), ScenesAesthetic()):
        together = reward(images, [""] * 70, metadata)
        assert together.dtype == np.float32 and together.shape == (70,)
        singles = [reward(images[k : k + 1], [""], metadata[k : k + 1])[0] for k in range(70)]
        assert np.array_equal(together, np.array(singles))
        low, high = reward.range
        assert low <= together.min() and together.max() <= high


def test_relations_by_hand() -> None:
    at = {"kind": "star", "color": "red", "width": 10.0, "height": 10.0}
    here = Thing(x=30, y=30, **at)
    assert relations(Thing(x=10, y=30, **at), here) == {"left of"}
    assert relations(Thing(x=50, y=32, **at), here) == {"right of"}
    assert relations(Thing(x=30, y=10, **at), here) == {"above"}
    assert relations(Thing(x=10, y=50, **at), here) == {"left of", "below"}
    # 2 of 20 pixels summed extent are the margin: a shift of 3.9 leaves 1.9 / 3.9 < 0.5, one of 4.1 leaves more.
    assert relations(Thing(x=33.9, y=30, **at), here) == set()
    assert relations(Thing(x=34.1, y=30, **at), here) == {"right of"}
    assert relations(here, here) == set()


def test_claims_and_exclusion_by_hand() -> None:
    stars = [Thing("star", "red", 10.0 * k, 10.0, 8.0, 8.0) for k in range(3)]
    assert claims(stars, "", claim("counting", {"class": "star", "count": 4})) == [0.75]
    assert claims(stars, "", claim("counting", {"class": "star", "count": 1})) == [0.0]
    # Colour is no consolation for a wrong count.
    assert claims(stars, "", claim("colors", {**STAR, "color": "red"})) == [0.0, 0.0]
    assert not nothing_excluded(stars, {"exclude": [{"class": "star", "count": 3}]})
    assert nothing_excluded(stars, {"exclude": [{"class": "star", "count": 4}]})
    assert not satisfies(stars, "", claim("x", {"class": "star", "count": 3}, exclude=[{"class": "star", "count": 2}]))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("A7", "A7", 0), ("A7", "", 2), ("A7", "7A", 2), ("KITTEN", "SITTING", 3), ("A74", "74", 1)],
)
def test_edit_distance_by_hand(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@pytest.mark.slow
@given(st.text("AB7", max_size=5), st.text("AB7", max_size=5), st.text("AB7", max_size=5))
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_ocr_by_hand() -> None:
    row = [Item(g, "blue", 13 + 19 * k, 32, 16, 0) for k, g in enumerate("K3H")]
    reward = ScenesOCR()
    for wanted, value in (("K3H", 1), ("K3", 1 / 2), ("K3X", 2 / 3), ("7", 0), ("KH", 1 / 2)):
        assert score(reward, picture(*row), claim("text", text=wanted)) == pytest.approx(value)
    assert score(reward, picture(), claim("text", text="K3H")) == 0
    assert reward.applies({"tag": "text"}) and not reward.applies({"tag": "colors"})
    with pytest.raises(ValueError, match="applies"):
        score(reward, picture(*row), claim("colors", CIRCLE))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="claim something"):
        score(ScenesGenEval(), picture(), {"tag": "colors"})
    for reward in (ScenesGenEval(), ScenesOCR()):
        with pytest.raises(ValueError, match="one metadata"):
            reward(picture(), [""], [])
    with pytest.raises(ValueError, match="uint8"):
        ScenesAesthetic()(picture().astype(np.float32), [""], [{}])


def test_aesthetic_terms_by_hand() -> None:
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    assert colorfulness(grey) == contrast(grey) == noise(grey) == sharpness(grey) == 0
    halves = grey.copy()
    halves[:, :, :4], halves[:, :, 4:] = 0, 255
    assert contrast(halves) == pytest.approx(0.5)
    red_blue = np.zeros((1, 8, 8, 3), np.uint8)
    red_blue[:, :, :4, 0], red_blue[:, :, 4:, 2] = 200, 200
    # rg is 200 or 0 (deviation 100, mean 100); yb is 100 or -200 (deviation 150, mean -50).
    assert colorfulness(red_blue) == pytest.approx(np.hypot(100, 150) + 0.3 * np.hypot(100, -50))
    grain = np.random.default_rng(0).normal(128, 10, (1, 200, 200, 1)).repeat(3, -1)
    assert noise(np.clip(grain, 0, 255).astype(np.uint8)) == pytest.approx(10, rel=0.05)


def faded(images: np.ndarray, share: float) -> np.ndarray:
    return (128 + share * (images.astype(np.float32) - 128)).round().astype(np.uint8)


def grained(images: np.ndarray, deviation: float) -> np.ndarray:
    noise_ = np.random.default_rng(0).normal(0, deviation, (*images.shape[:3], 1))
    return np.clip(images + noise_, 0, 255).astype(np.uint8)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)


def paled(images: np.ndarray, share: float) -> np.ndarray:
    """Mixed with the grey of the same luma: contrast stays, colour goes."""
    grey = (images @ np.array([0.299, 0.587, 0.114]))[..., None]
    return (grey + share * (images - grey)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("worsen", "amounts"),
    [(faded, (0.75, 0.5, 0.25)), (grained, (4, 10, 25)), (blurred, (0.7, 1.2, 2.0)), (paled, (0.7, 0.4, 0.1))],
    ids=["faded", "grained", "blurred", "paled"],
)
def test_every_flaw_costs_and_more_costs_more(worsen, amounts) -> None:
    reward = ScenesAesthetic()
    images = render_scenes(sample_scenes("looks", 0, 0, 42, style="clean"))
    ladder = [reward(images, [], [])] + [reward(worsen(images, amount), [], []) for amount in amounts]
    for better, worse in itertools.pairwise(ladder):
        assert np.mean(worse < better) > 0.95 and (better - worse).mean() > 0.25


@pytest.mark.slow
def test_aesthetic_has_range_and_does_not_count_objects() -> None:
    reward = ScenesAesthetic()
    scores = {}
    for style in ("clean", "broad", "ugly"):
        scenes = sample_scenes("looks", 1, 0, 490, style=style)
        scores[style] = reward(render_scenes(scenes), [], [])
        # At most 6 % of the variance; the correlation's own error is 0.045 here.
        assert abs(np.corrcoef([len(s.items) for s in scenes], scores[style])[0, 1]) < 0.25
    assert scores["clean"].mean() > scores["broad"].mean() + 1 > scores["ugly"].mean() + 3
    assert scores["broad"].std() > 1.5 and np.mean(scores["clean"] > 9) < 0.1  # room at the top
