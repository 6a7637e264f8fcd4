"""Every block of Python in README and docs runs, and every command line in them is one that the command takes."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from bench import registry
from bench.cli.experiment_options import read_experiment, read_pictures
from bench.cli.main import main, parser_of, read_options
from bench.conformance import assert_conforms
from bench.datasets.worlds import load_world
from tests.support.documents import Block, blocks, commands, file_blocks, mentioned

# The blocks that do not run here by themselves, by their first lines, each with the reason.
RUN_ELSEWHERE = {
    "pipe.transformer = ": "wants a trained cell: tests/experiments/test_exchange.py makes one and runs each line",
}
PYTHON = [block for block in blocks("python") if not block.first.startswith(tuple(RUN_ELSEWHERE))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder as a clone's, with the files that pages show, and those that they take to be there."""
    for name in ("bench", "results"):
        (tmp_path / name).symlink_to(registry.ROOT / name)
    for name, text in file_blocks().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "machine.yaml").write_text("train: {micro_batch: 8}\n")  # as `doctor --tune` writes
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_block_of_python_runs(block: Block, folder: Path) -> None:
    (folder / "block.py").write_text(block.text, encoding="utf-8")
    runpy.run_path("block.py")


def test_each_exception_is_one_block() -> None:
    for first, reason in RUN_ELSEWHERE.items():
        assert len([block for block in blocks("python") if block.first.startswith(first)]) == 1, first
        (test,) = re.findall(r"tests/\S+\.py", reason)
        assert (registry.ROOT / test).is_file()


def _bench_words(words: list[str]) -> list[str] | None:
    """What a command line gives to `bench`, started by itself, by python or by torchrun; None where it starts else."""
    if words[0] == "bench":
        return words[1:]
    place = next((at for at in range(len(words) - 1) if words[at : at + 2] == ["-m", "bench"]), None)
    return None if place is None else words[place + 2 :]


OURS = [(place, found) for place, words in commands() if (found := _bench_words(words))]
MENTIONED = [(place, found) for place, words in mentioned() if (found := _bench_words(words))]


def test_command_lines_are_found() -> None:
    assert len(OURS) > 40 and {words[0] for _, words in OURS} >= {"run", "plan", "curate", "score", "report", "sample"}
    assert len(MENTIONED) > 10


@pytest.mark.parametrize(("place", "words"), OURS, ids=[f"{place} {words[0]}" for place, words in OURS])
def test_a_command_line_can_be_given(place: str, words: list[str], folder: Path) -> None:
    """Its options, and where it describes an experiment, its settings: methods, tasks, scorers, presets and bounds."""
    args = read_options(words[0], words[1:])
    if words[0] in ("run", "plan"):
        assert read_experiment(args).methods
    elif words[0] == "curate":
        assert read_pictures(args).path == "FOLDER"
    elif words[0] == "list":
        assert main(words) == 0
    for option in ("reward", "methods"):
        for name in (getattr(args, option, None) or "").split(","):
            if registry.is_foreign(name):
                registry.load_plugin(name)


@pytest.mark.parametrize(
    ("place", "words"), MENTIONED, ids=[f"{place} {' '.join(words)}" for place, words in MENTIONED]
)
def test_a_command_that_is_mentioned_is_one(place: str, words: list[str]) -> None:
    """Options may be left out in a sentence, so that what is required may lack; none is invented."""
    options = parser_of(words[0])._option_string_actions
    assert [word for word in words[1:] if word.startswith("--") and "." not in word and word not in options] == []
    if words[0] == "list" and words[1:] and words[1] not in ("NAME", "REWARD"):
        assert main(words) == 0


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_file_of_settings_can_be_given(block: Block, folder: Path) -> None:
    (folder / "own.yaml").write_text(block.text, encoding="utf-8")
    assert read_experiment(read_options("run", ["--preset", "own.yaml"])).methods


def test_modules_that_are_started_exist() -> None:
    started = [words[words.index("-m") + 1] for _, words in [*commands(), *mentioned()] if "-m" in words[:-1]]
    ours = {name for name in started if name.split(".")[0] in ("bench", "rewards", "tests", "pretrain")}
    assert {"bench", "rewards.convert", "bench.datasets.pictures.openmoji"} <= ours
    assert [name for name in ours if importlib.util.find_spec(name) is None] == []


@pytest.mark.slow
def test_the_reward_of_the_page_conforms_and_scores_what_it_says(folder: Path, tiny_pipeline: Path) -> None:
    assert_conforms("./warmth.py", load_world("scenes", str(tiny_pipeline)))
    red, grey = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0], grey[...] = 255, 90
    half = np.where(np.arange(4)[:, None, None] < 2, red, 0).astype(np.uint8)
    scores = registry.load_reward("./warmth.py")()(np.stack([red, grey, half]), ["", "", ""], [{}] * 3)
    assert scores.tolist() == [1.0, 0.0, 0.5]


@pytest.mark.slow
def test_the_function_of_the_page_scores_what_it_says(folder: Path) -> None:
    pictures = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 51, 255)])
    scores = registry.load_reward("./brightness.py:brightness")()(pictures, [""] * 3, [{}] * 3)
    assert scores.tolist() == pytest.approx([0.0, 0.2, 1.0], abs=1e-7)
    assert_conforms("./brightness.py:brightness")
