"""A results folder with a damaged file: the report names it and says how to mend it, and no number of it passes."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.api import DataError
from bench.cli.main import main
from bench.results.records.reader import read_experiment
from tests.support.no_files import ends_within, full_folder, pipe
from tests.support.synthetic_results import World, as_schema_1, write_world

SMALL = World(tasks=("alignment",), methods=("sft",), seeds=1, prompts=8, milestone_prompts=4, grid=((3.0,), (5,)))
CELL = "synthetic/alignment/sft/seed0"


@pytest.fixture(scope="module", params=["hashed", "without hashes"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder without damage."""
    folder = write_world(tmp_path_factory.mktemp("whole"), SMALL)
    if request.param != "hashed":
        as_schema_1(folder)
    return folder.parent


def emptied(data: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 1]) + data[61:]


def no_text(data: bytes) -> bytes:
    return data[:-5] + b"\xff" + data[-5:]


def another(data: bytes) -> bytes:
    return b"{}"


def of_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """A PNG whose header says another size than its pixels have."""

    def changed(data: bytes) -> bytes:
        head = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]

    return changed


def deep(data: bytes) -> bytes:
    return b'{"a": ' * 5000


def long_number(data: bytes) -> bytes:
    return b'{"schema": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (f"{CELL}/scores-000625.parquet", emptied, "is damaged: expected a score file"),
        (f"{CELL}/scores-000312.parquet", cut, "is damaged: expected a score file"),
        (f"{CELL}/scores-000625.parquet", flipped, "is damaged: expected a score file"),
        (f"{CELL}/grid.parquet", cut, "is damaged: expected a score file"),
        (f"{CELL}/grid.parquet", flipped, "is damaged: expected a score file"),
        (f"{CELL}/pictures.png", emptied, "is damaged: expected a PNG"),
        (f"{CELL}/pictures.png", cut, "is damaged: expected a PNG"),
        (f"{CELL}/pictures.png", another, "is damaged: expected a PNG"),
        (f"{CELL}/pictures.png", of_size(60_000, 60_000), "in a row, got a picture that is too large to open"),
        (f"{CELL}/pictures.png", of_size(9_000, 9_000), "in a row, got 9000x9000"),
        ("synthetic/experiment.json", deep, "experiment.json: not JSON (lists and mappings stand more than 50 deep"),
        ("synthetic/experiment.json", long_number, "not JSON (a whole number of more than 20 digits"),
        ("pretrain/base.json", deep, "is not JSON (lists and mappings stand more than 50 deep"),
        ("synthetic/experiment.json", no_text, "not UTF-8 text"),
        ("report.json", no_text, "report.json: "),
        ("statistics/coverage.json", another, "is damaged (KeyError: 'coverage'): restore it, or make it again"),
        ("statistics/coverage.json", no_text, "is not JSON"),
        ("pretrain/base.json", no_text, "is not JSON"),
    ],
)
def test_the_report_names_it(
    file: str, damage: Callable[[bytes], bytes], message: str, whole: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    path = results / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damage(path.read_bytes() if path.exists() else b'{"main": null}'))
    in_cell, in_experiment = path.parent.name == "seed0", path.name == "experiment.json"
    assert main(["report", "--results", str(results)]) == (1 if in_cell or in_experiment else 2)
    error = capsys.readouterr().err
    assert error.startswith("not reported: " if in_cell or in_experiment else "bench: ") and error.count("\n") == 1
    assert path.name in error and (message in error or "is not the file that was recorded, its hash differs" in error)
    if in_cell:
        assert "estore it, or remove alignment/sft/seed0 and run the cell again" in error
        assert "base" in (results / "synthetic" / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [pipe, full_folder])
@pytest.mark.parametrize(
    "file", ["experiment.json", *(f"alignment/sft/seed0/{name}" for name in (
        "record.jsonl", "telemetry.jsonl", "scores-000625.parquet", "grid.parquet", "pictures.png"
    ))],
)  # fmt: skip
def test_what_stands_where_a_file_belongs_is_named_and_waited_for_by_nobody(
    file: str, make: Callable[[Path], None], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    make(results / "synthetic" / file)
    for command in ("report", "verify", "status"):
        with ends_within(60):
            status = main([command, "--results", str(results)])
        told = capsys.readouterr()
        is_read = command != "status" or Path(file).suffix in (".json", ".jsonl")
        assert status in ((1, 2) if is_read else (0,)) and "Traceback" not in told.err + told.out
        assert not is_read or Path(file).name in told.err + told.out


def test_a_report_that_cannot_be_written_is_told(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(whole), "--report", "/dev/null/REPORT.md"]) == 2
    assert "cannot write /dev/null/REPORT.md: " in capsys.readouterr().err


def test_no_flipped_byte_of_the_scores_gives_other_scores(whole: Path, tmp_path: Path) -> None:
    """One byte in 37 of the pages; the footer after them describes the file. Some bytes are of no consequence."""
    shutil.copytree(whole / "synthetic", tmp_path / "synthetic")
    path = tmp_path / CELL / "scores-000625.parquet"
    data, expected = path.read_bytes(), read_experiment(tmp_path / "synthetic").samples
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    told, positions = 0, range(4, end, 37)
    for position in positions:
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        try:
            found = read_experiment(tmp_path / "synthetic")
        except DataError:
            found = None
        if found is None or found.refused:
            told += 1
        else:
            pd.testing.assert_frame_equal(found.samples, expected)
    assert told > len(positions) / 2
