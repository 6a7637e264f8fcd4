"""The user's pictures as a world: splits by caption, lazy pictures, one fingerprint of what training sees."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from bench.api import ConfigError, DataError
from bench.config.pictures import Data
from bench.datasets.pictures.inspection import LEFT_OUT, PICTURES
from bench.datasets.pictures.preparation import pictures_table, prepare_pictures, split_of
from bench.datasets.pictures.selection import Selection, columns_of, write_selection
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.splits import SPLITS
from bench.models.policy import PipelinePolicy
from tests.datasets.test_data_pictures import ADOBE, SRGB
from tests.support.user_pictures import captions, image_folder, noise, png, write_listing

SIDE = 64  # pixels of the tiny pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tags = ["warm" if number % 3 else None for number in range(90)]
    return image_folder(tmp_path_factory.mktemp("pictures"), 90, tag=tags)


def world(folder: Path, pipeline: Path) -> ImagesWorld:
    return ImagesWorld(Data(path=str(folder)), str(pipeline))


def test_every_caption_belongs_to_one_split(folder: Path, tiny_pipeline: Path) -> None:
    place = world(folder, tiny_pipeline)
    found = {split: [p.text for p in place.prompts(split, place.categories, 1000)] for split in SPLITS}
    assert sorted(text for texts in found.values() for text in texts) == sorted(captions(90))
    assert {split: len(texts) for split, texts in found.items()} == place._prepared.found.captions
    assert len(found["train"]) > 45 and all(found.values())


def test_letter_case_and_spaces_make_no_other_caption() -> None:
    assert {split_of(text) for text in ("A cat", "a  cat", "a cat ")} == {split_of("a cat")}


def test_prompts_are_a_fixed_order_of_which_fewer_are_the_beginning(folder: Path, tiny_pipeline: Path) -> None:
    place = world(folder, tiny_pipeline)
    whole = place.prompts("train", place.categories, 1000)
    assert [p.index for p in whole] == list(range(len(whole)))
    assert (
        whole[:5]
        == place.prompts("train", place.categories, 5)
        == world(folder, tiny_pipeline).prompts("train", place.categories, 5)
    )
    assert [p.text for p in whole] != [text for text in captions(90) if split_of(text) == "train"]


def test_a_fetched_model_is_named_by_its_hub_id(
    folder: Path, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, commit = "stabilityai/stable-diffusion-3.5-medium", "0" * 40
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=f"python -m bench fetch {name}"):
        ImagesWorld(Data(path=str(folder)), name)
    place = tmp_path / "models--stabilityai--stable-diffusion-3.5-medium"
    shutil.copytree(tiny_pipeline, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    by_id = ImagesWorld(Data(path=str(folder)), name)
    assert by_id.version == world(folder, tiny_pipeline).version
    assert PipelinePolicy.load(by_id.model, device="cpu").latent_shape


def test_tags_are_the_categories(folder: Path, tiny_pipeline: Path) -> None:
    place = world(folder, tiny_pipeline)
    assert place.categories == ("all", "warm")
    warm = {text for number, text in enumerate(captions(90)) if number % 3}
    assert {p.text for p in place.candidates(["warm"], 1000).prompts} <= warm
    assert all(p.text in warm and p.category == "warm" for p in place.prompts("train", ["warm"], 1000))


def test_candidates_are_the_pictures_of_the_train_split(folder: Path, tiny_pipeline: Path) -> None:
    place = world(folder, tiny_pipeline)
    found = place.candidates(place.categories, 1000)
    numbers = [number for number, text in enumerate(captions(90)) if split_of(text) == "train"]
    assert [p.text for p in found.prompts] == [captions(90)[number] for number in numbers]
    assert len(found.images) == len(numbers) and found.selected_by == "" and found.scored == 0
    some = found.images[np.array([2, 0])]
    assert some.shape == (2, SIDE, SIDE, 3) and some.dtype == np.uint8
    assert np.array_equal(some[1], found.images[0]) and np.array_equal(some, found.images[:3][[2, 0]])
    expected = noise(numbers[0]).resize((SIDE, SIDE), 1)  # 1: Lanczos
    assert np.array_equal(found.images[0], np.asarray(expected))
    fewer = place.candidates(place.categories, 7)
    assert len(fewer.images) == 7 and {p.text for p in fewer.prompts} < {p.text for p in found.prompts}


def test_pictures_of_any_size_are_embedded(folder: Path, tiny_pipeline: Path) -> None:
    embeddings = world(folder, tiny_pipeline).embed(np.stack([np.asarray(noise(k, 40, 40)) for k in range(2)]))
    assert embeddings.shape[0] == 2 and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def version(folder: Path, pipeline: Path, **settings: int) -> str:
    return prepare_pictures(Data(path=str(folder), **settings), pipeline).found.fingerprint


def test_the_fingerprint_is_of_what_training_sees_not_of_where_it_lies(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "here")
    before = version(folder, tiny_pipeline)
    shutil.copytree(folder, tmp_path / "there")
    assert version(tmp_path / "there", tiny_pipeline) == before
    assert version(folder, tiny_pipeline, resolution=32) != before
    (folder / "3.png").write_bytes(png(noise(1000)))
    changed = version(folder, tiny_pipeline)
    assert changed != before
    write_listing(folder, [{"file_name": f"{n}.png", "text": text} for n, text in enumerate(captions(29))])
    assert version(folder, tiny_pipeline) not in (before, changed)


def test_a_picture_that_changes_under_a_run_ends_it(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures")
    place = world(folder, tiny_pipeline)
    prepared = prepare_pictures(Data(path=str(folder)), tiny_pipeline)
    found = place.candidates(place.categories, 1000)
    first = place._prepared.training[0].name
    (folder / first).write_bytes(png(noise(1000)))
    with pytest.raises(DataError, match="has changed since it was inspected"):
        found.images[0]
    with pytest.raises(DataError, match="have changed since this run began"):
        prepare_pictures(prepared.settings, tiny_pipeline)
    (folder / first).unlink()
    with pytest.raises(DataError, match="could be read before, and cannot now: missing"):
        found.images[0]


def test_what_was_found_is_read_again_and_made_again_where_it_is_damaged(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    folder = image_folder(tmp_path / "pictures")
    (folder / "0.png").write_bytes(b"")
    settings = Data(path=str(folder), allow_broken=0.1)
    first = prepare_pictures(settings, tiny_pipeline)
    stored = first.inspected.folder / PICTURES
    before = stored.stat().st_mtime_ns
    again = prepare_pictures(settings, tiny_pipeline)
    assert again.inspected == first.inspected and again.found == first.found
    assert stored.stat().st_mtime_ns == before
    stored.write_bytes(stored.read_bytes()[:-50])
    assert prepare_pictures(settings, tiny_pipeline).inspected == first.inspected
    assert (first.inspected.folder / LEFT_OUT).read_text().splitlines() == [
        "place,name,kind,detail",
        "metadata.jsonl:1,0.png,zero bytes,the file is empty",
    ]


def test_pictures_of_another_colour_profile_are_counted_and_told(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures")
    for name, icc in (("0.png", ADOBE), ("1.png", ADOBE), ("2.png", SRGB)):
        (folder / name).write_bytes(png(noise(int(name[0])), icc_profile=icc))
    prepared = prepare_pictures(Data(path=str(folder)), tiny_pipeline)
    assert prepared.found.to_srgb == 2 and prepared.settings.identity()["to_srgb"] == 2
    assert "2 brought from their colour profile to sRGB" in pictures_table(prepared)


def select(folder: Path, names: list[str], **more: Any) -> Path:
    """A selection of schema 1, which lies beside its pictures, or of 2 where `more` has the digests."""
    path = folder / "selected.json"
    schema = {"schema": 2} if "digests" in more else {"schema": 1, "where": "."}
    selection = Selection(
        columns=columns_of(Data(path=str(folder))), scorer="sharpness", version="2", rule="score >= 3", scored=90,
        names=tuple(names), **schema, **more,
    )  # fmt: skip
    write_selection(path, selection)
    return path


def test_a_selection_changes_what_trains_and_no_prompt(folder: Path, tiny_pipeline: Path) -> None:
    whole = world(folder, tiny_pipeline)
    chosen = [p.name for p in whole._prepared.inspected.kept][:40]
    part = world(select(folder, chosen), tiny_pipeline)
    found = part.candidates(part.categories, 1000)
    assert (found.selected_by, found.scored) == ("sharpness", 90)
    expected = [text for text in captions(90)[:40] if split_of(text) == "train"]
    assert [p.text for p in found.prompts] == expected
    for split in SPLITS:
        assert part.prompts(split, part.categories, 1000) == whole.prompts(split, whole.categories, 1000)
    assert part.version != whole.version
    assert "selected by sharpness (score >= 3) among 90" in pictures_table(part._prepared)


def test_a_selection_of_what_is_gone_is_refused(folder: Path, tiny_pipeline: Path) -> None:
    with pytest.raises(DataError, match=r"1 of the 2 selected pictures are gone or broken now, 'nowhere\.png'"):
        world(select(folder, ["0.png", "nowhere.png"]), tiny_pipeline)


def test_a_selection_that_lies_elsewhere_tells_pictures_by_their_bytes(
    folder: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    kept = world(folder, tiny_pipeline)._prepared.inspected.kept[:40]
    names, digests = [p.name for p in kept], tuple(p.digest for p in kept)
    beside = world(select(folder, names), tiny_pipeline).version
    path = select(folder, names, digests=digests).rename(tmp_path / "selected.json")
    with pytest.raises(DataError, match=r"give them by --data, and this file by --data\.selection .*selected\.json"):
        world(path, tiny_pipeline)
    there = Data(path=str(folder), selection=str(path))
    assert prepare_pictures(there, tiny_pipeline).found.fingerprint == beside
    with pytest.raises(ConfigError, match=r"is a selection, and --data\.selection names another"):
        prepare_pictures(Data(path=str(select(folder, names)), selection=str(path)), tiny_pipeline)
    other = select(folder, names, digests=(*digests[:-1], "0" * 16)).rename(tmp_path / "other.json")
    with pytest.raises(DataError, match=rf"1 of the 40 selected .* broken or changed now, '{names[-1]}'"):
        prepare_pictures(Data(path=str(folder), selection=str(other)), tiny_pipeline)


def test_a_selection_names_nothing_outside_its_folder(folder: Path, tiny_pipeline: Path) -> None:
    path = select(folder, ["0.png"])
    path.write_text(path.read_text().replace('"where": "."', '"where": "../elsewhere"'))
    with pytest.raises(DataError, match="expected one within that folder"):
        world(path, tiny_pipeline)


def test_the_world_asks_for_its_pictures(tiny_pipeline: Path) -> None:
    with pytest.raises(ConfigError, match="give them by --data FOLDER"):
        ImagesWorld(None, str(tiny_pipeline))


def test_the_settings_survive_as_texts(folder: Path, tiny_pipeline: Path) -> None:
    from bench.config.load import Experiment, load_settings

    settings = prepare_pictures(Data(path=str(folder)), tiny_pipeline).settings
    before = load_settings("images", {"data.path": str(folder), "model": str(tiny_pipeline)})
    experiment = dataclasses.replace(before, data=settings)
    assert Experiment.from_resolved(experiment.resolved()) == experiment
    moved = dataclasses.replace(experiment, data=dataclasses.replace(settings, path="elsewhere", allow_broken=0.5))
    for label in ("base", "sft"):
        cells = [e.cell_config("pictures", label) for e in (experiment, moved)]
        assert cells[0] == cells[1] and cells[0]["data"]["fingerprint"] == settings.found.fingerprint
    assert moved.config_hash == experiment.config_hash
    assert str(folder) not in str(experiment.cell_config("pictures", "sft"))
