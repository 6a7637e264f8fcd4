"""The exact reader: right on renders of every kind, tolerant of soft pictures, strict on what is no object."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from bench.datasets.scenes.detect import UNKNOWN, detect, detect_text, spelt
from bench.datasets.scenes.glyphs import distance_table
from bench.datasets.scenes.render import PALETTES, ink_color, render_scenes, shape_coverage
from bench.datasets.scenes.scene import sample_scenes
from bench.datasets.scenes.types import Item, Scene, Style
from bench.datasets.scenes.verify import satisfies
from bench.datasets.scenes.vocabulary import COLORS, GLYPHS, SHAPES

PLAIN = Style("light", 0.9, 0.0, 0.0, 0.0, "vivid", 0.0, 1.0, 0.0, 0.0, 0, 0)


def picture(*items: Item, style: Style = PLAIN) -> np.ndarray:
    return render_scenes([Scene("single_object", items, "", style, "", {})])


def painted(coverage: np.ndarray, color: str = "red") -> np.ndarray:
    ink = 255 * np.array(ink_color(color, "vivid"))
    return (230 + coverage[None, :, :, None] * (ink - 230)).astype(np.uint8)


def kinds(images: np.ndarray) -> list[str]:
    return [thing.kind for thing in detect(images).by_picture()[0]]


def share_right(scenes: list[Scene], images: np.ndarray) -> float:
    read = detect(images).by_picture()
    return float(
        np.mean([satisfies(things, spelt(things), s.metadata) for things, s in zip(read, scenes, strict=True)])
    )


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize(("style", "least"), [("clean", 0.998), ("broad", 0.99), ("ugly", 0.98)])
def test_renders_are_read_right(split: str, style: str, least: float) -> None:
    scenes = sample_scenes("detect", 0, 0, 700, split=split, style=style)
    assert share_right(scenes, render_scenes(scenes)) >= least


@pytest.mark.slow
def test_soft_renders_are_read_right() -> None:
    # What a good autoencoder does to a picture: some blur, some ringing, a little noise.
    scenes = sample_scenes("detect", 1, 0, 700)
    soft = ndimage.gaussian_filter(render_scenes(scenes).astype(np.float32), (0, 0.9, 0.9, 0))
    ringing = soft + 0.3 * (soft - ndimage.gaussian_filter(soft, (0, 2, 2, 0)))
    noisy = ringing + np.random.default_rng(0).normal(0, 4, soft.shape)
    assert share_right(scenes, np.clip(noisy, 0, 255).astype(np.uint8)) >= 0.98


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("color", COLORS)
def test_every_color_in_every_palette(color: str, palette: str) -> None:
    for level, tone in ((0.9, "light"), (0.5, "grey"), (0.1, "dark")):
        for shift in (-4.0, 4.0):
            style = replace(PLAIN, palette=palette, level=level, tone=tone, hue_shift=shift)
            (thing,) = detect(picture(Item("star", color, 32, 32, 20, 5), style=style)).by_picture()[0]
            assert (thing.kind, thing.color) == ("star", color)


@pytest.mark.parametrize("shape", SHAPES)
def test_center_and_extent_of_every_shape(shape: str) -> None:
    for size in (15, 22, 34):
        objects = detect(picture(Item(shape, "blue", 30.0, 34.0, size, 0.0)))
        (thing,) = objects.by_picture()[0]
        assert thing.kind == shape
        assert abs(thing.x - 30) < 1 and abs(thing.y - 34) < 0.15 * size
        assert abs(thing.width - size) <= 0.15 * size + 1
        assert objects.score[0] > 0.97


def test_every_glyph_is_read_alone_and_in_a_row() -> None:
    for glyph in GLYPHS:
        for size in (15.0, 27.0):
            for angle in (-3.0, 3.0):
                assert detect_text(picture(Item(glyph, "green", 32, 32, size, angle))) == [glyph]
    row = [Item(g, "pink", 12 + 20 * k, 32, 16, 0) for k, g in enumerate("K3H")]
    assert detect_text(picture(*row[::-1])) == ["K3H"]


def test_glyphs_are_one_component_each() -> None:
    for glyph in GLYPHS:
        _, count = ndimage.label(distance_table(glyph) < 0)
        assert count == 1, glyph


def test_other_objects_among_glyphs_read_as_question_marks() -> None:
    assert detect_text(picture(Item("A", "red", 16, 32, 18, 0), Item("circle", "red", 46, 32, 18, 0))) == ["A?"]
    assert detect_text(np.full((2, 64, 64, 3), 200, np.uint8)) == ["", ""]


@pytest.mark.parametrize("shape", SHAPES)
def test_broken_objects_are_unknown(shape: str) -> None:
    whole = shape_coverage(Item(shape, "red", 32, 32, 28, 3))
    lower = whole * (np.arange(64) >= 32)[:, None]
    stretched = ndimage.affine_transform(whole, [1, 1 / 1.5], [0, 32 - 32 / 1.5], order=1)
    merged = np.maximum(*(shape_coverage(Item(shape, "red", x, 32 + x / 12, 22, 3)) for x in (24, 40)))
    assert kinds(painted(whole)) == [shape]
    for broken in (lower, stretched, merged):
        assert kinds(painted(broken)) == [UNKNOWN]


def test_a_shape_of_two_colors_is_unknown() -> None:
    cover = shape_coverage(Item("circle", "red", 32, 32, 28, 0))
    images = painted(cover)
    images[:, :, 32:] = painted(cover, "blue")[:, :, 32:]
    assert kinds(images) == [UNKNOWN]


def test_specks_and_grey_things_are_ignored_but_patches_are_not() -> None:
    images = np.full((1, 64, 64, 3), 220, np.uint8)
    images[0, 10:30, 10:30] = 90
    images[0, 50:53, 50:53] = (230, 40, 40)
    assert kinds(images) == []
    images[0, 50:53, 40:60] = (230, 40, 40)
    assert kinds(images) == [UNKNOWN]


@pytest.mark.slow
def test_pictures_do_not_mix_in_a_batch() -> None:
    scenes = sample_scenes("detect", 2, 0, 300)
    images = render_scenes(scenes)
    together = detect(images).by_picture()
    assert together == [detect(images[k : k + 1]).by_picture()[0] for k in range(300)]
    # Touching the border of a picture must not join it to the next one.
    edge = np.concatenate([picture(Item("square", "red", 32, y, 22, 0)) for y in (54, 10)])
    assert [len(things) for things in detect(edge).by_picture()] == [1, 1]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="uint8"):
        detect(np.zeros((1, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="64"):
        detect(np.zeros((1, 32, 32, 3), np.uint8))
    assert detect(np.zeros((0, 64, 64, 3), np.uint8)).by_picture() == []


@pytest.mark.slow
def test_throughput() -> None:
    # Aims: 1,500 rendered and 1,000 read per CPU second; a quarter of it leaves room for a busy machine.
    scenes = sample_scenes("detect", 3, 0, 700)
    detect(render_scenes(scenes[:70]))
    start = time.process_time()
    images = render_scenes(scenes)
    middle = time.process_time()
    detect(images)
    assert 700 / (middle - start) > 375
    assert 700 / (time.process_time() - middle) > 250
