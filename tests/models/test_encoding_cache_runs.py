"""Runs with the cache of encodings: the same bytes whatever it held, and a miss wherever anything differs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.api import DataError
from bench.budget import Budget, Ledger, Limit
from bench.cli.main import main
from bench.config.settings import Experiment, Runtime, Train
from bench.datasets.pictures.decoding import middle_crop
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.worlds import experiment_world
from bench.models.encoding_cache import cached_encoder as module
from bench.models.encoding_cache.folder import folder_of_all
from bench.models.encoding_cache.latents import moments_of, pixel_digest, stacked
from bench.models.encoding_cache.store import Store
from bench.models.policy import PipelinePolicy
from bench.training.context import Metering
from bench.training.curation import curated_data
from bench.training.env import SampleDraw
from tests.support.cells import experiment, facts, run
from tests.support.user_pictures import captions, image_folder

SMALL = {
    "world": "images", "tasks": ["pictures"], "methods": ["sft"], "budget": "2updates",
    "task.scorers": ["scenes-aesthetic", "jpeg"], "task.reward": "scenes-aesthetic", "task.select": None,
    "task.primary": "scenes-aesthetic", "task.candidates": 64, "evaluation.milestones": [1.0],
    "evaluation.final_prompts": 4, "evaluation.held_out_prompts": 0, "evaluation.grid_steps": [],
    "train.batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return folder_of_all()


def small(pipeline: Path, folder: Path, **overrides: Any) -> Experiment:
    return experiment(pipeline, **{**SMALL, "data.path": str(folder), **overrides})


def counts(cell: Path) -> tuple[int, int]:
    """Encodings found, and made."""
    told = json.loads((cell / "telemetry.jsonl").read_text().splitlines()[-1])["encodings"]
    return told["found"], told["made"]


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_a_run_ends_with_the_same_bytes_whatever_the_cache_held(
    tiny_pipeline: Path, folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def cell(name: str, **overrides: Any) -> tuple[dict[str, bytes], tuple[int, int] | None, int]:
        events = run(small(tiny_pipeline, folder, **overrides), tmp_path / name, "sft")
        place = tmp_path / name / "smoke" / "pictures" / "sft" / "seed0"
        found = None if "cache_gib" in overrides else counts(place)
        return facts(place), found, sum(event["event"] == "note" for event in events)

    without, _, _ = cell("without", cache_gib=0.0)
    assert not cache.exists()
    cold, (found, made), _ = cell("cold")  # type: ignore[misc]
    assert made == len(entries(cache)) > 60
    whole = found + made  # the states of the drift are among the pictures that train
    for path in entries(cache)[::3]:  # so that what is left is met in other company than at first
        path.unlink()
    flip(entries(cache)[1])
    lost = made - len(entries(cache)) + 1
    healed, (found, again), notes = cell("healed")  # type: ignore[misc]
    assert found + again == whole and again == lost and notes == 1
    monkeypatch.setattr(module, "HELD_BYTES", 5_000)  # everything is read from disk as it is needed
    warm, told, notes = cell("warm")
    assert told == (whole, 0) and notes == 0
    assert without == cold == healed == warm
    assert main(["cache"]) == 0
    assert "encoded  31 pictures, " in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert "0.0 MiB in 0 files" in capsys.readouterr().out and not entries(cache)


# What names an encoding


def made_for(policy: PipelinePolicy, texts: list[str]) -> int:
    """How many of the texts had to be encoded."""
    assert policy.store is not None
    before = policy.store.counts.made
    policy.texts.prepare(texts)
    return policy.store.counts.made - before


def shrunken(folder: Path, **runtime: Any) -> PipelinePolicy:
    """A model with T5, held in a folder's name that stands for its files."""
    settings = Runtime(**{"resolution": 64, "text_length": 24, **runtime})
    policy = PipelinePolicy.load("shrunken", weights="random", device="cpu", runtime=settings)
    policy.keep(Store(folder_of_all(), 2.0**30), folder)
    return policy


@pytest.mark.slow
def test_another_text_length_precision_or_encoder_misses(tmp_path: Path) -> None:
    texts = ["a star", "a moon"]
    model = tmp_path / "model"
    for part in ("text_encoder", "text_encoder_3", "tokenizer"):
        (model / part).mkdir(parents=True)
        (model / part / "config.json").write_text(part)
    assert made_for(shrunken(model), texts) == 2
    assert made_for(shrunken(model), [*texts, "A star", "a star "]) == 2
    assert made_for(shrunken(model, resolution=128), texts) == 0  # of no account to texts
    for other in ({"text_length": 16}, {"t5": False}, {"frozen_weights": "bfloat16"}):
        assert made_for(shrunken(model, **other), texts) == 2
    other = tmp_path / "other"
    for part in ("text_encoder", "text_encoder_3", "tokenizer"):
        (other / part).mkdir(parents=True)
        (other / part / "config.json").write_text(part if part != "tokenizer" else "another")
    assert made_for(shrunken(other), texts) == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert made_for(shrunken(model), texts) == 2
    finally:
        torch.set_num_threads(threads)


