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

from bench.api import ConfigError, DataError, Prompt, Reward
from bench.cli.main import main
from bench.datasets.scenes.lettering import plain_font
from bench.datasets.scenes.sheet import CAPTION_SIZE
from bench.plugin_code import code_hash
from bench.scoring.folder import picture_folder
from bench.scoring.folder.picture_folder import PictureEntry, list_pictures, read_picture
from bench.scoring.folder.ranked_sheet import CELL, draw_sheet, picture_caption, sheet_title
from bench.scoring.folder.score_folder import score_folder, scores_summary
from bench.scoring.ranking import ranking

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


BRIGHT, MATCHES = "tests.scoring.test_score_folder:Bright", "tests.scoring.test_score_folder:Matches"


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
    assert [about[cls.name]["code"] for cls in (Bright, Matches)] == [code_hash(Bright), code_hash(Matches)]
    assert about["bright"]["role"] == "evaluation" and not about["matches"]["higher_is_better"]
    told = capsys.readouterr().out
    assert "3 of 3 pictures judged\n" in told and "matches: 2 pictures, mean 5, from 0 (10.png) to 10 (1.png)" in told
    assert ranked(out / "bright.png", 3) == [200, 120, 40] and ranked(out / "matches.png", 2) == [120, 40]


PITCH = CELL + 70  # of a row: the picture and five lines


def ranked(path: Path, count: int) -> list[int]:
    """The grey in the middle of each tile of a sheet's only row; the sheet has no room for more."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] == count * (CELL + 8) + 8 and pixels.shape[0] < 2 * PITCH
    return [int(pixels[CELL // 2 - PITCH, 8 + CELL // 2 + place * (CELL + 8), 0]) for place in range(count)]


def test_many_pictures_show_both_ends_apart(folder: Path) -> None:
    for number in range(11, 50):
        Image.new("RGB", (16, 16), (number,) * 3).save(folder / f"{number}.png")
    score_folder([BRIGHT], folder, folder.parent / "s")
    with Image.open(folder.parent / "s" / "bright.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[:2] == (26 + 6 * PITCH + 2 * 30, 8 * (CELL + 8) + 8)  # two headings, 8 + 8 + 4 pictures each
    middle = 8 + CELL // 2 + (CELL + 8) * np.arange(8)
    # 42 pictures of the greys 200, 120, 49, 48, ..., 40, 40, ..., 11: left out are 32 and 31
    best = pixels[26 + 30 + CELL // 2 + 2 * PITCH, middle, 0]
    worst = pixels[26 + 60 + CELL // 2 + 3 * PITCH, middle, 0]
    assert best.tolist() == [36, 35, 34, 33, 255, 255, 255, 255]
    assert worst.tolist() == [30, 29, 28, 27, 26, 25, 24, 23]
    assert pixels[-PITCH + CELL // 2, middle, 0].tolist() == [14, 13, 12, 11, 255, 255, 255, 255]


# The sheet's words


def test_equal_scores_share_a_rank_and_keep_their_order() -> None:
    order, ranks = ranking(np.array([0, 1, np.nan, 0.5, 1, 0, 1]), higher_is_better=True)
    assert order.tolist() == [1, 4, 6, 3, 0, 5] and ranks.tolist() == [1, 1, 1, 4, 5, 5]
    order, ranks = ranking(np.array([0, 1, np.nan, 0.5, 1, 0, 1]), higher_is_better=False)
    assert order.tolist() == [0, 5, 3, 1, 4, 6] and ranks.tolist() == [1, 1, 3, 4, 4, 4]
    order, ranks = ranking(np.tile([0.0, 1.0], 100), higher_is_better=True)
    assert order.tolist() == [*range(1, 200, 2), *range(0, 200, 2)] and ranks.tolist() == [1] * 100 + [101] * 100


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([2.0], "jpeg: 1 picture (higher is better)"),
        ([2.0, 1.0], "jpeg: 2 pictures, best first (higher is better)"),
        ([1.0, 0.0, 1.0], "jpeg: 3 pictures, best first (higher is better); the first 2 score alike"),
        ([1.0, 1.0], "jpeg: 2 pictures, best first (higher is better); all score alike"),
    ],
)
def test_the_title_counts_pictures_and_ties(scores: list[float], expected: str) -> None:
    assert sheet_title("jpeg", ranking(np.array(scores), True)[1], True) == expected


def test_a_name_keeps_its_end_and_tells_its_row_where_letters_are_missing() -> None:
    prompt = Prompt(0, "two\n\nlines", {})
    lines = picture_caption(3, -0.25, 10, PictureEntry(f"{'W' * 60}-00012.png", prompt)).split("\n")
    assert lines[0] == "#3, score -0.25" and lines[2:] == ["two lines"]
    assert lines[1].startswith("...WWW") and lines[1].endswith("WWW-00012.png")
    length = plain_font(CAPTION_SIZE).getlength
    assert length(lines[1]) <= CELL < length(f"...W{lines[1][3:]}")  # one more would be too wide
    assert picture_caption(1, 1.0, 0, PictureEntry("\u6f22\u5b57_1.png")) == "#1, score 1\n[?]_1.png (row 2)\n"


def drawn(folder: Path, prompts: Sequence[str], name: str = "jpeg") -> np.ndarray:
    """A sheet of white pictures, so that all ink is that of its words; uint8 (H, W, 3)."""
    entries = []
    for place, text in enumerate(prompts):
        Image.new("RGB", (16, 16), "white").save(folder / f"{place}.png")
        entries.append(PictureEntry(f"{place}.png", Prompt(place, text, {})))
    draw_sheet(folder, entries, -np.arange(len(prompts), dtype=np.float32), name, True, folder / "sheet.png")
    with Image.open(folder / "sheet.png") as sheet:
        return np.asarray(sheet)


def test_no_words_leave_their_cell(tmp_path: Path) -> None:
    loud = "A LOUD WOMAN WITH MANY WIDE HAMMOCKS AND MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM " * 3
    pixels = drawn(tmp_path, [loud, loud])
    captions = pixels[-PITCH:]
    for edge in range(0, pixels.shape[1], CELL + 8):
        assert (captions[:, edge : edge + 8] == 255).all()
    assert (pixels[:, -8:] == 255).all()  # where a title cut off would end
    alone = drawn(tmp_path, ["a cat"], name="a scorer of a long name")
    assert (alone[:, -8:] == 255).all() and len(alone) == 10 + 3 * 16 + PITCH  # its title takes three lines


def test_letters_that_the_font_lacks_are_marked_and_the_title_says_so(tmp_path: Path) -> None:
    np.testing.assert_array_equal(drawn(tmp_path, ["\u732b a cat"] * 3), drawn(tmp_path, ["[?] a cat"] * 3))
    known, lacking = (drawn(tmp_path, [text] * 3) for text in ("\u043a\u043e\u0442", "\u732b"))
    assert len(lacking) == len(known) + 16  # the title takes a line more


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
    assert "3 of 9 pictures judged; problems:\n" in told
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
    monkeypatch.setattr(picture_folder, "MAX_PIXELS", 1000)
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
    assert "matches: 1 picture, mean" in scores_summary(score_folder([MATCHES], folder, folder.parent / "m"), folder)
    scores = score_folder([BRIGHT], folder, folder.parent / "s")
    assert [entry.name for entry in scores.broken] == ["gone.png", "10.png"]
    np.testing.assert_array_equal(scores.by_scorer["bright"], [200, np.nan, 40, np.nan])
    assert "2 of 4 pictures judged" in scores_summary(scores, folder)
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
