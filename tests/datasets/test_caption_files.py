"""Captions beside pictures, folders that repeat theirs, and the links of the hub's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.api import DataError
from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureFault
from bench.datasets.pictures.sources import open_source
from tests.support.user_pictures import noise, png, write_listing


def opened(folder: Path, **settings: str):
    return open_source(Data(path=str(folder), **settings)).source


def put(folder: Path, **files: str | bytes | None) -> Path:
    """Files of these names, `a_txt` for a.txt; None is a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, content) in enumerate(files.items()):
        path = folder / name.replace("_", ".")
        data = png(noise(number)) if content is None else content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_a_caption_is_a_line_of_the_file_beside_its_picture(tmp_path: Path) -> None:
    put(tmp_path, a_png=None, a_txt="\ufeffa cat\r\n\n a cat, asleep \n", b_JPG=None, b_caption="a dog", c_npz=b"x")
    put(tmp_path / ".hidden", h_png=None)
    put(tmp_path / "below" / "deep", d_png=None, d_txt="a star")
    source = opened(tmp_path)
    assert [(row.name, row.caption, row.repeats) for row in source.rows] == [
        ("a.png", ["a cat", "a cat, asleep"], 1), ("b.JPG", ["a dog"], 1), ("below/deep/d.png", ["a star"], 1),
    ]  # fmt: skip
    assert source.form == "captions beside pictures (.caption, .txt); 1 other files unread" and not source.left_out
    assert source.read("below/deep/d.png") == (tmp_path / "below/deep/d.png").read_bytes()
    before = source.stamp
    assert opened(tmp_path).stamp == before
    (tmp_path / "a.txt").write_text("a fox")
    assert opened(tmp_path).stamp != before


def test_folders_of_kohya_s_layout_say_how_often_their_pictures_are_shown(tmp_path: Path) -> None:
    put(tmp_path / "10_a cat", a_png=None, a_txt="a cat")
    put(tmp_path / "reg", b_png=None, b_txt="a dog")
    put(tmp_path, c_png=None, c_txt="a star")
    repeats = {row.name: row.repeats for row in opened(tmp_path).rows}
    assert repeats == {"10_a cat/a.png": 10, "reg/b.png": 1, "c.png": 1}
    for name in ("0_none", "99999999_many"):
        folder = put(tmp_path / name, d_png=None, d_txt="a fox")
        with pytest.raises(DataError, match=rf"{name}: expected from 1 to 10,000 repeats before the _ .*: rename"):
            opened(tmp_path)
        for path in (*folder.iterdir(), folder):
            path.unlink() if path.is_file() else path.rmdir()


def test_each_fault_of_a_caption_file_is_told(tmp_path: Path) -> None:
    put(tmp_path / "other", x_png=None, x_txt="not ours")
    folder = put(
        tmp_path / "pictures", a_png=None, a_txt="a cat", none_png=None, empty_png=None, empty_txt=" \n", two_png=None,
        two_txt="a", two_caption="b", alone_txt="a dog", bad_png=None, bad_txt=b"caf\xe9", link_png=None,
    )  # fmt: skip
    (folder / "link.txt").symlink_to(tmp_path / "other" / "x.txt")
    (folder / "elsewhere").symlink_to(tmp_path / "other")
    (folder / "z.png").symlink_to(tmp_path / "other" / "x.png")
    (folder / "z.txt").write_text("a picture elsewhere")
    (folder / "\udcff.png").write_bytes(b"")
    source = opened(folder)
    assert [row.name for row in source.rows] == ["a.png", "z.png"]
    assert {row.place: (row.kind, row.detail) for row in source.left_out} == {
        "none.png": ("no caption", "there is no none.txt or none.caption beside it"),
        "empty.png": ("no caption", "empty.txt is empty"),
        "two.png": ("ambiguous", "it has two.caption and two.txt: keep one"),
        "alone.txt": ("no picture", "there is no picture of that name beside it"),
        "bad.png": ("unreadable caption", "bad.txt: not UTF-8 text: byte 0xe9 at 3"),
        "link.png": ("outside", f"'link.txt' is a link, or leads out of {folder}"),
        "elsewhere": ("outside", "it is a link to a folder, which is not followed: put the folder itself there"),
        "\\udcff.png": ("broken line", "its name is no text in UTF-8: rename it"),
    }
    with pytest.raises(PictureFault, match="outside"):
        source.read("z.png")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in a hub's cache: all of it links to the blobs of its repository."""
    repository = tmp_path / "datasets--me--pets"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123"
    put(blobs, one=png(noise(1)), two="a cat")
    put(snapshot / "train")
    (snapshot / "train" / "a.png").symlink_to("../../../blobs/one")
    (snapshot / "train" / "a.txt").symlink_to("../../../blobs/two")
    return snapshot


