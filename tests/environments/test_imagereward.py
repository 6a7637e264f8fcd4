"""ImageReward as it is published: the real package, in its real environment, on a checkpoint of its real format.

The environment takes minutes and gigabytes to build, so this is a step of its own: BENCH_TEST_IMAGEREWARD=1. It is
built below $BENCH_CACHE as it was given, and found there by the hash of its pins the next time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.api import DataError, PluginError
from bench.cli.main import main
from bench.scoring.scorer import Scorer
from bench.scoring.workers.pinned_environment import PinnedEnvironment
from bench.scoring.workers.worker_process import WorkerProcess
from rewards import convert
from rewards.imagereward import CHECKPOINT, PINS, VOCABULARY, ImageReward

GIVEN_CACHE = os.environ.get("BENCH_CACHE")  # read before the tests have one of their own
pytestmark = pytest.mark.skipif(
    os.environ.get("BENCH_TEST_IMAGEREWARD") != "1",
    reason="builds an environment of 1.4 GB: a step of its own, with BENCH_TEST_IMAGEREWARD=1",
)

# The published med_config.json, with one small layer for twelve; the picture tower, a ViT-L/16, is part of the package.
CONFIGURATION = {
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 64,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 1, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 300, "encoder_width": 768,
    "add_cross_attention": True,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "red", "blue", "circle", "star"]
PROMPTS = ["a red circle", "a blue star", "a red circle " * 30]
PUBLISHED = """
import json, sys
import numpy, ImageReward
from PIL import Image
weights, configuration, pictures, prompts, seen = sys.argv[1:]
model = ImageReward.load(weights, device="cpu", med_config=configuration)
images = [Image.fromarray(picture) for picture in numpy.load(pictures)]
numpy.save(seen, numpy.stack([model.preprocess(image).numpy() for image in images]))
print("scores", json.dumps([model.score(prompt, image) for prompt, image in zip(json.loads(prompts), images)]))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[PinnedEnvironment]:
    """The environment, built or found."""
    given = pytest.MonkeyPatch()
    if GIVEN_CACHE is None:
        given.delenv("BENCH_CACHE")
    else:
        given.setenv("BENCH_CACHE", GIVEN_CACHE)
    found = PinnedEnvironment("imagereward", PINS)
    found.build(print)
    yield found
    given.undo()


@pytest.fixture(scope="module")
def originals(environment: PinnedEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageReward.pt and med_config.json as published, random; and the tokenizer where the package looks for it."""
    folder = tmp_path_factory.mktemp("imagereward")
    (folder / "med_config.json").write_text(json.dumps(CONFIGURATION))
    VOCABULARY.folder.mkdir(parents=True)
    pieces = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (VOCABULARY.folder / "vocab.txt").write_text("\n".join([*WORDS, *pieces]))
    shutil.copytree(VOCABULARY.folder, folder / "bert-base-uncased")
    process = WorkerProcess("imagereward", environment.python(), environment.worker)
    shapes = process.call(
        "build", configuration=str(folder / "med_config.json"), vocabulary=str(VOCABULARY.folder), device="cpu",
        threads=1,
    )  # fmt: skip
    process.close()
    torch.save(random_weights(shapes), folder / "ImageReward.pt")
    convert.convert_imagereward(folder / "ImageReward.pt")
    return folder


def random_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Normal draws; norms near 1, and a head so large that pictures and prompts are told apart."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(shape[1])[None]
            continue
        is_norm = name.endswith("weight") and "norm" in name.lower()
        deviation = 2 / shape[-1] ** 0.5 if name.startswith("mlp") and name.endswith("weight") else 0.05
        tensors[name] = deviation * torch.randn(shape, generator=generator) + is_norm
    return tensors


@pytest.fixture(scope="module")
def reward(originals: Path) -> ImageReward:
    """The scorer, loaded."""
    reward, begin = ImageReward(), time.monotonic()
    reward.load()
    print(f"started in {time.monotonic() - begin:.1f} s")
    return reward


def pictures() -> np.ndarray:
    """Three pictures uint8 (3, 300, 260, 3): coarse patches, neither square nor of the network's size."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    return coarse.repeat(50, axis=1).repeat(52, axis=2)


def test_the_format_is_the_published_one(originals: Path) -> None:
    shapes = {name: tuple(t.shape) for name, t in load_file(CHECKPOINT.folder / CHECKPOINT.files[0]).items()}
    assert shapes["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert shapes["blip.visual_encoder.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["blip.text_encoder.encoder.layer.0.crossattention.self.key.weight"] == (768, 1024)
    assert shapes["mlp.layers.0.weight"] == (1024, 768) and shapes["mlp.layers.7.bias"] == (1,)
    assert {name.split(".")[0] for name in shapes} == {"blip", "mlp"}


@pytest.fixture(scope="module")
def published(
    originals: Path, environment: PinnedEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], np.ndarray]:
    """What the package's own loader, used as its page shows it, gives: scores, and what the network sees."""
    folder = tmp_path_factory.mktemp("published")
    np.save(folder / "pictures.npy", pictures())
    run = subprocess.run(
        [
            environment.python(), "-c", PUBLISHED, originals / "ImageReward.pt", originals / "med_config.json",
            folder / "pictures.npy", json.dumps(PROMPTS), folder / "seen.npy",
        ],
        cwd=originals, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1].removeprefix("scores ")), np.load(folder / "seen.npy")


