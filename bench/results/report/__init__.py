"""Reports, figures and pages from results/ alone, without torch: `write_report`, `check_report`, and of one experiment.

`figures/manifest.json` of an experiment lists the files that a report made there, with their hashes: those alone are
removed once they are not wanted, and only as they were made.
"""

from __future__ import annotations

import difflib
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.canonical import canonical_json, hash_file
from bench.files import disk_errors, write_whole
from bench.paths import inside
from bench.reading import read_json
from bench.results.records.listing import list_results
from bench.results.report.document import GENERATED, Document, render_document, render_experiment, report_of
from bench.results.report.figure import Figure
from bench.results.report.page import page_differences, page_of, remove_page, write_page
from bench.results.report.terminal import terminal_table

__all__ = [
    "check_experiment",
    "check_report",
    "page_of",
    "report_of",
    "require_places",
    "terminal_table",
    "write_experiment",
    "write_report",
]

SHOWN = 8  # lines of the text that `check` tells apart one by one
MANIFEST = "manifest.json"


def write_report(results: Path, report: Path) -> Document:
    """Write `report` of what is shared, and in each results/<experiment> REPORT.md, figures/ and report.html.

    They are the same bytes for the same results and library versions. A figure or page whose data and drawing code are
    unchanged is not made again. Returns what was written, and what was left out because it is not what was recorded.
    Raises DataError where there are no results, where what all reports need is damaged, where one cannot be written,
    and where a link, or a text that is no report, stands in the place of one.
    """
    require_place(report)
    document = render_document(results, report)
    _write(document)
    folders = [analysis.experiment.folder for analysis in document.reported]
    for folder in set(list_results(results)).difference(folders):
        with disk_errors(folder):
            remove_page(folder)
    return document


def write_experiment(folder: Path) -> Document:
    """Write REPORT.md, figures/ and report.html of one experiment alone; raises and returns as `write_report` does."""
    document = render_experiment(folder)
    _write(document)
    if not document.reported:
        remove_page(folder)
    return document


def require_places(folder: Path) -> None:
    """Raise DataError where what a report of this experiment would write is no report's, or a link."""
    require_place(report_of(folder))
    require_place(page_of(folder))


def _write(document: Document) -> None:
    for place, _ in document.texts:
        require_place(place)
    for analysis in document.reported:
        require_place(page_of(analysis.experiment.folder))
    for folder, figures in _by_folder(document).items():
        with disk_errors(folder):
            _write_figures(folder, figures)
    for analysis in document.reported:
        with disk_errors(analysis.experiment.folder):
            write_page(analysis)
    for place, text in document.texts:
        write_whole(place, text.encode())


def require_place(report: Path) -> None:
    """Raise DataError where something stands at `report` that is not a report, or a link: it would be lost."""
    place = inside(report.parent, report.name)
    if not place.exists():
        return
    if not place.is_file():
        raise DataError(
            f"{report}: expected a file, but it is something else: move it, or give another one by --report"
        )
    with place.open("rb") as file:
        begin = file.read(len(GENERATED))
    if begin and not begin.startswith(GENERATED.split("`", 1)[0].encode()):
        raise DataError(
            f"{report} was not written by `bench report`, which would replace it: move it away, or give another file "
            "by --report"
        )


def check_report(results: Path, report: Path) -> list[str]:
    """What differs between the stored reports and the results, one message each; empty where they agree.

    Results that are not what was recorded count as differences. The text and the plotted data are compared; pixels are
    not, for they depend on library versions. Pages need not be there: they can be made again. Raises DataError
    as `write_report` does.
    """
    require_place(report)
    return _differences(render_document(results, report))


def check_experiment(folder: Path) -> list[str]:
    """As `check_report`, of one experiment alone."""
    return _differences(render_experiment(folder))


def _differences(document: Document) -> list[str]:
    found = list(document.refused)
    for folder, figures in _by_folder(document).items():
        for figure in figures:
            found += _figure_differences(folder, figure)
        stale = sorted(_listed(folder).keys() - {path.name for figure in figures for path in _places(folder, figure)})
        found += [
            f"{folder / name} belongs to no figure of these results: run `python -m bench report`" for name in stale
        ]
    for analysis in document.reported:
        found += page_differences(analysis)
    texts = [difference for place, text in document.texts for difference in _text_differences(place, text)]
    return texts + found


def _by_folder(document: Document) -> dict[Path, list[Figure]]:
    """The figures of each folder."""
    found: dict[Path, list[Figure]] = {}
    for folder, figure in document.figures:
        found.setdefault(folder, []).append(figure)
    return found


def _write_figures(folder: Path, figures: list[Figure]) -> None:
    """Write the figures of one folder, remove those that a report made before, and list what is there of them."""
    made = [path for figure in figures for path in _write_figure(folder, figure)]
    hashes = {path.name: hash_file(path) for path in made}
    for name, digest in _listed(folder).items():
        path = inside(folder, name)
        if name not in hashes and path.is_file() and hash_file(path) == digest:
            path.unlink()
    write_whole(folder / MANIFEST, (canonical_json({"schema": 1, "files": hashes}, indent=1) + "\n").encode())


def _listed(folder: Path) -> dict[str, str]:
    """The files that a report made in a folder, with their hashes; none where that is not known."""
    files = _stored(inside(folder.parent, f"{folder.name}/{MANIFEST}")).get("files")
    return files if isinstance(files, dict) else {}


def _write_figure(folder: Path, figure: Figure) -> tuple[Path, Path]:
    """Draw a figure where it is not there yet; returns picture and data."""
    picture, stored = _places(folder, figure)
    held = _stored(stored)
    if picture.is_file() and held.get("data") == figure.data and held.get("drawn") == _drawn(picture.read_bytes()):
        return picture, stored
    png = figure.draw("png")
    write_whole(picture, png)
    facts = {"schema": 1, "data": figure.data, "data_hash": figure.data_hash, "drawn": _drawn(png)}
    write_whole(stored, (canonical_json(facts, indent=1) + "\n").encode())
    return picture, stored


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
    require_place(report)
    if not report.is_file():
        return [f"{report} is missing: run `python -m bench report`"]
    held = report.read_text(encoding="utf-8")
    if held == expected:
        return []
    lines = [line for line in difflib.unified_diff(held.splitlines(), expected.splitlines(), n=0, lineterm="") if line]
    changes = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    shown = [f"{report}: {'results say' if line[0] == '+' else 'text says'} {line[1:]!r}" for line in changes[:SHOWN]]
    more = len(changes) - len(shown)
    return shown + ([f"{report}: {more} more lines differ"] if more else []) or [f"{report}: line endings differ"]