def test_links_of_a_hub_s_cache_are_followed_to_blobs_of_the_same_repository(snapshot: Path, tmp_path: Path) -> None:
    source = opened(snapshot)
    assert [(row.name, row.caption) for row in source.rows] == [("train/a.png", ["a cat"])]
    assert source.read("train/a.png") == png(noise(1))
    put(tmp_path / "datasets--other" / "blobs", theirs=png(noise(2)))
    put(snapshot / "inner", real_png=None)
    (snapshot / "way").symlink_to(snapshot / "train")
    for number, target in enumerate(("../../../datasets--other/blobs/theirs", "inner/real.png", "../../refs/x")):
        (snapshot / f"{number}.png").symlink_to(target)
    write_listing(snapshot, [{"file_name": f"{number}.png", "text": "a cat"} for number in range(3)])
    listed = opened(snapshot)
    assert listed.read("train/a.png") == png(noise(1))
    for name in ("0.png", "1.png", "2.png", "way/a.png", "../../blobs/one"):
        with pytest.raises(PictureFault) as caught:
            listed.read(name)
        assert caught.value.kind == "outside", name
    (tmp_path / "datasets--me--pets" / "blobs" / "one").unlink()
    with pytest.raises(PictureFault, match="missing"):
        listed.read("train/a.png")


def test_json_and_tsv_listings_and_captions_in_a_column(tmp_path: Path) -> None:
    put(tmp_path, a_png=None, b_png=None)
    both = [("a.png", ["a cat", "a cat asleep"]), ("b.png", ["a dog"])]
    table = 'file_name{0}captions\na.png{0}{1}\nb.png{0}["a dog"]\n'
    quoted = '"[""a cat"", ""a cat asleep""]"'
    listings = {
        "metadata.json": '[{"file_name": "a.png", "captions": ["a cat", "a cat asleep"]},'
        ' {"file_name": "b.png", "captions": ["a dog"]}]',
        "metadata.tsv": table.format("\t", '["a cat", "a cat asleep"]'),
        "metadata.csv": table.format(",", quoted).replace('["a dog"]', '"[""a dog""]"'),
    }
    for name, text in listings.items():
        (tmp_path / name).write_text(text)
        source = opened(tmp_path)
        assert source.form == f"ImageFolder ({name})" and not source.left_out
        assert [(row.name, row.caption) for row in source.rows] == both
        (tmp_path / name).unlink()
    (tmp_path / "metadata.tsv").write_text('file_name\ttext\na.png\ta "red" cat, asleep\nb.png\tone\ttwo\n')
    source = opened(tmp_path)
    assert [row.caption for row in source.rows] == ['a "red" cat, asleep']
    assert [row.detail for row in source.left_out] == ["expected 2 cells, got 3"]
    (tmp_path / "metadata.tsv").write_text("file_name\tcaptions\na.png\t['a cat']\n")
    assert "its 'captions' are no list in JSON" in opened(tmp_path).left_out[0].detail
    for text, told in (("{", "not JSON|Expecting"), ('{"a": 1}', "got dict"), ("[1]", "expected an object, got int")):
        (tmp_path / "list.json").write_text(f" {text}")
        with pytest.raises(DataError, match=told if text == "[1]" else "expected what `bench curate` writes"):
            opened(tmp_path / "list.json")
