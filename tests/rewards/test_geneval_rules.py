"""GenEval's rules on given detections: every category, every margin, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.api import DataError
from rewards._geneval_rules import Detection, counted, holds, side


def thing(label: str, confidence: float = 0.95, box: tuple[float, ...] = (0, 0, 10, 10)) -> Detection:
    return Detection(label, confidence, box)  # type: ignore[arg-type]


def colorless(label: str, found: Sequence[Detection]) -> list[str]:
    raise AssertionError("nobody asked for a colour")


def verdict(found: Sequence[Detection], claim: dict[str, Any], colors: dict[float, str] | None = None) -> bool:
    """The rules from detections to verdict; colours by the confidence of a detection."""
    name = colorless if colors is None else (lambda label, some: [colors[one.confidence] for one in some])
    return holds(counted(found, claim["tag"]), claim, name)


def included(tag: str, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tag": tag, "include": list(parts), **more}


DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}


# What counts as detected


@pytest.mark.parametrize(
    ("tag", "confidence", "counts"),
    [
        ("single_object", 0.3, False), ("single_object", 0.31, True), ("colors", 0.31, True), ("position", 0.31, True),
        ("counting", 0.89, False), ("counting", 0.9, False), ("counting", 0.91, True),
    ],
)  # fmt: skip
def test_confidence_has_to_be_above_the_threshold_of_the_tag(tag: str, confidence: float, counts: bool) -> None:
    assert bool(counted([thing("dog", confidence)], tag)) is counts


def test_the_sixteen_most_confident_of_a_class_count_in_their_order() -> None:
    rising = [thing("dog", 0.4 + number / 100) for number in range(20)]
    objects = counted([*rising, thing("cat", 0.35)], "two_object")
    assert [found.confidence for found in objects["dog"]] == [found.confidence for found in rising[::-1][:16]]
    assert len(objects["cat"]) == 1 and list(objects) == ["dog", "cat"]


# Counts


@pytest.mark.parametrize(("dogs", "right"), [(0, False), (1, True), (3, True)])
def test_single_object_allows_more_of_it(dogs: int, right: bool) -> None:
    assert verdict([thing("dog")] * dogs + [thing("cat")], included("single_object", DOG)) is right


@pytest.mark.parametrize(
    ("labels", "right"), [("dog cat", True), ("dog dog", False), ("cat", False), ("dog cat bird", True), ("", False)]
)
def test_two_object_wants_both(labels: str, right: bool) -> None:
    assert verdict([thing(label) for label in labels.split()], included("two_object", DOG, CAT)) is right


@pytest.mark.parametrize(("sure", "unsure", "right"), [(2, 0, False), (3, 0, True), (4, 0, False), (3, 2, True)])
def test_counting_is_exact_among_the_sure(sure: int, unsure: int, right: bool) -> None:
    claim = included("counting", {"class": "dog", "count": 3}, exclude=[{"class": "dog", "count": 4}])
    assert verdict([thing("dog")] * sure + [thing("dog", 0.8)] * unsure, claim) is right


def test_excluded_objects_may_be_fewer_than_their_count() -> None:
    claim = included("single_object", DOG, exclude=[{"class": "cat", "count": 2}])
    assert verdict([thing("dog"), thing("cat")], claim)
    assert not verdict([thing("dog"), thing("cat"), thing("cat")], claim)


# Colours


@pytest.mark.parametrize(("first", "second", "right"), [("red", "blue", True), ("blue", "red", False)])
def test_the_color_is_asked_of_the_most_confident_alone(first: str, second: str, right: bool) -> None:
    found = [thing("dog", 0.5), thing("dog", 0.8)]
    assert verdict(found, included("colors", {**DOG, "color": "red"}), {0.8: first, 0.5: second}) is right


def test_no_color_is_asked_for_where_too_few_are_there() -> None:
    claim = included("colors", {"class": "dog", "count": 2, "color": "red"})
    assert not verdict([thing("dog")], claim)  # `colorless` would have raised
    assert verdict([thing("dog", 0.8), thing("dog", 0.7)], claim, {0.8: "red", 0.7: "red"})
    assert not verdict([thing("dog", 0.8), thing("dog", 0.7)], claim, {0.8: "red", 0.7: "blue"})


@pytest.mark.parametrize(
    ("dog", "cat", "right"), [("red", "blue", True), ("blue", "red", False), ("red", "red", False)]
)
def test_attributes_belong_to_their_bearers(dog: str, cat: str, right: bool) -> None:
    claim = included("color_attr", {**DOG, "color": "red"}, {**CAT, "color": "blue"})
    assert verdict([thing("dog", 0.8), thing("cat", 0.7)], claim, {0.8: dog, 0.7: cat}) is right


# Positions


@pytest.mark.parametrize(
    ("box", "sides"),
    [
        ((100, 0, 110, 10), {"right of"}), ((-100, 0, -90, 10), {"left of"}), ((0, 100, 10, 110), {"below"}),
        ((0, -100, 10, -90), {"above"}), ((0, 0, 10, 10), set()),
        # Centres 2 apart, extents 10 and 10: the margin is 0.1 (10 + 10) = 2, and nothing is left of the distance.
        ((2, 0, 12, 10), set()),
        # 4 apart: (4 - 2) / 4 is not more than half. 4.1 apart: 2.1 / 4.1 is.
        ((4, 0, 14, 10), set()), ((4.1, 0, 14.1, 10), {"right of"}),
        # 100 and 100 apart: 98 / 141.4 = 0.69 on both axes. 100 and 50: 98 / 111.8 = 0.88, 48 / 111.8 = 0.43.
        ((100, 100, 110, 110), {"right of", "below"}), ((100, 50, 110, 60), {"right of"}),
        # The margin grows with the extents: 0.1 (10 + 200) = 21 of 40 leaves 19 / 40, less than half.
        ((-55, 0, 145, 10), set()),
    ],
)  # fmt: skip
def test_sides_with_their_margin(box: tuple[float, ...], sides: set[str]) -> None:
    assert side(thing("a", box=box), thing("b", box=(0, 0, 10, 10))) == sides


def test_a_position_is_told_of_the_object_that_carries_it() -> None:
    claim = included("position", CAT, {**DOG, "position": ["left of", 0]})
    left, right = (0, 0, 10, 10), (100, 0, 110, 10)
    assert verdict([thing("dog", box=left), thing("cat", box=right)], claim)
    assert not verdict([thing("dog", box=right), thing("cat", box=left)], claim)
    assert not verdict([thing("dog", box=left)], claim) and not verdict([thing("cat", box=right)], claim)
    # A surer dog on the wrong side decides.
    assert not verdict([thing("dog", 0.6, left), thing("dog", 0.9, (200, 0, 210, 10)), thing("cat", box=right)], claim)


def test_a_position_holds_for_every_pair() -> None:
    claim = included("position", {"class": "cat", "count": 2}, {**DOG, "position": ["above", 0]})
    dog, below, beside = (0, 0, 10, 10), (0, 100, 10, 110), (100, 0, 110, 10)
    assert verdict([thing("dog", box=dog), thing("cat", box=below), thing("cat", box=below)], claim)
    assert not verdict([thing("dog", box=dog), thing("cat", box=below), thing("cat", box=beside)], claim)


def test_a_position_beside_a_wrong_color_is_wrong() -> None:
    claim = included("position", {**CAT, "color": "red"}, {**DOG, "position": ["left of", 0]})
    found = [thing("dog", 0.8), thing("cat", 0.7, (100, 0, 110, 10))]
    assert verdict(found, claim, {0.7: "red"}) and not verdict(found, claim, {0.7: "blue"})


@pytest.mark.parametrize("target", [1, -1])
def test_a_position_needs_an_earlier_entry(target: int) -> None:
    with pytest.raises(DataError, match="refers to an earlier entry"):
        verdict([thing("dog")], included("position", {**DOG, "position": ["left of", target]}))
