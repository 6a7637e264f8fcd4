"""Several captions a picture, captions that are too long, and pictures that an epoch shows more than once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import rng
from bench.budget import Budget, Ledger
from bench.config.load import load_settings
from bench.config.pictures import Data
from bench.datasets.dataset import Dataset
from bench.datasets.pictures.model_limits import CaptionLimits
from bench.datasets.pictures.preparation import pictures_table, prepare_pictures, split_of
from bench.datasets.pictures.rows import PictureFault
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.worlds import experiment_world
from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from bench.training.context import TaskContext
from bench.training.stage import Stage, StageStart
from tests.support.user_pictures import captions, noise, write_listing

COUNT = 40
REWARD = "scenes-aesthetic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each picture has three captions; one of each is a caption that judges."""
    place = tmp_path_factory.mktemp("several")
    judging = next(text for text in captions(COUNT) if split_of(text) == "report")
    rows = []
    for number, text in enumerate(captions(COUNT)):
        noise(number).save(place / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "captions": [text, f"{text} below", judging.upper()]})
    write_listing(place, rows)
    return place


def test_the_first_caption_is_the_prompt_and_what_judges_is_never_drawn(folder: Path, tiny_pipeline: Path) -> None:
    world = ImagesWorld(Data(path=str(folder)), str(tiny_pipeline))
    found = world.candidates(world.categories, 1000)
    assert [p.text for p in found.prompts] == [text for text in captions(COUNT) if split_of(text) == "train"]
    assert list(found.more) == [(f"{p.text} below",) for p in found.prompts]
    texts = {
        text
        for split in ("tune", "report", "held_out")
        for p in world.prompts(split, ("all",), 99)
        for text in [p.text]
    }
    assert texts.isdisjoint(text for more in found.more for text in more)
    prepared = prepare_pictures(Data(path=str(folder)), tiny_pipeline)
    assert prepared.settings.identity()["several"] == COUNT
    assert f"  {COUNT} pictures have several: the first is the prompt" in pictures_table(prepared)


