"""The scorers that read text, count objects and weigh files: rules by hand, networks tiny and in the real format."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer, Mask2FormerForUniversalSegmentation

from bench.api import CheckpointMissing, ConfigError, DataError
from bench.datasets.prompts.geneval import CLASSES, COLORS
from rewards._geneval_rules import Detection
from rewards.geneval import DETECTOR, GenEval
from rewards.jpeg import Jpeg, JpegIncompressibility
from rewards.ocr import OCR, spelling
from tests.support.tiny_checkpoints import write_clip
from tests.support.tiny_detector import write_detector

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, shape, np.uint8)


# OCR


@pytest.mark.parametrize(
    ("read", "wanted", "score"),
    [
        ("HELLO", "hello", 1.0), ("h e llo", "he llo", 1.0),
        ("say hello now", "hello", 1.0),  # what stands around it is forgiven
        ("hallo", "hello", 1 - 1 / 5), ("hell", "hello", 1 - 1 / 5), ("hxllx", "hello", 1 - 2 / 5),
        ("", "hello", 0.0), ("entirely different", "hello", 0.0),  # 5 at most
        ("say helo now", "hello", 0.0),  # 7 letters around, 1 missing: 8, of which 5 count
        ("ab", "abcd", 0.5), ("dcba", "abcd", 0.0), ("Open 24", "OPEN24", 1.0),
        # The same letters, stored in another way: an accent of its own, wide letters, one letter for two
        ("CAFE\u0301", "caf\u00e9", 1.0), ("\uff2f\uff30\uff25\uff2e", "open", 1.0), ("\ufb01n", "fin", 1.0),
        # Spaces that do not break, are as wide as a letter, thin, or have no width
        ("a\u00a0b", "ab", 1.0), ("a\u3000b", "a b", 1.0), ("ab", "a\u2009b", 1.0), ("a\u200bb", "ab", 1.0),
        ("cafe", "caf\u00e9", 1 - 1 / 4),  # no accent at all is another letter
    ],
)  # fmt: skip
def test_spelling_by_hand(read: str, wanted: str, score: float) -> None:
    assert spelling(read, wanted) == pytest.approx(score, abs=1e-12)


def test_an_empty_text_cannot_be_spelt() -> None:
    with pytest.raises(DataError, match="quotes an empty text"):
        spelling("a", "  ")


@pytest.fixture(scope="module")
def reader() -> OCR:
    pytest.importorskip("rapidocr", reason="the extra `ocr` is not installed")
    reward = OCR()
    reward.load()
    return reward


def lettered(text: str, font: str, size: int) -> np.ndarray:
    picture = Image.new("RGB", (360, 140), (236, 228, 205))
    ImageDraw.Draw(picture).text((16, 20), text, font=ImageFont.truetype(str(FONTS / font), size), fill=(40, 20, 70))
    return np.asarray(picture)


@pytest.mark.slow
@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "STIXGeneral.ttf"])
def test_ocr_reads_rendered_words_at_three_sizes(reader: OCR, font: str) -> None:
    pictures = np.stack([lettered("Harbour", font, size) for size in (16, 32, 72)])
    right, wrong = 'a sign that says "Harbour"', 'a sign that says "Zigzag"'
    np.testing.assert_array_equal(reader(pictures, [right] * 3, [{}] * 3), np.ones(3, np.float32))
    assert (reader(pictures, [wrong] * 3, [{}] * 3) < 0.2).all()
    # The metadata's text goes before the prompt's.
    np.testing.assert_array_equal(reader(pictures[:1], [wrong], [{"text": "har bour"}]), np.ones(1, np.float32))


def test_ocr_tells_a_wrong_letter(reader: OCR) -> None:
    picture = lettered("Harvour", "DejaVuSans.ttf", 40)[None]
    assert reader(picture, ['the word "Harbour"'], [{}])[0] == pytest.approx(1 - 1 / 7, abs=1e-6)


def test_ocr_finds_nothing_in_noise(reader: OCR) -> None:
    pictures = np.concatenate([noise(2, 140, 360, 3), np.zeros((1, 140, 360, 3), np.uint8)])
    np.testing.assert_array_equal(reader(pictures, ['"Harbour"'] * 3, [{}] * 3), np.zeros(3, np.float32))


def test_ocr_s_version_says_that_texts_are_normalised() -> None:
    assert OCR.version == "2-ppocrv6-small" and "NFKC" in OCR.source


def test_ocr_wants_a_quoted_text() -> None:
    assert OCR.applies({"text": "OPEN"}) and not OCR.applies({}) and not OCR.applies({"text": " "})
    with pytest.raises(DataError, match="a text in quotes"):
        OCR()(noise(1, 8, 8, 3), ["a red car"], [{}])


def test_ocr_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[ocr\]'"):
        OCR().load()


# JPEG


def test_jpeg_is_the_size_of_the_file_to_the_byte() -> None:
    pictures = np.stack([np.full((64, 64, 3), 128, np.uint8), noise(64, 64, 3)])
    sizes = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95)
        sizes.append(len(file.getvalue()))
    scores = Jpeg()(pictures, ["", ""], [{}, {}])
    assert (scores * -1000).round().astype(int).tolist() == sizes and sizes[0] < sizes[1] / 5
    np.testing.assert_array_equal(JpegIncompressibility()(pictures, ["", ""], [{}, {}]), -scores)


def test_the_size_of_a_grey_picture_by_hand() -> None:
    """16 x 16 grey: headers, then 4 luma and 2 chroma blocks without any coefficient, in the standard's tables.

    Start 2, APP0 18, two quantisation tables 2 (4 + 65), frame 19, four Huffman tables 33 + 183 + 33 + 183, scan 14 and
    end 2 bytes are 625 bytes. A block whose difference and whose coefficients are all zero takes 2 + 4 bits in luma and
    2 + 2 in chroma; grey 128 is zero. 4 x 6 + 2 x 4 = 32 bits are 4 bytes.
    """
    assert Jpeg()(np.full((1, 16, 16, 3), 128, np.uint8), [""], [{}])[0] == np.float32(-0.629)


# GenEval


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judges")
    write_detector(folder / "facebook--mask2former-swin-small-coco-instance")
    write_clip(folder / "openai--clip-vit-large-patch14", seed=1)
    return folder


@pytest.fixture
def judge(weights: Path, monkeypatch: pytest.MonkeyPatch) -> GenEval:
    monkeypatch.setenv("BENCH_WEIGHTS", str(weights))
    reward = GenEval()
    reward.load()
    return reward


def claim(label: str, tag: str = "single_object", **more: str) -> dict[str, object]:
    return {"tag": tag, "include": [{"class": label, "count": 1, **more}]}


@pytest.mark.slow
def test_geneval_tells_pictures_prompts_and_colors_apart(judge: GenEval) -> None:
    assert judge._eyes is not None
    detector, namer = judge._eyes
    pictures = [noise(64, 64, 3), np.zeros((64, 64, 3), np.uint8)]
    seen = [{found.label: found for found in detector(picture)} for picture in pictures]
    only_first = (seen[0].keys() - seen[1].keys()).pop()
    scores = judge(np.stack(pictures), ["", ""], [claim(only_first)] * 2)
    np.testing.assert_array_equal(scores, np.array([1, 0], np.float32))
    color = namer(pictures[0], only_first, [seen[0][only_first]])[0]
    other = "red" if color != "red" else "blue"
    claims = [claim(only_first, "colors", color=name) for name in (color, other)]
    np.testing.assert_array_equal(judge(np.stack(pictures[:1] * 2), ["", ""], claims), np.array([1, 0], np.float32))
    # Nothing here is as sure as counting wants it.
    np.testing.assert_array_equal(judge(np.stack(pictures[:1]), [""], [claim(only_first, "counting")]), [0.0])


def test_colors_are_embedded_by_three_sentences_each(judge: GenEval) -> None:
    assert judge._eyes is not None
    namer = judge._eyes[1]
    texts = ["a photo of a green dog", "a photo of a green-colored dog", "a photo of a green object"]
    each = np.concatenate([namer._clip.text([text]).numpy() for text in texts]).astype(np.float64)
    mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(namer._classifier("dog")[3].numpy(), mean / np.linalg.norm(mean), atol=1e-5)


def test_the_detector_s_numbers_by_hand() -> None:
    from rewards._geneval_detector import instances

    def log(probability: float) -> float:
        return float(np.log(probability))

    classes = torch.full((3, 81), -60.0)
    classes[0, 16], classes[0, 80] = log(0.8), log(0.2)  # a dog, in two pixels of chance 0.9 and 0.7
    classes[1, 15], classes[1, 17] = log(0.5), log(0.5)  # a cat and a horse, in three pixels of chance 0.75
    classes[2, 0] = log(1.0)  # a person without a pixel
    masks = torch.full((3, 4, 5), -9.0)
    masks[0, 1, 2], masks[0, 3, 2] = log(0.9 / 0.1), log(0.7 / 0.3)
    masks[1, 0, 1:4] = log(3.0)
    found = {one.label: one for one in instances(classes, masks)}
    assert found.keys() == {"dog", "cat", "horse"}
    assert found["dog"].confidence == pytest.approx(0.8 * (0.9 + 0.7) / 2, abs=1e-6)
    assert found["cat"].confidence == found["horse"].confidence == pytest.approx(0.5 * 0.75, abs=1e-6)
    assert found["dog"].box == (2, 1, 3, 4) and found["cat"].box == (1, 0, 4, 1)
    assert found["dog"].mask is not None and found["dog"].mask.sum() == 2
    classes[1, 15], classes[1, 17] = log(0.39), log(0.61)  # 0.39 x 0.75 is below 0.3
    assert {one.label for one in instances(classes, masks)} == {"dog", "horse"}


def test_an_object_is_cut_out_on_grey() -> None:
    from rewards._geneval_detector import cut_out

    mask = np.zeros((4, 6), bool)
    mask[1, 2:4], mask[2, 2] = True, True
    picture = noise(4, 6, 3)
    cut = cut_out(picture, Detection("dog", 1.0, (2, 1, 4, 3), mask))
    assert cut.shape == (2, 2, 3)
    np.testing.assert_array_equal(cut[0], picture[1, 2:4])
    np.testing.assert_array_equal(cut[1], [picture[2, 2], [0x99, 0x99, 0x99]])


def shown(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the detector is shown at `size` (h, w): by Pillow's filter, ImageNet's numbers and black up to 32."""
    resized = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    pixels = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.pad(pixels, ((0, -size[0] % 32), (0, -size[1] % 32), (0, 0))).transpose(2, 0, 1)


