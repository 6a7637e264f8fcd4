"""Tar files of pictures and captions: read in place, nothing unpacked, nothing followed."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from bench.api import DataError
from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureFault
from bench.datasets.pictures.sources import open_source
from tests.support.user_pictures import noise, png


def shard(path: Path, files: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A tar file of these, in order."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            info.size = len(content) if isinstance(content, bytes) else 0
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def opened(path: Path, **settings: object):
    return open_source(Data(path=str(path), **settings)).source


def listed(source) -> list[tuple[str, object, str | None]]:
    return [(row.name, row.caption, row.tag) for row in source.rows]


def test_samples_are_read_from_where_they_lie(tmp_path: Path) -> None:
    about = json.dumps({"captions": ["a dog", "one dog"], "tag": "pets"}).encode()
    shard(tmp_path / "0.tar", {"in/000.jpg": png(noise(0)), "in/000.txt": b"a cat\na cat asleep\n", "in/000.cls": b"3"})
    shard(tmp_path / "1.tar", {"./001.json": about, "./001.seg.png": b"mask", "./001.png": png(noise(1))})
    source = opened(tmp_path)
    assert source.form == "WebDataset (2 shards)" and not source.left_out
    assert listed(source) == [
        ("0.tar/in/000.jpg", ["a cat", "a cat asleep"], None), ("1.tar/001.png", ["a dog", "one dog"], "pets"),
    ]  # fmt: skip
    assert [source.read(row.name) for row in source.rows] == [png(noise(0)), png(noise(1))]
    assert listed(opened(tmp_path / "1.tar", caption_column="tag")) == [("1.tar/001.png", "pets", "pets")]
    before = source.stamp
    shard(tmp_path / "1.tar", {"1.png": png(noise(1)), "1.txt": b"a dog"})
    assert opened(tmp_path).stamp != before


def test_shards_of_other_splits_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("train-00000", "train-00001", "val-00000"):
        shard(tmp_path / f"{name}.tar", {"0.png": png(noise(len(name))), "0.txt": name.encode()})
    source = opened(tmp_path)
    assert [row.caption for row in source.rows] == [["train-00000"], ["train-00001"]]
    assert source.form == "WebDataset (2 shards, split train; 1 of other splits unused)"


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def test_each_fault_of_a_sample_is_told_and_nothing_is_followed(tmp_path: Path) -> None:
    good = png(noise(0))
    shard(
        tmp_path / "a.tar",
        {
            "link.png": link("link.png", tarfile.SYMTYPE), "hard.png": link("h.png", tarfile.LNKTYPE),
            "pipe.png": link("pipe.png", tarfile.FIFOTYPE), "link.txt": b"a cat", "../out.png": good, "/root.png": good,
            "bare.png": good, "two.png": good, "two.jpg": good, "two.txt": b"a", "void.png": good, "void.txt": b" ",
            "json.png": good, "json.json": b"[1]", "latin.png": good, "latin.txt": b"caf\xe9", ".hidden.png": good,
            "both.png": good, "both.txt": b"a", "both.caption": b"b", "good.png": good, "good.txt": b"a cat",
        },
    )  # fmt: skip
    source = opened(tmp_path / "a.tar")
    assert listed(source) == [("a.tar/good.png", ["a cat"], None)]
    told = {row.place.removeprefix("a.tar/"): (row.kind, row.detail) for row in source.left_out}
    for name in ("link.png", "h.png", "pipe.png", "../out.png", "/root.png"):
        assert told.pop(name)[0] == "outside"
    assert told == {
        "link": ("no picture", "it has .txt, and no picture"),
        "bare": ("no caption", "expected a .txt, or a text in its .json; it has .png"),
        "two": ("ambiguous", "it has .png and .jpg: name one by --data.picture_column png"),
        "void": ("no caption", "its .txt is empty"),
        "json": ("broken line", "its .json: expected an object, got list"),
        "latin": ("unreadable caption", "its .txt: not UTF-8 text: byte 0xe9 at 3"),
        "both": ("ambiguous", "it has .txt and .caption: keep one"),
    }
    assert not (tmp_path / "out.png").exists() and [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert [row.name for row in opened(tmp_path / "a.tar", picture_column="jpg").rows] == ["a.tar/two.jpg"]
    with pytest.raises(PictureFault, match="enormous"):
        big = shard(tmp_path / "big.tar", {"0.png": bytes(2**26 + 5), "0.txt": b"a"})
        opened(big, max_pixels=1).read("big.tar/0.png")


def test_what_is_no_whole_tar_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {f"{n}.{end}": bytes(600) for n in range(3) for end in ("png", "txt")})
    whole = path.read_bytes()
    for size in (700, 3 * 1536, 3 * 1536 + 100, 6 * 1536):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.tar.*(cut short|unexpected end).*get it again"):
            opened(path)
    damaged = bytearray(whole)
    damaged[3 * 1536 + 10] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="cut short or damaged after 3 files"):
        opened(path)
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match="goes on behind its end, after 6 files"):
        opened(path)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match=r"is compressed, .*: unpack it to a plain \.tar"):
        opened(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"after 0 files \(empty file\): get it again"):
        opened(path)


def test_a_shard_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.tar").symlink_to(shard(tmp_path / "a.tar", {"0.png": b"x", "0.txt": b"a"}))
    with pytest.raises(DataError, match="is a link, or leads out of"):
        opened(tmp_path / "here")
