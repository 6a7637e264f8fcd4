"""Pairs of a chosen and a rejected picture: the columns they come in, how they are looked at, and who is given them."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from math import nan
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from bench.api import DataError
from bench.cli.main import main
from bench.config.pictures import Data
from bench.datasets.pictures.inspection import PICTURES
from bench.datasets.pictures.preparation import pictures_table, prepare_pictures, split_of
from bench.datasets.pictures.sources import open_source
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.scenes.scene import is_true, sample_pictures, sample_prompts
from bench.datasets.scenes.vocabulary import CATEGORIES
from bench.datasets.scenes.world import ScenesWorld
from tests.support.cells import options
from tests.support.user_pictures import captions, image_folder, noise, png, write_listing

COUNT = 60


def pair_folder(folder: Path, count: int = COUNT, **changes: Any) -> Path:
    """Pictures 0.png, ... each chosen, and rejected_0.png, ... each rejected; `changes` are of the first line."""
    for number in range(count):
        noise(number).save(folder / f"{number}.png")
        noise(1000 + number, 20, 12).save(folder / f"rejected_{number}.png")
    rows = [
        {"file_name": f"{n}.png", "rejected_file_name": f"rejected_{n}.png", "text": text}
        for n, text in enumerate(captions(count))
    ]
    write_listing(folder, [rows[0] | changes, *rows[1:]])
    return folder


def opened(path: Path, **settings: str) -> Any:
    return open_source(Data(path=str(path), **settings)).source


def named(source: Any) -> list[tuple[str, str | None, object]]:
    return [(row.name, row.rejected, row.caption) for row in source.rows]


# The forms


def test_a_listing_names_the_rejected_picture_beside_the_chosen_one(tmp_path: Path) -> None:
    pair_folder(tmp_path, 2)
    expected = [(f"{n}.png", f"rejected_{n}.png", text) for n, text in enumerate(captions(2))]
    assert named(opened(tmp_path)) == expected
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("path1,path2,prompt\n0.png,rejected_0.png,a cat\n1.png,,a dog\n")
    columns = {"picture_column": "path1", "rejected_column": "path2", "caption_column": "prompt"}
    source = opened(tmp_path, **columns)
    assert named(source) == [("0.png", "rejected_0.png", "a cat")]
    assert [(row.place, row.kind) for row in source.left_out] == [("metadata.csv:3", "broken line")]
    assert "'path2' is no file name" in source.left_out[0].detail
    with pytest.raises(DataError, match=r"column 'path3' for each rejected.*--data.rejected_column"):
        opened(tmp_path, **columns | {"rejected_column": "path3"})
    assert named(opened(tmp_path, picture_column="path1", caption_column="prompt"))[0] == ("0.png", None, "a cat")


def test_a_pair_may_have_several_captions(tmp_path: Path) -> None:
    pair_folder(tmp_path, 2)
    (tmp_path / "metadata.jsonl").unlink()
    listing = 'file_name\trejected_file_name\tcaptions\n0.png\trejected_0.png\t["a cat", "one cat"]\n'
    (tmp_path / "metadata.tsv").write_text(f"{listing}1.png\trejected_1.png\ta dog\n")
    source = opened(tmp_path)
    assert named(source) == [("0.png", "rejected_0.png", ["a cat", "one cat"])]
    assert [(row.place, row.name, row.kind) for row in source.left_out] == [("metadata.tsv:3", "1.png", "broken line")]


def test_forms_without_pairs_refuse_a_column_for_them(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    noise(0).save(beside / "0.png")
    (beside / "0.txt").write_text("a cat")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("0.png", "0.txt"):
            tar.add(beside / name, name)
    for path in (beside, tmp_path / "0.tar"):
        assert len(opened(path).rows) == 1
        with pytest.raises(DataError, match=r"--data.rejected_column.*leave it out"):
            opened(path, rejected_column="rejected")


def test_a_change_of_a_rejected_file_is_seen(tmp_path: Path) -> None:
    before = opened(pair_folder(tmp_path, 2)).stamp
    noise(5).save(tmp_path / "rejected_1.png")
    assert opened(tmp_path).stamp != before


def pick_a_pic(path: Path, labels: list[tuple[Any, Any]]) -> Path:
    """A table as Pick-a-Pic's, of pictures 2n and 2n + 1 in row n."""
    rows = range(len(labels))
    columns = {f"jpg_{side}": [png(noise(2 * row + side)) for row in rows] for side in (0, 1)}
    columns |= {f"label_{side}": [pair[side] for pair in labels] for side in (0, 1)}
    datasets.Dataset.from_dict(columns | {"caption": captions(len(labels))}).to_parquet(path)
    return path


