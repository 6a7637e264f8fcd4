"""REPORT.md and its figures from results/ alone, without torch: `build` writes them, `check` compares them."""

from __future__ import annotations

import difflib
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.canonical import canonical_json
from bench.files import disk_errors
from bench.paths import inside
from bench.reading import read_json
from bench.results.report.document import render_document
from bench.results.report.figures import Figure
from bench.results.report.terminal import terminal_table

__all__ = ["check_report", "terminal_table", "write_report"]

SHOWN = 8  # lines of the text that `check` tells apart one by one


def write_report(results: Path, report: Path) -> None:
    """Write `report` and results/<experiment>/figures: the same bytes for the same results and library versions.

    A figure whose data, picture and drawing code are unchanged is not drawn again. Raises DataError for damaged
    results, where there are none, and where report or figures cannot be written.
    """
    document = render_document(results, report)
    wanted: dict[Path, set[str]] = {}
    for folder, figure in document.figures:
        wanted.setdefault(folder, set()).update({f"{figure.name}.png", f"{figure.name}.json"})
        with disk_errors(folder):
            _write_figure(folder, figure)
    for folder, names in wanted.items():
        for path in folder.iterdir():
            if path.suffix in (".png", ".json") and path.name not in names:
                path.unlink()
    with disk_errors(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(document.text, encoding="utf-8")


def check_report(results: Path, report: Path) -> list[str]:
    """What differs between the stored report and the results, one message each; empty where they agree.

    The text and the plotted data are compared; pixels are not, for they depend on library versions.
    """
    document = render_document(results, report)
    found = []
    for folder, figure in document.figures:
        found += _figure_differences(folder, figure)
    if not report.is_file():
        return [f"{report} is missing: run `python -m bench report`", *found]
    return _text_differences(report, document.text) + found


def _write_figure(folder: Path, figure: Figure) -> None:
    picture, stored = _places(folder, figure)
    folder.mkdir(parents=True, exist_ok=True)
    held = _stored(stored)
    if picture.is_file() and held.get("data") == figure.data and held.get("drawn") == _drawn(picture.read_bytes()):
        return
    png = figure.draw()
    picture.write_bytes(png)
    facts = {"schema": 1, "data": figure.data, "data_hash": figure.data_hash, "drawn": _drawn(png)}
    stored.write_text(canonical_json(facts, indent=1) + "\n", encoding="utf-8")


def _places(folder: Path, figure: Figure) -> tuple[Path, Path]:
    """Picture and data of a figure, which are to be written: in the experiment's own folder, whatever it holds."""
    name = f"{folder.name}/{figure.name}"
    return inside(folder.parent, f"{name}.png"), inside(folder.parent, f"{name}.json")


def _drawn(png: bytes) -> dict[str, str]:
    """What the pixels depend on besides the data, and their hash."""
    sources = blake2b(digest_size=8)
    for path in sorted((Path(__file__).parent.parent / "figures").glob("*.py")):
        sources.update(path.read_bytes())
    picture = blake2b(png, digest_size=8).hexdigest()
    return {"matplotlib": version("matplotlib"), "plots": sources.hexdigest(), "png": picture}


def _stored(path: Path) -> dict[str, Any]:
    """A figure's facts, empty where there are none that can be read: then it is drawn again, or differs."""
    try:
        held = read_json(path)
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _figure_differences(folder: Path, figure: Figure) -> list[str]:
    picture, stored = _places(folder, figure)
    missing = [f"{path} is missing" for path in (picture, stored) if not path.is_file()]
    if missing:
        return missing
    held = _stored(stored)
    if canonical_json(held.get("data")) != canonical_json(figure.data):
        return [f"{stored}: the plotted data differ from the results"]
    if held.get("drawn", {}).get("png") != blake2b(picture.read_bytes(), digest_size=8).hexdigest():
        return [f"{picture} is not the picture that was drawn from its data"]
    return []


def _text_differences(report: Path, expected: str) -> list[str]:
    held = report.read_text(encoding="utf-8")
    if held == expected:
        return []
    lines = [line for line in difflib.unified_diff(held.splitlines(), expected.splitlines(), n=0, lineterm="") if line]
    changes = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    shown = [f"{report}: {'results say' if line[0] == '+' else 'text says'} {line[1:]!r}" for line in changes[:SHOWN]]
    more = len(changes) - len(shown)
    return shown + ([f"{report}: {more} more lines differ"] if more else []) or [f"{report}: line endings differ"]
