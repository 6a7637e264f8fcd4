"""What can be wrong with the user's pictures: counted by kind, listed, never trained on; too much stops the run."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.api import DataError
from bench.cli.main import main
from bench.config.pictures import Data
from bench.datasets.pictures.preparation import pictures_table, prepare_pictures, split_of
from tests.support.user_pictures import captions, image_folder, noise, png, stored, write_listing

GOOD = 30
# kind: what lies there, the caption, and what the listing says of it
ROWS: list[tuple[str, bytes | None, object, str]] = [
    ("missing", None, "a cat", "there is no file"),
    ("zero bytes", b"", "a cat", "the file is empty"),
    ("not a picture", b"hello", "a cat", "5 bytes in none of the formats"),
    ("truncated", png(noise(100))[:-200], "a cat", "begins as a PNG picture but cannot be decoded"),
    ("enormous", png(Image.new("1", (101, 100))), "a cat", "101 x 100 pixels, over 10,000 allowed"),
    ("animated", stored(noise(0), "GIF", save_all=True, append_images=[noise(1)]), "a cat", "2 frames"),
    ("colour profile", png(noise(107), icc_profile=b"no profile"), "a cat", "its profile of 10 bytes cannot be read"),
    ("CMYK", stored(noise(0).convert("CMYK"), "JPEG"), "a cat", "inks instead of red, green and blue"),
    ("16-bit", png(Image.fromarray(np.full((4, 4), 40000, np.uint16))), "a cat", "more than 8 bits a channel"),
    ("no caption", png(noise(101)), " \n", "it is empty"),
    ("no caption", png(noise(102)), None, "it is empty"),
    ("no caption", png(noise(103)), {"en": "a cat"}, "expected a text, got dict"),
    ("no caption", png(noise(108)), [], "its list is empty"),
    ("no caption", png(noise(109)), ["a cat", ""], "caption 2: it is empty"),
    ("caption too long", png(noise(104)), "a cat " * 1667, "tokens, but the text encoders read 20"),
    ("unreadable caption", png(noise(105)), "a c\u00e4t", "the text encoders do not know: '\u00e4'"),
    ("unreadable caption", png(noise(106)), "a \ud800", "surrogates not allowed"),
    ("duplicate", png(noise(0)), "another caption", "the same bytes as '0.png'"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good pictures, and one with each fault after them."""
    folder = image_folder(tmp_path / "pictures", GOOD)
    rows = [{"file_name": f"{number}.png", "text": text} for number, text in enumerate(captions(GOOD))]
    for number, (_, data, caption, _) in enumerate(ROWS):
        if data is not None:
            (folder / f"bad{number}").write_bytes(data)
        rows.append({"file_name": f"bad{number}", "text": caption})
    rows.append({"file_name": "../outside.png", "text": "a cat"})
    write_listing(folder, rows)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("{broken\n")
    return folder


def settings(folder: Path, **more: float) -> Data:
    return Data(path=str(folder), max_pixels=10_000, **more)


def test_every_fault_is_counted_listed_and_kept_out(folder: Path, tiny_pipeline: Path) -> None:
    prepared = prepare_pictures(settings(folder, allow_broken=0.5), tiny_pipeline)
    found = prepared.inspected
    assert [p.name for p in found.kept] == [f"{number}.png" for number in range(GOOD)]
    with (found.folder / "left-out.csv").open(newline="") as file:
        listed = {row["name"]: row for row in csv.DictReader(file)}
    for number, (kind, _, _, detail) in enumerate(ROWS):
        row = listed[f"bad{number}"]
        assert (row["kind"], row["place"]) == (kind, f"metadata.jsonl:{GOOD + number + 1}") and detail in row["detail"]
    assert listed["../outside.png"]["kind"] == "outside" and listed[""]["kind"] == "broken line"
    assert len(listed) == len(ROWS) + 2 == len(found.left_out)
    expected = {kind: sum(row[0] == kind for row in ROWS) for kind in {row[0] for row in ROWS}}
    assert found.kinds() == {**expected, "broken line": 1, "outside": 1} == prepared.found.left_out
    shown = pictures_table(prepared)
    assert "rows        50: 30 can be used, 20 left out (40.0% broken; 50.0% allowed)" in shown
    assert "no caption                 5   metadata.jsonl:40 bad9 it is empty" in shown
    assert str(found.folder / "left-out.csv") in shown and max(map(len, shown.splitlines()[3:-4])) <= 100


