"""`bench score` on folders, pictures and scorers that are not as they should be: nothing is lost, and all is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bench.api import ConfigError, DataError, PluginError
from bench.cli.main import main
from bench.scoring.folder.score_folder import score_folder, scores_summary

FUNCTIONS = '''
import sys

def picky(prompts, completions, **kwargs):
    """Mean grey level; fails where a picture is darker than its note says."""
    levels = [float(picture.mean()) for picture in completions]
    if min(levels) < 30:
        raise ValueError("too dark")
    return [float("nan") if level < 50 else level for level in levels]

def broken(prompts, completions, **kwargs):
    raise ValueError("always")

def leaving(prompts, completions, **kwargs):
    sys.exit()

for function in (picky, broken, leaving):
    function.reads_prompts = False
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three grey pictures of one size and one of another, the second of them dark; scorers lie beside the folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FUNCTIONS)
    path = tmp_path / "pictures"
    path.mkdir()
    for name, grey in {"a.png": 200, "b.png": 10, "c.png": 100, "d.png": 150}.items():
        Image.new("RGB", (32, 48) if name == "d.png" else (32, 32), (grey,) * 3).save(path / name)
    return path


def test_one_picture_that_a_scorer_fails_on_is_named_and_the_others_are_judged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "--reward", "mine.py:picky,jpeg", "--images", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "4 of 4 pictures judged; problems:\n  b.png: reward 'picky' on 1 pictures raised ValueError: too dark" in out
    table = pd.read_csv("scores/scores.csv", index_col="file")
    assert table["picky"].dropna().to_dict() == {"a.png": 200.0, "c.png": 100.0, "d.png": 150.0}
    assert table["jpeg"].notna().all(), "the other scorer can judge it"
    assert Path("scores/picky.png").is_file()


@pytest.mark.parametrize(("name", "told"), [("broken", "ValueError: always"), ("leaving", "raised SystemExit")])
def test_a_scorer_that_fails_on_all_ends_the_command(name: str, told: str, folder: Path) -> None:
    with pytest.raises(DataError, match=f"{name} could judge none of its 4 files; a.png.*{told}"):
        score_folder([f"mine.py:{name}"], folder, Path("scores"))
    for number in range(9):
        (folder / f"more{number}.png").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(PluginError, match=f"{name} failed on all of the first 12 pictures.*{told}"):
        score_folder([f"mine.py:{name}"], folder, Path("scores"))
    assert not Path("scores").exists()


def test_two_of_an_odd_size_and_one_that_is_not_finite_lose_nothing(folder: Path) -> None:
    for name, grey in {"e.png": 10, "f.png": 20, "g.png": 40}.items():
        Image.new("RGB", (16, 16) if name != "g.png" else (32, 32), (grey,) * 3).save(folder / name)
    scores = score_folder(["mine.py:picky"], folder, Path("scores"))
    problems = {entry.name: entry.problem for entry in scores.broken}
    assert problems.keys() == {"b.png", "e.png", "f.png", "g.png"}
    assert "too dark" in problems["e.png"] and "NaN or infinite" in problems["g.png"]
    assert int(pd.read_csv("scores/scores.csv")["picky"].notna().sum()) == 3


def test_a_plugin_that_exits_is_told_and_does_not_conform(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--reward", "mine.py:leaving", "--images", str(folder)]) == 2
    assert "reward 'leaving' on 1 pictures raised SystemExit" in capsys.readouterr().err
    assert main(["check", "mine.py:leaving"]) == 1
    assert "7 failed" in capsys.readouterr().out


def test_names_that_are_no_text_and_digits_that_are_no_numbers(folder: Path) -> None:
    for name in ("b.png", "c.png", "d.png"):
        (folder / name).unlink()
    shown = "10\N{SUPERSCRIPT TWO}.png"
    (folder / "a.png").rename(folder / shown)
    other = bytes(folder) + b"/\xff.png"
    Path(other.decode("utf-8", "surrogateescape")).write_bytes((folder / shown).read_bytes())
    scores = score_folder(["jpeg"], folder, Path("scores"))
    assert [(entry.name, entry.problem) for entry in scores.entries] == [
        (shown, ""), ("\\udcff.png", "its name is not UTF-8: rename it"),
    ]  # fmt: skip
    assert pd.read_csv("scores/scores.csv")["jpeg"].notna().tolist() == [True, False]


def missing_prompts(folder: Path) -> None:
    score_folder(["jpeg"], folder, Path("scores"), Path("nowhere.txt"))


def sheets_over_pictures(folder: Path) -> None:
    score_folder(["jpeg"], folder, folder / ".." / "pictures")


def two_of_one_name(folder: Path) -> None:
    Path("other.py").write_text(FUNCTIONS)
    score_folder(["mine.py:picky", "other.py:picky"], folder, Path("scores"))


@pytest.mark.parametrize(
    ("act", "error", "told"),
    [
        (two_of_one_name, ConfigError, "mine.py:picky.*other.py:picky.*rename one of them"),
        (missing_prompts, DataError, "cannot read the prompts in nowhere.txt: No such file"),
        (sheets_over_pictures, ConfigError, "expected another folder than that of the pictures"),
    ],
)
def test_what_cannot_be_is_one_message(
    act: Callable[[Path], None], error: type[Exception], told: str, folder: Path
) -> None:
    with pytest.raises(error, match=told):
        act(folder)


def test_folders_in_it_are_counted_and_sheets_of_sums_stay_in_theirs(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / ".hidden").mkdir()
    out = Path("scores")
    scores = score_folder(["0.5*jpeg+0.5*./mine.py:picky", "jpeg"], folder, out)
    assert "folders in it that were not looked into: 1" in scores_summary(scores, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "0.5*jpeg+0.5*._mine.py:picky.png", "jpeg.png", "scores.csv", "scores.json",
    ]  # fmt: skip
