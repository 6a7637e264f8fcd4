"""`bench score`: every file of a folder is scored or listed with its reason, and the sheet is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.api import ConfigError, DataError, Reward
from bench.cli import main
from bench.score import listing
from bench.score.command import score_folder, summary
from bench.score.listing import list_pictures, read_picture
from bench.score.sheet import CELL

GREYS = {"1.png": 40, "2.png": 200, "10.png": 120}


class Bright(Reward):
    """Mean grey level."""

    name = "bright"
    range = (0.0, 255.0)
    reads_prompts = False

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return images.mean((1, 2, 3))


class Matches(Bright):
    """How far the grey level is from the quoted one; lower is better."""

    name = "matches"
    reads_prompts = True
    higher_is_better = False

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        return "text" in metadata

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([abs(image.mean() - int(m["text"])) for image, m in zip(images, metadata, strict=True)])


BRIGHT, MATCHES = "tests.unit.test_score:Bright", "tests.unit.test_score:Matches"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three grey pictures, of two sizes; sorted as texts, 10 would come before 2."""
    path = tmp_path / "pictures"
    path.mkdir()
    for name, grey in GREYS.items():
        Image.new("RGB", (32, 48) if name == "2.png" else (32, 32), (grey,) * 3).save(path / name)
    return path


def lines(folder: Path, *texts: str) -> Path:
    path = folder.parent / "prompts.txt"
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def test_a_table_and_a_sheet_for_each_scorer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "new" / "scores"
    arguments = ["score", "--reward", f"{MATCHES},{BRIGHT}", "--images", str(folder), "--out", str(out), "--prompts"]
    assert main([*arguments, str(lines(folder, 'grey "50"', "no number", 'grey "120"'))]) == 0
    table = pd.read_csv(out / "scores.csv", keep_default_na=False)
    assert table.columns.tolist() == ["file", "prompt", "matches", "bright", "problem"]
    assert table["file"].tolist() == ["1.png", "2.png", "10.png"] and table["bright"].tolist() == [40, 200, 120]
    assert table["matches"].tolist() == ["10.0", "", "0.0"]  # to the second prompt it does not apply
    assert table["prompt"].tolist() == ['grey "50"', "no number", 'grey "120"']
    about = json.loads((out / "scores.json").read_text())
    assert about["bright"]["role"] == "evaluation" and not about["matches"]["higher_is_better"]
    told = capsys.readouterr().out
    assert "3 of 3 pictures judged\n" in told and "matches: 2 pictures, mean 5, from 0 (10.png) to 10 (1.png)" in told
    assert ranked(out / "bright.png", 3) == [200, 120, 40] and ranked(out / "matches.png", 2) == [120, 40]