# The shorter side to 800, the longer at most 1333: x 1.5625, x 16.67 (1066.67 is rounded), x 6.665 (666.5 too)
SIZES = [((512, 512), (800, 800)), ((48, 64), (800, 1067)), ((200, 100), (1333, 667))]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "grown"), SIZES)
def test_the_detector_is_shown_what_it_was_published_with(size: tuple[int, int], grown: tuple[int, int]) -> None:
    from rewards._geneval_detector import seen

    picture = noise(*size, 3)
    found = seen(picture).numpy()
    assert found.shape[1:] == grown
    np.testing.assert_allclose(found, shown(picture, grown)[:, : grown[0], : grown[1]], atol=1e-5)
    linear = bilinear(bilinear(picture.astype(np.float64), grown[0], 0), grown[1], 1)  # OpenCV's, unrounded
    grey = np.abs(
        found * np.reshape([58.395, 57.12, 57.375], (3, 1, 1))
        + np.reshape([123.675, 116.28, 103.53], (3, 1, 1))
        - linear.transpose(2, 0, 1)
    )
    assert grey.max() < 1.1  # each axis is rounded to whole grey levels


def bilinear(x: np.ndarray, count: int, axis: int) -> np.ndarray:
    """One axis interpolated to so many places, whose centres are spread evenly."""
    have = x.shape[axis]
    places = np.clip((np.arange(count) + 0.5) * have / count - 0.5, 0, have - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, have - 1)
    part = (places - below).reshape([-1 if dim == axis else 1 for dim in range(x.ndim)])
    return x.take(below, axis) * (1 - part) + x.take(above, axis) * part