def test_another_picture_crop_or_size_misses(tiny_pipeline: Path, folder: Path) -> None:
    place = experiment_world(small(tiny_pipeline, folder))
    assert isinstance(place, ImagesWorld)
    picture = place._prepared.training[0]
    before = picture.prepared_digest((64, 64))
    assert place.candidates(place.categories, 64).digests[0] == before  # type: ignore[index]
    other_shape = middle_crop(picture.crop.width + 2, picture.crop.height, (64, 64))
    others = [dataclasses.replace(picture, crop=other_shape), dataclasses.replace(picture, digest="0" * 16)]
    digests = {before, picture.prepared_digest((80, 48)), *(other.prepared_digest((64, 64)) for other in others)}
    assert len(digests) == 4
    assert dataclasses.replace(picture, caption="another", name="b.png").prepared_digest((64, 64)) == before
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert pixel_digest(pixels) != pixel_digest(pixels.reshape(6, 4, 3))
    changed = pixels.copy()
    changed[3, 5, 2] = 1
    assert pixel_digest(pixels) != pixel_digest(changed)


# Encoders


@pytest.mark.slow
def test_text_encoders_leave_memory_and_are_not_loaded_where_nothing_is_missing(
    tiny_pipeline: Path, folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_pipeline, model)
    parked = small(model, folder, **{"runtime.park_encoders": True})
    world, texts = experiment_world(parked), captions(3)
    expected = PipelinePolicy.load(model, device="cpu").encode(texts)

    def made() -> PipelinePolicy:
        policy = PipelinePolicy.of(parked, world)
        assert policy.pipeline.text_encoder is policy.pipeline.text_encoder_2 is None
        policy.texts.prepare(texts)
        assert policy.pipeline.text_encoder is policy.pipeline.text_encoder_2 is None
        found = policy.encode(texts)
        assert torch.equal(found.embeds, expected.embeds) and torch.equal(found.pooled, expected.pooled)
        return policy

    assert made().store.counts.made == 3  # type: ignore[union-attr]
    (model / "text_encoder_2" / "model.safetensors").unlink()
    again = made()
    assert again.store.counts.made == 0  # type: ignore[union-attr]
    with pytest.raises(DataError, match="expected a complete StableDiffusion3Pipeline folder"):
        again.encode(["a red circle beside a blue star"])


# Bits


@pytest.mark.slow
def test_an_encoding_has_the_same_bits_in_whatever_company(tiny_pipeline: Path) -> None:
    policy, texts = PipelinePolicy.load(tiny_pipeline, device="cpu"), captions(40)
    whole = policy.encode(texts)
    for some in ([39], [7, 3], list(range(39, 0, -1))):
        alone = PipelinePolicy.load(tiny_pipeline, device="cpu").encode([texts[i] for i in some])
        assert torch.equal(alone.embeds, whole.embeds[some]) and torch.equal(alone.pooled, whole.pooled[some])
    pictures = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3), dtype=np.uint8)
    mean, std = policy.encode_pictures(pictures)
    for rows in ([20], [7, 3], list(range(20, 0, -1))):
        some_mean, some_std = policy.encode_pictures(pictures[rows])
        assert torch.equal(some_mean, mean[rows]) and torch.equal(some_std, std[rows])


@pytest.mark.slow
def test_cached_moments_give_another_latent_in_every_epoch(tiny_pipeline: Path, folder: Path) -> None:
    e = small(tiny_pipeline, folder)
    world = experiment_world(e)

    def draws() -> list[tuple[str, torch.Tensor]]:
        policy = PipelinePolicy.of(e, world)
        dataset = curated_data(world, e.tasks[0], policy, None)
        size = len(dataset)
        ledger = Ledger()
        metering = Metering(ledger, Limit(Budget(1e9, "images"), ledger), unit=1.0)
        draw = SampleDraw(policy, metering, Train(batch_size=size, micro_batch=size), 0, dataset)
        batches = [next(iter(draw.batches())) for _ in range(2)]
        return [(text, z0) for batch in batches for text, z0 in zip(batch.prompts, batch.z0, strict=True)]

    cold, warm = draws(), draws()
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(cold, warm, strict=True))
    first, second = dict(cold[: len(cold) // 2]), dict(cold[len(cold) // 2 :])
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[text], second[text]) for text in first)


@pytest.mark.slow
def test_pictures_are_read_only_where_they_have_to_be_encoded(tiny_pipeline: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    requested: list[int] = []

    def pixels(numbers: np.ndarray) -> np.ndarray:
        requested.extend(numbers.tolist())
        return pictures[numbers]

    def encoded(numbers: list[int], folder: Path = tiny_pipeline, side: int = 64) -> torch.Tensor:
        policy = PipelinePolicy.load(tiny_pipeline, device="cpu", runtime=Runtime(resolution=side))
        policy.keep(Store(folder_of_all(), 2.0**30), folder)
        some = moments_of(policy, [pixel_digest(picture) for picture in pictures], pixels)
        some.prepare(numbers)
        return stacked(some, numbers)[0]

    first = encoded([0, 1, 2])
    assert torch.equal(encoded([2, 1, 4, 0])[[3, 1, 0]], first)
    assert requested == [0, 1, 2, 4]
    other = tmp_path / "other"
    shutil.copytree(tiny_pipeline / "vae", other / "vae")
    encoded([0], other)  # the same files elsewhere
    assert requested == [0, 1, 2, 4]
    (other / "vae" / "config.json").write_text("{}")
    encoded([0], other.rename(tmp_path / "changed"))
    assert requested == [0, 1, 2, 4, 0]
    with pytest.raises(DataError, match="the model takes"):  # asked for, because of another size
        encoded([0], side=32)