def ranked(sheet: Path, count: int) -> list[int]:
    """The grey in the middle of each tile of a sheet's first row; the sheet has no room for more."""
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] == count * (CELL + 8) + 8
    return [int(pixels[26 + CELL // 2, 8 + CELL // 2 + place * (CELL + 8), 0]) for place in range(count)]


def test_many_pictures_show_both_ends(folder: Path) -> None:
    for number in range(11, 50):
        Image.new("RGB", (16, 16), (number,) * 3).save(folder / f"{number}.png")
    score_folder([BRIGHT], folder, folder.parent / "s")
    with Image.open(folder.parent / "s" / "bright.png") as sheet:
        assert sheet.width == 8 * (CELL + 8) + 8 and (sheet.height - 26) // (CELL + 70) == 5
        pixels = np.asarray(sheet)
    last = pixels[26 + CELL // 2 + 4 * (CELL + 70), 8 + CELL // 2 + 7 * (CELL + 8)]
    assert last.tolist() == [11, 11, 11]  # of 42, the worst


# What cannot be judged


def spoil(folder: Path) -> dict[str, str]:
    """Files that are no usable pictures, each with what is said of it."""
    noise = Image.fromarray(np.random.Generator(np.random.Philox(1)).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    (folder / "a-truncated.png").write_bytes(data[:5000])
    (folder / "b-empty.png").write_bytes(b"")
    (folder / "c-text.png").write_text("no picture")
    noise.convert("CMYK").save(folder / "d-ink.jpg")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "e-deep.png")
    noise.save(folder / "f-moving.gif", save_all=True, append_images=[noise.rotate(90)])
    return {
        "a-truncated.png": "truncated", "b-empty.png": "zero bytes", "c-text.png": "not a picture",
        "d-ink.jpg": "CMYK", "e-deep.png": "16-bit", "f-moving.gif": "animated",
    }  # fmt: skip


def test_broken_pictures_are_listed_and_never_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt, out = spoil(folder), folder.parent / "s"
    assert main(["score", "--reward", BRIGHT, "--images", str(folder), "--out", str(out)]) == 1
    table = pd.read_csv(out / "scores.csv", keep_default_na=False).set_index("file")
    told = capsys.readouterr().out
    assert "3 of 9 pictures judged, not these:\n" in told
    for name, reason in spoilt.items():
        assert table.loc[name, "bright"] == "" and reason in table.loc[name, "problem"] and f"  {name}: " in told
    assert table.loc[list(GREYS), "problem"].tolist() == ["", "", ""]
    assert ranked(out / "bright.png", 3) == [200, 120, 40]


def test_a_folder_of_broken_pictures_is_an_error(folder: Path) -> None:
    for name in GREYS:
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"bright could judge none of its 3 files; 1\.png: zero bytes"):
        score_folder([BRIGHT], folder, folder.parent / "s")
    assert not (folder.parent / "s").exists()


def test_an_enormous_picture_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="enormous: 32 x 32 pixels"):
        read_picture(folder / "1.png")


def test_pictures_stand_upright_and_greys_are_read(tmp_path: Path) -> None:
    picture = Image.new("L", (30, 20), 7)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read_picture(tmp_path / "turned.png")
    assert pixels.shape == (30, 20, 3) and (pixels == 7).all()
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()


# Prompts


def test_the_metadata_of_the_folder_names_its_pictures(folder: Path) -> None:
    rows = [
        {"file_name": "2.png", "text": 'grey "200"', "tag": "light"},
        {"file_name": "gone.png", "text": "nothing"},
        {"file_name": "1.png", "text": "dark"},
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list_pictures(folder)
    assert [entry.name for entry in found] == ["2.png", "gone.png", "1.png", "10.png"]
    assert found[0].prompt is not None
    assert found[0].prompt.metadata == {"tag": "light", "text": "200"} and found[0].prompt.text == 'grey "200"'
    assert [entry.problem for entry in found] == [
        "", "named in metadata.jsonl, but there is no such file", "", "not named in metadata.jsonl",
    ]  # fmt: skip
    scores = score_folder([BRIGHT], folder, folder.parent / "s")
    assert [entry.name for entry in scores.broken] == ["gone.png", "10.png"]
    np.testing.assert_array_equal(scores.by_scorer["bright"], [200, np.nan, 40, np.nan])
    assert "2 of 4 pictures judged" in summary(scores, folder)
    assert list_pictures(folder, lines(folder, "a", "b", "c"))[1].name == "2.png"  # a file of prompts goes before


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (None, ConfigError, "matches: expected prompts, by which a picture is judged here: give --prompts FILE"),
        (["a", "b"], DataError, "expected a prompt for each of the 3 files"),
        (["a", "b", "c"], DataError, "matches applies to none of the 3 prompts, such as 'a'"),
    ],
)
def test_a_scorer_of_prompts_says_what_it_lacks(
    folder: Path, texts: list[str] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        score_folder([MATCHES], folder, folder.parent / "s", lines(folder, *texts) if texts else None)
    assert message in str(caught.value) and not (folder.parent / "s").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "expected a file_name in every row"),
        ({"file_name": "../x.png", "text": "a"}, "expected one within that folder"),
    ],
)
def test_metadata_without_or_beyond_the_folder_is_refused(folder: Path, row: dict[str, str], message: str) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        list_pictures(folder)
    assert message in str(caught.value)


def test_no_folder_and_no_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder with pictures"):
        list_pictures(tmp_path / "gone")
    (tmp_path / ".hidden").touch()
    with pytest.raises(DataError, match="holds no files"):
        list_pictures(tmp_path)