def test_the_better_of_two_labelled_pictures_is_chosen(tmp_path: Path) -> None:
    source = opened(
        pick_a_pic(tmp_path / "train.parquet", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, None), (nan, 1.0)])
    )
    first, second = captions(2)
    assert named(source) == [("0.jpg_0", "0.jpg_1", first), ("1.jpg_1", "1.jpg_0", second)]
    assert [(row.place, row.kind) for row in source.left_out] == [
        ("row 2", "tie"), ("row 3", "broken line"), ("row 4", "broken line"),
    ]  # fmt: skip
    assert [source.read(name) for name in ("1.jpg_1", "1.jpg_0")] == [png(noise(3)), png(noise(2))]
    alone = opened(tmp_path / "train.parquet", picture_column="jpg_1", caption_column="caption")
    assert named(alone)[2] == ("2", None, captions(3)[2]) and alone.read("2") == png(noise(5))


def test_a_table_of_images_has_the_rejected_one_in_a_column_of_its_own(tmp_path: Path) -> None:
    cells = [[{"bytes": png(noise(number)), "path": None}] for number in range(2)]
    kinds = {"image": datasets.Image(), "rejected_image": datasets.Image(), "text": datasets.Value("string")}
    values = {"image": cells[0], "rejected_image": cells[1], "text": ["a cat"]}
    datasets.Dataset.from_dict(values, features=datasets.Features(kinds)).to_parquet(tmp_path / "train.parquet")
    source = opened(tmp_path)
    assert named(source) == [("0.image", "0.rejected_image", "a cat")]
    assert source.read("0.rejected_image") == png(noise(1))


# What is looked at


def test_ties_are_told_and_break_nothing(tmp_path: Path, tiny_pipeline: Path) -> None:
    labels = [(0.5, 0.5)] * 30 + [(1, 0)] * 60
    prepared = prepare_pictures(Data(path=str(pick_a_pic(tmp_path / "train.parquet", labels))), tiny_pipeline)
    assert (prepared.found.kept, prepared.found.left_out) == (60, {"tie": 30})
    text = pictures_table(prepared)
    assert "90: 60 can be used, 30 left out (0.0% broken; 1.0% allowed)" in text
    assert f"{prepared.found.pairs} of them with one that was rejected for it" in text


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"rejected_file_name": "none.png"}, "missing", "the rejected one, 'none.png': "),
        ({"rejected_file_name": "0.png"}, "duplicate", "are the same bytes"),
        ({"file_name": "1.png", "rejected_file_name": "rejected_1.png"}, None, ""),
        ({"rejected_file_name": "../rejected_0.png"}, "outside", "the rejected one"),
    ],
)
def test_a_pair_is_left_out_where_either_picture_is_broken(
    changes: dict[str, str], kind: str | None, words: str, tmp_path: Path, tiny_pipeline: Path
) -> None:
    """But not because one of its pictures is in another pair."""
    settings = Data(path=str(pair_folder(tmp_path, **changes)), allow_broken=0.1)
    inspected = prepare_pictures(settings, tiny_pipeline).inspected
    if kind is None:  # the same two pictures: a pair of another caption, which is left out as a single picture would be
        assert [row.kind for row in inspected.left_out] == ["duplicate"]
    else:
        assert [(row.kind, words in row.detail) for row in inspected.left_out] == [(kind, True)]


def test_what_was_found_is_read_again_as_it_was(tmp_path: Path, tiny_pipeline: Path) -> None:
    texts = captions(COUNT)
    settings = Data(path=str(pair_folder(tmp_path, text=[texts[0], f"{texts[0]} below"])))
    first, second = (prepare_pictures(settings, tiny_pipeline).inspected for _ in range(2))
    assert (first.folder / PICTURES).is_file() and first.kept == second.kept
    rejected = first.kept[0].rejected
    assert rejected is not None and (rejected.name, rejected.crop.width) == ("rejected_0.png", 20)
    assert (rejected.caption, rejected.more) == (texts[0], (f"{texts[0]} below",))


def test_another_rejected_picture_is_another_data_set(tmp_path: Path, tiny_pipeline: Path) -> None:
    settings = Data(path=str(pair_folder(tmp_path)))
    before = prepare_pictures(settings, tiny_pipeline).settings
    assert before.identity()["pairs"] == before.found.pairs > 40  # type: ignore[union-attr]
    noise(5000, 20, 12).save(tmp_path / "rejected_0.png")
    after = prepare_pictures(settings, tiny_pipeline).found.fingerprint
    assert after != before.found.fingerprint  # type: ignore[union-attr]
    single = prepare_pictures(Data(path=str(image_folder(tmp_path / "single"))), tiny_pipeline).settings
    assert "pairs" not in single.identity()  # as older records have it