@pytest.mark.slow
@pytest.mark.parametrize(("size", "grown"), SIZES[1:])
def test_detections_are_computed_as_published(
    judge: GenEval, weights: Path, size: tuple[int, int], grown: tuple[int, int]
) -> None:
    """The network as transformers reads it; its logits go through numpy, in float64."""
    assert judge._eyes is not None
    picture = noise(*size, 3)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(weights / DETECTOR.home.replace("/", "--"))
    pixels = shown(picture, grown)
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(pixels)[None].float())
    masks = out.masks_queries_logits[0].double().numpy()
    masks = bilinear(bilinear(masks, pixels.shape[1], 1), pixels.shape[2], 2)[:, : grown[0], : grown[1]]
    masks = bilinear(bilinear(masks, size[0], 1), size[1], 2)
    chances = np.exp(out.class_queries_logits[0].double().numpy())
    chances = (chances / chances.sum(1, keepdims=True))[:, :80]
    expected = []
    for query, label in zip(*np.unravel_index(np.argsort(-chances, None)[:100], chances.shape), strict=True):
        mask = masks[query] > 0
        if mask.any():
            confidence = chances[query, label] * (1 / (1 + np.exp(-masks[query][mask]))).mean()
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            expected += [(confidence, CLASSES[label], box, mask)] if confidence > 0.3 else []
    found = sorted(judge._eyes[0](picture), key=lambda one: one.confidence)
    assert len(found) == len(expected) > 0
    for one, (confidence, name, box, mask) in zip(found, sorted(expected, key=lambda one: one[0]), strict=True):
        assert one.confidence == pytest.approx(confidence, abs=1e-5)
        assert (one.label, one.box) == (name, box)
        assert one.mask is not None and (one.mask == mask).mean() > 0.999


