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

from bench.api import CheckpointMissing, ConfigError, DataError
from rewards.geneval import DETECTOR, GenEval
from rewards.jpeg import Jpeg, JpegIncompressibility
from rewards.ocr import OCR, spelling
from tests.tiny_checkpoints import write_clip
from tests.tiny_detector import SIDE, write_detector

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


def test_ocr_wants_a_quoted_text() -> None:
    assert OCR.applies({"text": "OPEN"}) and not OCR.applies({}) and not OCR.applies({"text": " "})
    with pytest.raises(DataError, match="a text in double quotes"):
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
    from rewards._geneval_eyes import instances

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
    from rewards._geneval_eyes import cut_out
    from rewards._geneval_rules import Detection

    mask = np.zeros((4, 6), bool)
    mask[1, 2:4], mask[2, 2] = True, True
    picture = noise(4, 6, 3)
    cut = cut_out(picture, Detection("dog", 1.0, (2, 1, 4, 3), mask))
    assert cut.shape == (2, 2, 3)
    np.testing.assert_array_equal(cut[0], picture[1, 2:4])
    np.testing.assert_array_equal(cut[1], [picture[2, 2], [0x99, 0x99, 0x99]])


@pytest.mark.parametrize(("height", "width", "seen"), [(64, 64, (64, 64)), (48, 64, (64, 96)), (200, 100, (128, 64))])
def test_what_the_detector_sees_is_computed_as_published(
    judge: GenEval, height: int, width: int, seen: tuple[int, int]
) -> None:
    """Against Pillow and numpy: the shorter side to 64 here, the longer at most 107, both up to multiples of 32."""
    assert judge._eyes is not None
    picture = noise(height, width, 3)
    resized = Image.fromarray(picture).resize(seen[::-1], Image.Resampling.BILINEAR)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((np.asarray(resized) / 255 - mean) / deviation).transpose(2, 0, 1)
    given = judge._eyes[0]._processor(images=picture, return_tensors="np")["pixel_values"][0]
    assert SIDE == 64 and np.abs(given - expected).max() < 1e-5


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (retensored(lambda t: t.pop("class_predictor.bias")), "1 missing (class_predictor.bias)"),
        (retensored(lambda t: t.update({"head.bias": torch.ones(1)})), "1 unexpected (head.bias)"),
        (retensored(lambda t: t.update({"class_predictor.bias": torch.ones(3)})), "predictor.bias (3,) for (81,)"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), "expected a Mask2Former with safetensors weights"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "expected the preprocessing of a Mask2Former"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    ],
    ids=["missing", "unexpected", "shape", "damaged", "preprocessing", "absent"],
)  # fmt: skip
def test_another_detector_is_refused_by_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    broken(weights, tmp_path / "w", change)
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "w"))
    with pytest.raises(DataError) as caught:
        GenEval().load()
    assert message in str(caught.value)


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
    picture, asked = noise(1, 64, 64, 3), [claim("dog")]
    np.testing.assert_array_equal(other(picture, [""], asked), judge(picture, [""], asked))


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
    with pytest.raises(CheckpointMissing) as caught:
        GenEval().load()
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