def test_scores_are_those_of_the_published_loader(
    reward: ImageReward, published: tuple[list[float], np.ndarray]
) -> None:
    begin = time.monotonic()
    scores = reward(pictures(), PROMPTS, [{}] * 3)
    print(f"scored 3 pictures in {time.monotonic() - begin:.1f} s: {scores}")
    np.testing.assert_allclose(scores, published[0], rtol=0, atol=1e-5)


def test_what_the_network_sees_is_computed_as_published(published: tuple[list[float], np.ndarray]) -> None:
    """300 x 260: the shorter side to 224 by Pillow's bicubic filter, 224 of the 258 rows from row 17, normalised."""
    resized = [np.asarray(Image.fromarray(p).resize((224, 258), Image.Resampling.BICUBIC)) for p in pictures()]
    pixels = np.stack(resized)[:, 17 : 17 + 224] / 255
    expected = (pixels - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose(published[1], expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_it_conforms_and_can_be_handed_to_trl(reward: ImageReward, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, whose checks include trl's convention."""
    assert main(["check", "imagereward"]) == 0
    out = capsys.readouterr().out
    assert "passed          trl" in out and "7 passed" in out


def test_pictures_and_prompts_are_told_apart_and_batches_are_their_singles(reward: ImageReward) -> None:
    images = pictures()
    by_picture = reward(images, PROMPTS[:1] * 3, [{}] * 3)
    by_prompt = reward(images[[0, 0, 0]], PROMPTS, [{}] * 3)
    for scores in (by_picture, by_prompt):
        assert np.abs(np.diff(np.sort(scores))).min() > 1e-3
    singles = [reward(images[i : i + 1], PROMPTS[:1], [{}])[0] for i in range(3)]
    assert by_picture.tolist() == singles


def test_what_it_computes_is_charged(reward: ImageReward) -> None:
    """A ViT-L/16 on 197 tokens is 2 x 197 x 303M operations in its matrices, and some attention."""
    scorer = Scorer(reward)
    scorer.measure(pictures()[0], PROMPTS[0], {})
    assert 1.19e11 < scorer.flops < 1.35e11


def test_other_tensors_are_refused_by_name(originals: Path) -> None:
    path = CHECKPOINT.folder / CHECKPOINT.files[0]
    tensors = load_file(path)
    kept = path.rename(path.with_suffix(".kept"))
    try:
        bias = tensors.pop("mlp.layers.7.bias")
        save_file(tensors | {"blip.extra": bias, "mlp.layers.6.bias": torch.ones(2)}, path)
        with pytest.raises(DataError) as caught:
            ImageReward().load()
    finally:
        kept.replace(path)
    for told in ("missing (mlp.layers.7.bias)", "unexpected (blip.extra)", "mlp.layers.6.bias (2,) for (16,)"):
        assert told in str(caught.value)


def test_a_worker_that_is_killed_is_one_message(reward: ImageReward) -> None:
    assert reward._process is not None
    reward._process._process.kill()
    with pytest.raises(PluginError, match=r"'imagereward': its worker process was ended by SIGKILL in score\(\)"):
        reward(pictures(), PROMPTS, [{}] * 3)
