"""The forms that the user's pictures lie in, each read into the same listing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest

from bench.api import DataError
from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureFault
from bench.datasets.pictures.sources import open_source
from tests.support.user_pictures import image_folder, noise, png, stored, write_listing


def opened(path: Path, **settings: str):
    return open_source(Data(path=str(path), **settings)).source


def listed(source) -> list[tuple[str, object, str | None]]:
    return [(row.name, row.caption, row.tag) for row in source.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and no listing."""
    for number in range(2):
        noise(number).save(tmp_path / f"{number}.png")
    return tmp_path


BOTH = [("0.png", "a cat", "pets"), ("1.png", "a dog, asleep", None)]


def test_an_image_folder_with_json_lines(folder: Path) -> None:
    first, second = ({"file_name": name, "text": text, "tag": tag} for name, text, tag in BOTH)
    (folder / "metadata.jsonl").write_text(f"\ufeff{json.dumps(first)}\n\n{json.dumps(second)}")
    source = opened(folder)
    assert source.form == "ImageFolder (metadata.jsonl)" and not source.left_out
    assert listed(source) == listed(opened(folder / "metadata.jsonl")) == BOTH
    assert source.read("1.png") == (folder / "1.png").read_bytes()


def test_an_image_folder_with_a_csv_file(folder: Path) -> None:
    (folder / "metadata.csv").write_text('file_name,text,tag\n0.png,a cat,pets\n1.png,"a dog, asleep",\n')
    assert listed(opened(folder)) == BOTH


def test_columns_of_other_names(folder: Path) -> None:
    (folder / "metadata.csv").write_text("pic,words,kind\n0.png,a cat,pets\n")
    assert listed(opened(folder, picture_column="pic", caption_column="words", tag_column="kind")) == BOTH[:1]


def test_hy_soar_s_lines_name_pictures_by_md5(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "0f3e.jpg").write_bytes(stored(noise(0), "JPEG"))
    (folder / "train.jsonl").write_text('{"md5": "0f3e", "caption_en": "a cat", "bw": 512, "bh": 768}\n')
    source = opened(folder / "train.jsonl", pictures=str(folder / "images"))
    assert source.form == "HY-SOAR (train.jsonl)" and listed(source) == [("0f3e.jpg", "a cat", None)]
    assert source.rows[0].bucket == (512, 768)
    assert source.read("0f3e.jpg") == (folder / "images" / "0f3e.jpg").read_bytes()


def table(names: tuple[str, str] = ("image", "text")) -> datasets.Dataset:
    cells = [{"bytes": png(noise(number)), "path": None} for number in range(2)]
    features = datasets.Features({names[0]: datasets.Image(), names[1]: datasets.Value("string")})
    return datasets.Dataset.from_dict({names[0]: cells, names[1]: ["a cat", "a dog"]}, features=features)


def test_parquet_and_saved_datasets(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "train.parquet")
    table(("photo", "caption")).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"first": table()}).save_to_disk(tmp_path / "several")
    sources = [
        opened(tmp_path),
        opened(tmp_path / "train.parquet"),
        opened(tmp_path / "saved", picture_column="photo", caption_column="caption"),
        opened(tmp_path / "several", subset="first"),
    ]
    for source in sources:
        assert listed(source) == [("0", "a cat", None), ("1", "a dog", None)]
        assert source.read("1") == png(noise(1))
    with pytest.raises(DataError, match=r"has no split 'train' but first: name one by --data\.subset"):
        opened(tmp_path / "several")


def in_split(name: str, count: int) -> datasets.Dataset:
    cells = [{"bytes": png(noise(10 * len(name) + number)), "path": None} for number in range(count)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": cells, "text": [f"a {name}"] * count}, features=features)


def test_parquet_files_of_other_splits_are_not_trained_on(tmp_path: Path) -> None:
    in_split("train", 3).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    in_split("test", 2).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    in_split("night", 1).to_parquet(tmp_path / "night-00000-of-00001.parquet")
    for subset, rows, others in (("train", 3, 2), ("test", 2, 2), ("night", 1, 2)):
        source = opened(tmp_path, subset=subset)
        assert {row.caption for row in source.rows} == {f"a {subset}"} and len(source.rows) == rows
        assert source.form == (
            f"parquet ({subset}-00000-of-00001.parquet, split {subset}; {others} of other splits unused)"
        )
    with pytest.raises(DataError, match=r"no parquet file of 'validation' but night, test, train: name one by --data"):
        opened(tmp_path, subset="validation")
    in_split("extra", 1).to_parquet(tmp_path / "extra.parquet")
    with pytest.raises(DataError, match=r"and extra\.parquet whose split is not known: name it for its split"):
        opened(tmp_path)


def test_parquet_files_without_a_split_in_their_names_are_read_together(tmp_path: Path) -> None:
    in_split("one", 2).to_parquet(tmp_path / "a.parquet")
    in_split("two", 1).to_parquet(tmp_path / "pretraining.parquet")
    source = opened(tmp_path)
    assert len(source.rows) == 3 and source.form == "parquet (2 files)"


def test_parquet_files_with_other_columns_are_named(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "a.parquet")
    table(("image", "caption")).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"but b\.parquet lacks 'text' and has 'caption', unlike a\.parquet: rename"):
        opened(tmp_path)


def test_the_reason_why_a_table_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"a\.parquet: .*reading it failed: ArrowInvalid: Parquet"):
        opened(tmp_path)