# Who is given them


def test_the_world_gives_pairs_and_each_chosen_picture_once(tmp_path: Path, tiny_pipeline: Path) -> None:
    rows = [json.loads(line) for line in (pair_folder(tmp_path) / "metadata.jsonl").read_text().splitlines()]
    train = [row for row in rows if split_of(row["text"]) == "train"]
    again = {"file_name": train[0]["file_name"], "rejected_file_name": "rejected_59.png", "text": train[0]["text"]}
    write_listing(tmp_path, [*rows[:59], again])
    world = ImagesWorld(Data(path=str(tmp_path)), str(tiny_pipeline))
    pairs, single = world.pairs(("all",), 1000), world.candidates(("all",), 1000)
    half = len(pairs.prompts) // 2
    assert pairs.ranked and [p.text for p in pairs.prompts[:half]] == [p.text for p in pairs.prompts[half:]]
    assert len(single.prompts) == half - 1  # one was chosen in two pairs
    assert pairs.digests is not None and len(set(pairs.digests[:half])) == half - 1
    row = next(n for n, row in enumerate(train) if row["file_name"] != train[0]["file_name"])
    number = next(n for n, p in enumerate(pairs.prompts) if p.text == train[row]["text"])
    chosen, rejected = pairs.images[number], pairs.images[half + number]
    assert chosen.shape == rejected.shape and not np.array_equal(chosen, rejected)
    assert len(world.pairs(("all",), 5).prompts) == 10


def test_pairs_share_a_bucket(tmp_path: Path, tiny_pipeline: Path) -> None:
    data = Data(path=str(pair_folder(tmp_path)), buckets=("48x80", "64x64", "80x48"), bucket_pictures=2)
    (bucket,) = ImagesWorld(data, str(tiny_pipeline)).pairs(("all",), 1000).buckets
    half = len(bucket.rows) // 2
    assert bucket.size == (64, 64)  # that of the chosen ones, whatever shape the others have
    assert bucket.images[half].shape == bucket.images[0].shape == (64, 64, 3)
    assert not set(bucket.digests[:half]) & set(bucket.digests[half:])


def test_data_without_pairs_is_refused_before_anything_is_spent(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "pictures", COUNT)
    results = tmp_path / "results"
    given = [o for o in options(tiny_pipeline) if not o.startswith(("--task.select", "--evaluation.held_out"))]
    more = ["--data", str(tmp_path / "pictures"), "--evaluation.held_out_prompts", "0", "--task.select", "null"]
    method = "methods.flowdpo_offline:FlowDPOOffline"
    run = ["run", "--preset", "images", *given, *more, "--methods", f"sft,{method}", "--results", str(results)]
    for command in (run, ["plan", *run[1:]]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "trains on pairs of a chosen and a rejected picture" in error and "--data.rejected_column" in error
        assert "rejected_file_name" in error and "jpg_0" in error
    assert not results.exists()


def test_pairs_that_nothing_ranks_are_refused(tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*options(tiny_pipeline), "--methods", "methods.flowdpo_offline:FlowDPOOffline"]
    assert (
        main(["plan", "--preset", "smoke", *(o for o in given if "task.reward" not in o), "--task.reward", "null"]) == 2
    )
    assert "a reward of single pictures has to rank" in capsys.readouterr().err


# The embedded world's own


def test_the_embedded_world_draws_two_pictures_of_each_training_prompt() -> None:
    world = ScenesWorld()
    pairs, prompts = world.pairs(CATEGORIES, 40), world.prompts("train", CATEGORIES, 40)
    assert not pairs.ranked and pairs.prompts == prompts * 2 and len(pairs.images) == 80
    assert not any(np.array_equal(pairs.images[n], pairs.images[40 + n]) for n in range(40))
    assert np.array_equal(world.pairs(CATEGORIES, 10).images[:10], pairs.images[:10])


def test_pictures_of_a_prompt_show_it_or_a_near_miss() -> None:
    prompts = sample_prompts("train", 0, 0, 70)
    for share, right in ((0.0, 1.0), (1.0, 0.0)):
        scenes = [s for p in prompts for s in sample_pictures("pairs", 0, p, 2, wrong_share=share)]
        assert np.mean([is_true(s, s.metadata) for s in scenes]) == right
        assert [s.caption for s in scenes[::2]] == [p.text for p in prompts]
    first, second = sample_pictures("pairs", 0, dataclasses.replace(prompts[0]), 2)
    assert first != second