def test_more_than_one_in_a_hundred_stops_the_run(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", 100)
    (folder / "0.png").write_bytes(b"")
    assert len(prepare_pictures(settings(folder), tiny_pipeline).inspected.left_out) == 1
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepare_pictures(settings(folder), tiny_pipeline)
    message = str(caught.value)
    assert "2 of 100 rows are broken (2 zero bytes), 2.0%, and 1.0% are allowed" in message
    assert "left-out.csv" in message and message.endswith("--allow-broken 0.03")
    assert len(prepare_pictures(settings(folder, allow_broken=0.03), tiny_pipeline).inspected.kept) == 98


# Through the command line: one message, status 2, and nothing has run


def nothing(folder: Path) -> None:
    """The arguments are what is wrong."""


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def without_listing(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()


def without_rows(folder: Path) -> None:
    write_listing(folder, [])


def in_a_folder_below(folder: Path) -> None:
    (folder / "train").mkdir()
    (folder / "metadata.jsonl").rename(folder / "train" / "metadata.jsonl")


def with_two_listings(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\n")


def all_broken(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.write_bytes(b"")


def one_broken(folder: Path) -> None:
    (folder / "0.png").unlink()


def other_columns(folder: Path) -> None:
    write_listing(folder, [{"file_name": "0.png", "caption": "a cat"}])


def cut_parquet(folder: Path) -> None:
    empty(folder)
    (folder / "train.parquet").write_bytes(b"PAR1 and then nothing")


def an_object_of_rows(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.json").write_text('{"0.png": "a cat"}')


def half_a_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in ("0.png", "1.png"):
            tar.add(folder / name, name)
    whole = (folder / "a.tar").read_bytes()
    empty(folder)
    (folder / "a.tar").write_bytes(whole[: 2 * 512 + 1024])  # the first picture, and no end


def a_compressed_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "0.png", "0.png")


def beside_them(folder: Path) -> None:
    """A caption file for each picture, in the place of the listing."""
    (folder / "metadata.jsonl").unlink()
    for number, text in enumerate(captions(GOOD)):
        (folder / f"{number}.txt").write_text(text)


def an_empty_caption(folder: Path) -> None:
    beside_them(folder)
    noise(99).save(folder / "more.png")
    (folder / "more.txt").write_text(" \n")


def a_caption_alone(folder: Path) -> None:
    beside_them(folder)
    (folder / "alone.txt").write_text("a cat")


def captioned(folder: Path, texts: list[str]) -> None:
    """All pictures with these captions in turn."""
    write_listing(folder, [{"file_name": f"{n}.png", "text": texts[n % len(texts)]} for n in range(GOOD)])


def one_caption_to_train_on(folder: Path) -> None:
    captioned(folder, [text for text in captions(90) if split_of(text) == "train"][:1])


def one_caption_to_judge_by(folder: Path) -> None:
    captioned(folder, [text for text in captions(90) if split_of(text) == "report"][:1])


def few_captions(folder: Path) -> None:
    captioned(folder, [text for text in captions(90) if split_of(text) == "train"][:4])


ADVICE = (
    "give many different captions, best one of its own to each picture; as a rule 50 are enough; or train on all of "
    "them, and judge by prompts of your own (--evaluation.prompt_sets.NAME FILE)"
)
SETS = ["--evaluation.prompt_sets.own.path", "FOLDER/../own.txt", "--evaluation.prompt_sets.own.scorers", "jpeg"]


CASES = [
    (nothing, ["--data", "nowhere.jsonl"], ["--data nowhere.jsonl: expected a folder with metadata.jsonl", "nothing"]),
    (nothing, ["--data", "FOLDER/0.png"], ["0.png: expected a folder with metadata.jsonl", "this is none"]),
    (empty, [], ["expected a folder with metadata.jsonl, .csv, .json or .tsv", "this folder holds none of them"]),
    (without_listing, [], ["this folder holds none of them; it has 30 pictures, and no .txt or .caption of the same"]),
    (an_object_of_rows, [], ["metadata.json: expected a list of pictures, like [{", "got dict"]),
    (half_a_tar, [], ["a.tar is cut short or damaged after "]),
    (a_compressed_tar, ["--data", "FOLDER/a.tar.gz"], ["a.tar.gz is compressed, and pictures are read from any place"]),
    (an_empty_caption, [], ["of 31 rows are broken (1 no caption)", "left-out.csv"]),
    (a_caption_alone, [], ["1 of 31 rows are broken (1 no picture)"]),
    (beside_them, ["--data.caption_column", "x"], ["captions beside pictures, which need no --data.caption_column"]),
    (without_rows, [], ["metadata.jsonl lists no pictures: expected a line for each picture, like {"]),
    (in_a_folder_below, [], ["this folder holds none of them; ", "train holds one"]),
    (with_two_listings, [], ["metadata.jsonl and metadata.csv: give the one that is meant by --data"]),
    (all_broken, [], ["none of its 30 rows can be used (30 zero bytes)", "left-out.csv"]),
    (one_broken, [], ["1 of 30 rows are broken (1 missing), 3.3%, and 1.0% are allowed", "--allow-broken 0.04"]),
    (other_columns, [], ["expected a column 'text' for each caption, but there are 'file_name', 'caption'"]),
    (nothing, ["--data.caption_column", "words"], ["column 'words' for each caption", "by --data.caption_column"]),
    (nothing, ["--data.tag_column", "kind"], ["expected a column 'kind' for each tag"]),
    (nothing, ["--data.pictures", "nowhere"], ["nowhere: expected the folder of the pictures"]),
    (cut_parquet, [], ["that `datasets` can read; reading it failed"]),
    (nothing, ["--data.captoin_column", "x"], ["data.captoin_column: no such setting; did you mean 'caption_column'"]),
    (nothing, ["--data.long_captions", "fold"], ["data.long_captions", "'drop' or 'cut'"]),
    (nothing, ["--allow-broken", "2"], ["data.allow_broken: should be less than or equal to 1, got 2"]),
    (nothing, ["--world", "scenes"], ["no option --world"]),
    (nothing, ["--preset", "quick"], ["no task 'alignment' in world 'images'"]),
    (nothing, ["--reward", "beauty"], ["no reward 'beauty' is registered"]),
    (one_caption_to_train_on, [], ["1 different captions for task pictures", "1 in report (there are none)", ADVICE]),
    (one_caption_to_judge_by, [], ["at least 1 in train (there are none), 1 in held_out (there are none)", ADVICE]),
    (
        one_caption_to_train_on,
        [*SETS, "--methods", "flowgrpo", "--flowgrpo.num_groups", "2"],
        ["at least 2 in train (there is 1): give more captions, or have the method take fewer at once"],
    ),
    (
        one_caption_to_train_on,
        [*SETS, "--reward", "scenes-ocr"],
        ["its headline scenes-ocr can judge none of the 2 prompts"],
    ),
    (
        few_captions,
        [],
        ["4 different captions", "1 in report (there are none), 1 in held_out (there are none)", ADVICE],
    ),
    (
        nothing,
        ["--evaluation.held_out_prompts", "0", "--methods", "flowgrpo", "--flowgrpo.num_groups", "25"],
        ["task pictures, which needs at least 25 in train (there are 24)", ADVICE],
    ),
]


@pytest.mark.parametrize(("prepare_", "arguments", "messages"), CASES)
def test_a_run_does_not_begin(
    prepare_: Callable[[Path], None], arguments: list[str], messages: list[str], tiny_pipeline: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = image_folder(tmp_path / "pictures", GOOD)
    prepare_(folder)
    (tmp_path / "own.txt").write_text("a circle\na star\n")
    given = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    data = [] if "--data" in given else ["--data", str(folder)]
    methods = [] if "--methods" in given else ["--methods", "sft"]
    command = ["run", *data, "--model", str(tiny_pipeline), "--results", str(tmp_path / "results"), *methods]
    assert main([*command, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and "Traceback" not in error
    for message in messages:
        assert message in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "--preset", "images"], ["world 'images' has no pictures: give them by --data FOLDER"]),
        (["run", "--allow-broken", "0.1"], ["data.path: missing"]),
        (["curate", "--data", "nowhere.csv", "--reward", "scenes-aesthetic"], ["nowhere.csv: expected a folder"]),
        (
            ["curate", "--data", "x.csv", "--data.selection", "y.json", "--reward", "jpeg"],
            ["y.json: expected what `bench curate` writes"],
        ),
        (["curate", "--data", "x"], ["the following arguments are required: --reward"]),
        (["curate", "--data", "x", "--reward", "y", "--top", "2"], ["--top 2: expected a share above 0, at most 1"]),
        (["curate", "--data", "x", "--reward", "y", "--min", "1", "--top", "1"], ["not allowed with argument"]),
        (["curate", "--data", "x", "--reward", "1*y+2*z"], ["selected by one scorer at a time; give one of its parts"]),
        (["curate", "--data", "x", "--reward", "y", "--train.x", "1"], ["expected --data.SETTING VALUE"]),
    ],
)
def test_the_pictures_are_asked_for(
    arguments: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    for message in messages:
        assert message in error


def test_a_damaged_selection(tmp_path: Path, tiny_pipeline: Path) -> None:
    path = tmp_path / "selected.json"
    for text in ("{", json.dumps({"schema": 1}), json.dumps({"schema": 2, "names": []})):
        path.write_text(text)
        with pytest.raises(DataError, match=r"selected\.json: expected what `bench curate` writes"):
            prepare_pictures(Data(path=str(path)), tiny_pipeline)