ROWS = [{"file_name": "0.png", "text": "a cat"}, {"file_name": "1.png", "text": "a dog"}]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("metadata.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-16"), "looks like UTF-16"),
        ("metadata.jsonl", json.dumps(ROWS).encode(), "(metadata.jsonl:1): expected an object, got list; expected a"),
        ("metadata.jsonl", json.dumps(ROWS[0], indent=1).encode(), "(metadata.jsonl:1): not JSON: Expecting property"),
        ("metadata.jsonl", b"\n\n", 'lists no pictures: expected a line for each picture, like {"file_name"'),
        (
            "metadata.csv",
            b"file_name,text\n0.png,a cat, asleep\n",
            "expected 2 cells, got 3; a text with commas stands",
        ),
        ("metadata.csv", "file_name,text\n0.png,a cat\n".encode("utf-16"), "looks like UTF-16"),
        ("metadata.csv", b"file_name,text\n", "lists no pictures: expected a line for each picture, like a.png,"),
    ],
)
def test_a_listing_none_of_whose_lines_can_be_read_says_why(name: str, data: bytes, reason: str, folder: Path) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        opened(folder)
    assert reason in str(caught.value) and "expected a column" not in str(caught.value)


def test_pipes_and_folders_where_files_belong_are_told_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    os.truncate(folder / "1.png", 2**33)  # takes no room on the disk, and would not fit into memory
    names = {"pipe.png": "is a pipe", "folder.png": "is a folder", "1.png": "8,589,934,592 bytes, of which at most"}
    write_listing(folder, [{"file_name": name, "text": "a cat"} for name in names])
    source = opened(folder)
    for name, reason in names.items():
        with pytest.raises(PictureFault) as caught:
            source.read(name)
        assert reason in caught.value.detail and caught.value.kind == ("enormous" if name == "1.png" else "missing")
    (folder / "metadata.jsonl").unlink()
    os.mkfifo(folder / "metadata.jsonl")
    with pytest.raises(DataError, match=r"metadata\.jsonl: expected a listing of pictures, .* but it is a pipe"):
        opened(folder)


def test_a_dataset_of_the_hub_is_asked_for_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is what `datasets` brings; here it has one dataset."""

    def load(name: str, split: str) -> datasets.Dataset:
        if (name, split) != ("somebody/pets", "train"):
            raise FileNotFoundError(f"no {name}")
        return table()

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source(Data(path="somebody/pets")).source
    assert listed(source) == [("0", "a cat", None), ("1", "a dog", None)]
    assert source.read("1") == png(noise(1))
    with pytest.raises(DataError, match=r"--data somebody/cars \(no folder or file here, so a dataset of the hub\)"):
        open_source(Data(path="somebody/cars"))


def test_the_stamp_changes_with_a_file(folder: Path) -> None:
    write_listing(folder, [{"file_name": "0.png", "text": "a cat"}])
    before = opened(folder).stamp
    assert opened(folder).stamp == before
    (folder / "0.png").write_bytes(png(noise(7, 17)))
    assert opened(folder).stamp != before


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"{", "not JSON"),
        (b'"text"', "expected an object, got str"),
        (b'{"file_name": "a\xff.png"}', "not JSON"),
        (b'{"text": "a cat"}', "its 'file_name' is no file name: None"),
        (b'{"file_name": 3, "text": "a cat"}', "its 'file_name' is no file name: 3"),
        (b'{"file_name": "\\ud800.png", "text": "a cat"}', "is no file name"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_listed_and_the_others_are_read(line: bytes, detail: str, folder: Path) -> None:
    good = b'{"file_name": "0.png", "text": "a cat"}\n'
    (folder / "metadata.jsonl").write_bytes(good + line + b"\n" + good)
    source = opened(folder)
    assert len(source.rows) == 2
    (broken,) = source.left_out
    assert (broken.place, broken.kind) == ("metadata.jsonl:2", "broken line") and detail in broken.detail


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"0.png", "expected 2 cells, got 1"),
        (b"0.png,a cat,asleep", "expected 2 cells, got 3"),
        (b"0.png,caf\xe9", "not UTF-8 text"),
        (b'0.png,"a" cat', "not CSV"),
    ],
)
def test_a_broken_line_of_a_csv_file(line: bytes, detail: str, folder: Path) -> None:
    (folder / "metadata.csv").write_bytes(b"file_name,text\n0.png,a cat\n" + line + b"\n1.png,a dog\n")
    source = opened(folder)
    assert [row.name for row in source.rows] == ["0.png", "1.png"]
    (broken,) = source.left_out
    assert broken.kind == "broken line" and detail in broken.detail


REASONS = {"absolute path": ", '0.png'", "backslashes": "expected slashes between folders, 'images/0.png'"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nowhere.png", "missing"),
        ("images", "missing"),
        ("x" * 300, "missing"),
        ("../secret.png", "outside"),
        ("/etc/passwd", "outside"),
        ("FOLDER/0.png", "absolute path"),
        ("images\\0.png", "backslashes"),
        ("link.png", "outside"),
    ],
)
def test_only_files_of_the_folder_are_read(name: str, kind: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", 1)
    (folder / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(PictureFault) as caught:
        opened(folder).read(name.replace("FOLDER", str(folder)))
    assert caught.value.kind == kind and caught.value.detail.endswith(REASONS.get(kind, ""))
