"""Aspect buckets: their sizes, which one a picture goes to and what is cut off, and the order in which they train."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench import rng
from bench.api import ConfigError, DataError
from bench.config.pictures import Data
from bench.datasets.buckets import BucketGrid, assign_buckets, bucket_sizes, nearest_buckets
from bench.datasets.dataset import BucketedDataset, Dataset, SampleOrder, bucket_turns
from bench.datasets.pictures.decoding import middle_crop, prepare_picture
from bench.datasets.pictures.inspection import InspectedPictures, Picture, pictures_fingerprint
from bench.parsing import Problems, Text, validate
from tests.support.user_pictures import png

SMALL = BucketGrid(unit=16, largest=128)
THREE = ((48, 80), (64, 64), (80, 48))


def test_a_number_of_buckets_has_nearly_the_square_s_area() -> None:
    # 2^(2/3) is 1.59; 64 px times its root is 80.6, so 80, and 64^2 / 80 is 51.2, so 48 in steps of 16
    assert bucket_sizes(3, 64, SMALL) == THREE
    # ratios 2^(2/5) = 1.32 and 2^(4/5) = 1.74: 588 and 676 px wide, so 592 and 672; 64^2 8^2 by these is 443 and 390
    five = ((384, 672), (448, 592), (512, 512), (592, 448), (672, 384))
    assert bucket_sizes(5, 512, BucketGrid(16, 6144)) == five


def test_named_sizes_are_taken_as_they_are_from_narrow_to_wide() -> None:
    assert bucket_sizes(("80x48", "48x80"), 64, SMALL) == ((48, 80), (80, 48))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (5, "expected different sizes, got .*: in steps of 16 pixels there are no 5: ask for fewer"),
        (("64x64", "64x64"), "expected different sizes, got 64x64, 64x64$"),
        (("80x50",), "80x50 is no size that the model takes: expected multiples of 16 pixels, at most 128"),
        (("144x32",), "144x32 is no size that the model takes"),
        (("0x64",), "0x64 is no size that the model takes"),
    ],
)
def test_sizes_that_cannot_be_are_refused(wanted: int | tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bucket_sizes(wanted, 64, SMALL)


@pytest.mark.parametrize("wanted", ["4", "1", "27", "9:16", "48x", "48x80,5", "80 x 48", "[]"])
def test_buckets_that_are_none_are_told_in_one_message(wanted: str) -> None:
    problems = Problems()
    assert validate(Data, {"path": "here", "buckets": Text(wanted)}, "data", problems) is None
    (message,) = problems.messages
    assert message.startswith("data.buckets: expected an odd number of buckets (the square, and as many upright")


@pytest.mark.parametrize(("wanted", "read"), [("5", 5), ("48x80,80x48", ("48x80", "80x48")), ("64x64", ("64x64",))])
def test_buckets_are_a_number_or_sizes(wanted: str, read: object) -> None:
    found = validate(Data, {"path": "here", "buckets": Text(wanted)}, "data", Problems())
    assert found is not None and found.buckets == read


def test_a_picture_goes_to_the_nearest_ratio_in_its_logarithm() -> None:
    # Half way between 1 and 5/3 is 1.291 in logarithms, and 1.333 by plain difference
    shapes = [(129, 100), (130, 100), (100, 130), (640, 640), (1, 50), (5000, 3000)]
    assert nearest_buckets(shapes, THREE) == [(64, 64), (80, 48), (48, 80), (64, 64), (48, 80), (80, 48)]
    assert nearest_buckets([(7, 7)], ((32, 64), (64, 32))) == [(32, 64)]


def test_small_buckets_are_given_up_one_after_another() -> None:
    shapes = [(10, 10)] * 5 + [(15, 10)] * 2 + [(10, 15)]
    wide, tall, square = (80, 48), (48, 80), (64, 64)
    assert assign_buckets(shapes, THREE, 1) == [square] * 5 + [wide] * 2 + [tall]
    assert assign_buckets(shapes, THREE, 2) == [square] * 5 + [wide] * 2 + [square]
    assert assign_buckets(shapes, THREE, 3) == assign_buckets(shapes, THREE, 100) == [square] * 8
    # the upright one goes first, and makes the square large enough
    assert assign_buckets([(10, 10)] * 2 + [(15, 10)] * 3 + [(10, 15)], THREE, 3) == [square] * 2 + [wide] * 3 + [
        square
    ]
    assert assign_buckets([], THREE, 3) == []


@pytest.mark.parametrize(
    ("shape", "to", "left", "top", "taken"),
    [
        ((100, 60), (80, 48), 0, 0, (100, 60)),
        ((100, 100), (80, 48), 0, 20, (100, 60)),
        ((60, 100), (80, 48), 0, 32, (60, 36)),
        ((101, 33), (48, 80), 40, 0, (20, 33)),  # 33 * 48/80 is 19.8
        ((1, 900), (80, 48), 0, 449, (1, 1)),
    ],
)
def test_the_middle_part_of_the_bucket_s_shape_is_taken(
    shape: tuple[int, int], to: tuple[int, int], left: int, top: int, taken: tuple[int, int]
) -> None:
    cut = middle_crop(*shape, to)
    assert (cut.left, cut.top, cut.taken_width, cut.taken_height, cut.to) == (left, top, *taken, to)
    assert cut.kept_share == taken[0] * taken[1] / (shape[0] * shape[1])


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(THREE))
def test_the_part_covers_its_bucket_and_lies_within_the_picture(width: int, height: int, to: tuple[int, int]) -> None:
    cut = middle_crop(width, height, to)
    assert cut.taken_width == width or cut.taken_height == height
    for left, taken, whole in ((cut.left, cut.taken_width, width), (cut.top, cut.taken_height, height)):
        assert taken >= 1 and left >= 0 and 0 <= (whole - left - taken) - left <= 1
    # the shape of the bucket, to half a pixel
    exact = min(width / to[0], height / to[1])
    assert abs(cut.taken_width - max(1, exact * to[0])) <= 0.5 and abs(cut.taken_height - max(1, exact * to[1])) <= 0.5


def test_nothing_beside_the_part_is_seen() -> None:
    picture = Image.new("RGB", (100, 100), "red")
    picture.paste(Image.new("RGB", (100, 60), "blue"), (0, 20))
    pixels = prepare_picture(png(picture), (80, 48), 10_000)
    assert pixels.shape == (48, 80, 3) and (pixels == (0, 0, 255)).all()


# Which pictures an update sees


def test_turns_come_round_at_equal_distances() -> None:
    # 3 of 4 pictures: due at 2/3, 2, 10/3, 14/3, 6; 1 of 4 from a quarter of its round of 4 on: at 1, 5
    assert bucket_turns([3, 1], np.array([0.5, 0.25]), 7).tolist() == [0, 1, 0, 0, 0, 1, 0]


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=9),
    st.integers(0, 2**31),
    st.integers(1, 300),
    st.integers(0, 50),
)
def test_every_bucket_has_its_share_after_any_number_of_updates(
    counts: list[int], seed: int, updates: int, more: int
) -> None:
    phases = np.random.default_rng(seed).random(len(counts))
    order = bucket_turns(counts, phases, updates)
    assert len(order) == updates
    assert np.array_equal(bucket_turns(counts, phases, updates + more)[:updates], order)
    for bucket, count in enumerate(counts):
        share = count / sum(counts)
        assert abs((order == bucket).sum() - share * updates) < 1 + len(counts) * share


def test_a_batch_holds_one_bucket_and_every_picture_has_its_turn() -> None:
    counts, batch, updates = [10, 3, 7], 4, 60
    order = SampleOrder(5, counts, batch)
    rows = np.array([order.row(i) for i in range(batch * updates)]).reshape(updates, batch)
    first = np.cumsum([0, *counts])
    buckets = np.searchsorted(first, rows, side="right") - 1
    assert (buckets == buckets[:, :1]).all()
    assert [order.bucket(i * batch + 3) for i in range(updates)] == buckets[:, 0].tolist()
    for bucket, count in enumerate(counts):
        seen = rows[buckets == bucket]
        for start in range(0, len(seen) - count, count):  # each epoch of a bucket goes through all of it
            assert sorted(seen[start : start + count]) == list(range(first[bucket], first[bucket + 1]))
        assert seen[:count].tolist() != seen[count : 2 * count].tolist()
    often = Counter(rows.flatten().tolist())
    assert max(often.values()) - min(often.values()) <= 3 and sum(often.values()) / 20 == 12


def test_any_sample_is_the_same_asked_for_alone_and_in_another_order() -> None:
    whole = [SampleOrder(5, [10, 3, 7], 4).row(i) for i in range(400)]
    again = SampleOrder(5, [10, 3, 7], 4)
    assert [again.row(i) for i in reversed(range(400))][::-1] == whole
    assert SampleOrder(5, [10, 3, 7], 4).row(277) == whole[277]
    assert [SampleOrder(6, [10, 3, 7], 4).row(i) for i in range(400)] != whole


def test_one_bucket_is_the_order_of_plain_data() -> None:
    order = SampleOrder(3, [10], 4)
    epochs = np.concatenate([rng.permutation(3, "data_order", epoch, 10) for epoch in range(5)])
    assert [order.row(i) for i in range(50)] == epochs.tolist()


def part(first: int, count: int, *shape: int) -> Dataset:
    mean = torch.arange(first, first + count).float().view(-1, *[1] * len(shape)).expand(count, *shape)
    texts = [f"picture {first + n}" for n in range(count)]
    return Dataset(lambda rows: (mean[rows], mean[rows] / 100), texts, [{"tag": text} for text in texts], "light", 9)


def test_rows_are_counted_through_the_buckets() -> None:
    data = BucketedDataset((part(0, 3, 2, 6, 4), part(3, 2, 2, 4, 6)), ((2, 6, 4), (2, 4, 6)))
    assert (len(data), data.counts, data.selected_by, data.scored) == (5, [3, 2], "light", 9)
    assert data.prompts == [f"picture {n}" for n in range(5)]
    mean, std = data.moments(np.array([4, 3, 4]))
    assert mean.shape == std.shape == (3, 2, 4, 6)
    assert mean[:, 0, 0, 0].tolist() == [4, 3, 4] and torch.equal(std, mean / 100)
    assert data.rows(np.array([2, 0])) == (["picture 2", "picture 0"], [{"tag": "picture 2"}, {"tag": "picture 0"}])
    with pytest.raises(DataError, match=r"rows \[2, 3\]: expected those of one bucket"):
        data.moments(np.array([2, 3]))


def test_without_buckets_the_fingerprint_is_what_it_was() -> None:
    pictures = tuple(Picture(f"{n}.png", f"{n}" * 16, f"a {n}", None, middle_crop(9, 7, (64, 64))) for n in range(2))
    plain = InspectedPictures(pictures, (), Path(), 0)
    rows = [[f"{n}.png", f"{n}" * 16, f"a {n}", None] for n in range(2)]
    before = blake2b(json.dumps(["1", 64, rows, None]).encode(), digest_size=8).hexdigest()
    assert pictures_fingerprint(plain, 64, None) == before
    wide = Picture("1.png", "1" * 16, "a 1", None, middle_crop(9, 7, (80, 48)))
    assert pictures_fingerprint(InspectedPictures((pictures[0], wide), (), Path(), 0), 64, None) != before