def test_more_captions_make_other_data(folder: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    before = prepare_pictures(Data(path=str(folder)), tiny_pipeline).found
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    write_listing(tmp_path, [row | {"captions": row["captions"][:1]} for row in rows])
    single = prepare_pictures(Data(path=str(tmp_path)), tiny_pipeline)
    assert single.found.fingerprint != before.fingerprint and "several" not in single.settings.identity()
    write_listing(tmp_path, [{"file_name": row["file_name"], "text": row["captions"][0]} for row in rows])
    assert prepare_pictures(Data(path=str(tmp_path)), tiny_pipeline).found.fingerprint == single.found.fingerprint


def test_a_caption_is_drawn_by_the_number_of_the_sample() -> None:
    z = torch.zeros(2, 1)
    data = Dataset(lambda rows: (z, z), ["a", "b"], [{}, {}], "nothing", 0, [("a1", "a2", "a3"), ()])
    draws = np.array([0.0, 0.25, 0.74, 0.99, 0.5])
    assert data.drawn(np.array([0, 0, 0, 0, 1]), lambda: draws) == ["a", "a1", "a2", "a3", "b"]
    assert data.texts == ["a", "b", "a1", "a2", "a3"]
    plain = Dataset(lambda rows: (z, z), ["a", "b"], [{}, {}], "nothing", 0)
    assert plain.drawn(np.array([1]), lambda: pytest.fail("nothing is drawn where there is no choice")) == ["b"]


def stage(folder: Path, pipeline: Path, method: str, **more: Any) -> Stage:
    values = {
        "model": str(pipeline), "data.path": str(folder), "task.scorers": [REWARD], "task.reward": REWARD,
        "task.primary": REWARD, "train.batch_size": 8, "train.micro_batch": 5, "methods": [method], **more,
    }  # fmt: skip
    if method == "soar":
        values["soar.num_points"] = 1
    e = load_settings("images", values)
    policy = PipelinePolicy.load(pipeline, device="cpu")
    context = TaskContext(experiment_world(e), e.tasks[0], policy, load_scorers({REWARD}))
    return Stage.enter(StageStart(e.stages(method)[0], Budget.parse("1e9")), context, Ledger(), 1.0)


def seen(one: Stage, updates: int) -> list[tuple[int, str]]:
    return [
        (int(i), t)
        for _ in range(updates)
        for b in one.env.draw.batches()
        for i, t in zip(b.index, b.prompts, strict=True)
    ]


def test_all_methods_and_resumes_see_the_same_captions(folder: Path, tiny_pipeline: Path) -> None:
    sft, soar = (stage(folder, tiny_pipeline, method) for method in ("sft", "soar"))
    whole = seen(sft, 12)
    assert whole == seen(soar, 12)
    resumed = stage(folder, tiny_pipeline, "sft", **{"train.micro_batch": 3})
    resumed.env.draw.samples_drawn = 6 * 8
    assert seen(resumed, 6) == whole[6 * 8 :]
    per_picture = Counter(text.removesuffix(" below") for _, text in whole)
    drawn = Counter(text.endswith(" below") for _, text in whole)
    assert set(per_picture.values()) <= {3, 4}  # of 96 samples: an epoch shows each picture once
    assert min(drawn[True], drawn[False]) > 25  # of 96, half each but for chance
    second = [rng.uniform(0, "caption", [index])[0] >= 0.5 for index, _ in whole]
    assert second == [text.endswith(" below") for _, text in whole]


def test_repeated_pictures_are_shown_as_often_as_their_folder_says(tiny_pipeline: Path, tmp_path: Path) -> None:
    train = [text for text in captions(60) if split_of(text) == "train"][:6]
    others = [text for text in captions(60) if split_of(text) != "train"]
    for number, text in enumerate([*train, *others]):
        place = tmp_path / ("3_thrice" if number < 2 else "1_once")
        place.mkdir(exist_ok=True)
        noise(number).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(text)
    one = stage(tmp_path, tiny_pipeline, "sft", **{"train.batch_size": 10})
    assert Counter(text for _, text in seen(one, 1)) == Counter(train[:2] * 3 + train[2:])
    prepared = prepare_pictures(Data(path=str(tmp_path)), tiny_pipeline)
    assert (prepared.found.training, prepared.found.shown) == (6, 10)
    assert "6 pictures, shown 10 times an epoch, as their folders repeat them" in pictures_table(prepared)


LONG = "a red circle above a blue square below a green star above a cyan heart below a big pink cross and more words"


def test_long_captions_are_left_out_or_cut_at_a_word(tiny_pipeline: Path) -> None:
    (fault,) = CaptionLimits(tiny_pipeline).read([LONG])
    assert isinstance(fault, PictureFault) and fault.kind == "caption too long"
    assert "; --data.long_captions cut cuts it" in fault.detail
    limits = CaptionLimits(tiny_pipeline, cut=True)
    cut, fits, both = limits.read([LONG, "a cat", ["a cat", LONG]])
    (text,) = cut.texts
    assert cut.cut == 1 and LONG.startswith(f"{text} ") and limits.faults([text]) == [None]
    longer = LONG[: LONG.index(" ", len(text) + 1)]
    assert limits.faults([longer])[0].kind == "caption too long"
    assert (fits.texts, fits.cut) == (("a cat",), 0)
    assert (both.texts, both.cut) == (("a cat", text), 1)
    (hopeless,) = limits.read(["x" * 100])
    assert hopeless.kind == "caption too long"  # not one whole word
    assert limits.fingerprint != CaptionLimits(tiny_pipeline).fingerprint


def test_cut_and_unread_captions_are_counted_and_told(tiny_pipeline: Path, tmp_path: Path) -> None:
    texts = [*captions(COUNT), LONG, "a cat; a dog!"]
    rows = []
    for number, text in enumerate(texts):
        noise(number).save(tmp_path / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": text})
    write_listing(tmp_path, rows)
    prepared = prepare_pictures(Data(path=str(tmp_path), long_captions="cut"), tiny_pipeline)
    assert (prepared.found.kept, prepared.found.cut, prepared.found.unread) == (COUNT + 2, 1, 1)
    assert prepared.settings.identity()["cut"] == 1
    shown = pictures_table(prepared)
    assert "  1 cut to what the text encoders read" in shown
    assert "  1 with punctuation that the text encoders do not know" in shown
    dropped = prepare_pictures(Data(path=str(tmp_path), allow_broken=0.1), tiny_pipeline)
    assert dropped.found.left_out == {"caption too long": 1} and dropped.found.fingerprint != prepared.found.fingerprint
    assert prepared.inspected.kept[-1].caption == "a cat; a dog!"  # as the user wrote it
