"""The notebook of the documentation runs from top to bottom, and is committed without what it printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bench.registry import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial" / "smoke.ipynb"


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and [cell for cell in code if cell.outputs or cell.execution_count] == []


@pytest.mark.slow
def test_it_runs_the_smoke_comparison_and_draws_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    run, cells, curves, figure = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert "alignment/flowgrpo/seed0" in run[0].text and "report.html" in run[0].text and "\x1b" not in run[0].text
    for method in ("base", "sft", "soar", "flowgrpo"):
        assert method in cells[-1].data["text/plain"] and method in curves[-1].data["text/plain"]
    assert "done" in cells[-1].data["text/plain"] and "failed" not in cells[-1].data["text/plain"]
    assert len(figure[-1].data["image/png"]) > 5000
    assert [path.name for path in (tmp_path).iterdir() if path.is_dir() and (path / "results" / "smoke").is_dir()]