def test_colors_are_computed_as_published(judge: GenEval, weights: Path) -> None:
    """transformers' forward passes; the object's box on grey, cropped by hand."""
    assert judge._eyes is not None
    picture, mask = noise(60, 90, 3), np.zeros((60, 90), bool)
    mask[10:30, 20:73] = True
    mask[12:15, 22:40] = False
    found = Detection("dog", 1.0, (20, 10, 73, 30), mask)
    grey = np.where(mask[..., None], picture, np.uint8(0x99))[10:30, 20:73]
    crop = Image.fromarray(grey).resize((74, 28), Image.Resampling.BICUBIC).crop((23, 0, 51, 28))  # 28 x 53 / 20
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = torch.from_numpy(((np.asarray(crop) / 255 - mean) / deviation).transpose(2, 0, 1))[None].float()
    folder = weights / "openai--clip-vit-large-patch14"
    model, tokenizer = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(folder),
    )
    expected = []
    with torch.no_grad():
        image = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output)
        for color in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"):
            texts = [f"a photo of a {color} dog", f"a photo of a {color}-colored dog", f"a photo of a {color} object"]
            tokens = tokenizer(texts, padding=True, return_tensors="pt")
            each = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output).mean(0)
            expected.append(float((image @ each / each.norm())[0]))
    likeness = judge._eyes[1].likeness(picture, "dog", [found])
    np.testing.assert_allclose(likeness.numpy(), [expected], atol=1e-5)
    assert judge._eyes[1](picture, "dog", [found]) == [COLORS[int(np.argmax(expected))]]


def broken(weights: Path, folder: Path, change: Callable[[Path], None]) -> None:
    shutil.copytree(weights, folder)
    change(folder / "facebook--mask2former-swin-small-coco-instance")


def retensored(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


INDEX = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (retensored(lambda t: t.pop("class_predictor.bias")), "1 missing (class_predictor.bias)"),
        (retensored(lambda t: t.update({"head.bias": torch.ones(1)})), "1 unexpected (head.bias)"),
        (retensored(lambda t: t.update({"class_predictor.bias": torch.ones(3)})), "predictor.bias (3,) for (81,)"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), "expected a Mask2Former with safetensors weights"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    ],
    ids=["missing", "unexpected", "shape", "damaged", "absent"],
)  # fmt: skip
def test_another_detector_is_refused_by_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    broken(weights, tmp_path / "w", change)
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "w"))
    with pytest.raises(DataError) as caught:
        GenEval().load()
    assert message in str(caught.value)


@pytest.mark.slow
def test_tables_that_the_detector_computes_may_stand_in_its_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: GenEval
) -> None:
    def older(tensors: dict[str, torch.Tensor]) -> None:
        tensors[INDEX] = torch.zeros(16, 16, dtype=torch.long)
        del tensors["criterion.empty_weight"]

    broken(weights, tmp_path / "w", retensored(older))
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "w"))
    other = GenEval()
    other.load()
    assert other.fingerprint != judge.fingerprint
    picture, requested = noise(1, 64, 64, 3), [claim("dog")]
    np.testing.assert_array_equal(other(picture, [""], requested), judge(picture, [""], requested))


def test_a_detector_of_other_classes_is_refused(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> None:
        shutil.rmtree(folder)
        write_detector(folder, num_labels=3)

    broken(weights, tmp_path / "w", other)
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "w"))
    with pytest.raises(DataError, match="a detector of COCO's 80 classes, got 3"):
        GenEval().load()


def test_absent_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    for ask in (GenEval.require_checkpoint, GenEval().load):
        with pytest.raises(CheckpointMissing) as caught:
            ask()
        assert f"hf download {DETECTOR.home}" in str(caught.value) and "licence" in str(caught.value)


@pytest.mark.parametrize(
    ("about", "applies"),
    [
        (claim("dog"), True), (claim("dog", color="red"), True), (claim("circle"), False),
        (claim("dog", color="beige"), False), ({"tag": "text", "include": [], "text": "A"}, False), ({}, False),
    ],
)  # fmt: skip
def test_geneval_applies_to_its_own_words(about: dict[str, object], applies: bool) -> None:
    assert GenEval.applies(json.loads(json.dumps(about))) is applies


def test_geneval_refuses_what_it_cannot_judge(judge: GenEval) -> None:
    with pytest.raises(DataError, match="metadata in GenEval's format"):
        judge(noise(1, 64, 64, 3), ["a circle"], [claim("circle")])
