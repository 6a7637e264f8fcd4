"""Score files: many tables become one frame, and what is none of them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.api import DataError
from bench.results.records import score_files
from bench.results.records.score_files import ScoreRows, read_scores


def write(path: Path, **columns: object) -> Path:
    rows: dict[str, object] = {
        "prompt_index": np.array([1, 0], np.int32), "category": ["text", "colors"], "split": ["report", "held_out"],
        "guidance": np.float32(3), "steps": np.int32(8), "update": np.int32(5),
    }  # fmt: skip
    pd.DataFrame(rows | columns).to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_tables_stand_below_one_another_whatever_the_block(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_files, "_BLOCK", block)
    rows = ScoreRows()
    first = write(tmp_path / "a.parquet", clip=np.array([0.25, np.nan], np.float32))
    second = write(tmp_path / "b.parquet", category=["shape", "text"], ocr=np.array([1, 0], np.float32))
    rows.add("t2", "soar", 3, read_scores(first, None))
    rows.add("t1", "sft", 0, read_scores(second, None))
    frame = rows.frame()
    assert frame["task"].tolist() == ["t2", "t2", "t1", "t1"] and frame["seed"].tolist() == [3, 3, 0, 0]
    assert frame["method"].tolist() == ["soar", "soar", "sft", "sft"]
    assert frame["category"].tolist() == ["text", "colors", "shape", "text"]
    assert frame["category"].cat.categories.tolist() == ["colors", "shape", "text"]
    assert frame["prompt_index"].tolist() == [1, 0, 1, 0] and frame["prompt_index"].dtype == np.int32
    np.testing.assert_array_equal(frame["clip"], np.array([0.25, np.nan, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(frame["ocr"], np.array([np.nan, np.nan, 1, 0], np.float32))
    assert frame["cluster"].tolist() == [1, 0, 1, 0]  # files of before, in which each prompt is its own
    assert list(frame)[:3] == score_files.KEYS and ScoreRows().frame().empty


def test_clusters_are_read_as_they_are_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", cluster=np.array([0, 0], np.int32), clip=np.float32(1))
    assert read_scores(path, None).column("cluster").to_pylist() == [0, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"clip": ["high", "low"]}, "clip is string, expected float32"),
        ({"clip": np.array([1, 2])}, "clip is int64, expected float32"),
        ({"cluster": np.array([0, 1])}, "cluster is int64, expected int32"),
        ({"steps": 8.0}, "steps is double, expected int32"),
        ({"category": 1}, "category is int64, expected str"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scores\.parquet: .*it is not a score file of schema 1") as told:
        read_scores(write(tmp_path / "scores.parquet", **columns), None)
    assert message in str(told.value).replace("large_string", "string")
