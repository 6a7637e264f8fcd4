"""The embedded world in the report: sheets of pictures, and how far each proxy agrees with gold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.paths import inside
from bench.reading import read_json
from bench.results.report.markdown import escape, link_target, markdown_table

__all__ = ["agreement_section", "base_section", "coverage_section", "sheets_section", "world_report"]

BAND = (0.35, 0.70)  # of the base's strict gold accuracy: room to improve, and something to build on


def world_report(results: Path, place: Path) -> list[str]:
    """The sections of the world's own report, for a text that stands at `place`."""
    return [
        "# The embedded world",
        "## How far the learned scorers agree with gold",
        agreement_section(results),
        "## The base",
        base_section(results),
        "## Its pictures",
        sheets_section(results, place),
    ]


def sheets_section(results: Path, report: Path) -> str:
    """Pictures of the world (results/pretrain/*.png), or a sentence that says there are none."""
    sheets = sorted((results / "pretrain").glob("*.png"))
    if not sheets:
        return "No sheets of the world's pictures lie in results/pretrain."
    parts = []
    for sheet in (inside(results, f"pretrain/{sheet.name}") for sheet in sheets):
        title = escape(sheet.stem.replace("-", " ").replace("_", " "))
        digest = blake2b(sheet.read_bytes(), digest_size=8).hexdigest()
        parts.append(f"![{title}]({link_target(sheet, report)})\n\n*{title}* ({digest})")
    return "\n\n".join(parts)


def agreement_section(results: Path) -> str:
    """Each learned scorer against the gold one it stands for, or a sentence that says it was not measured."""
    absent = (
        "results/pretrain/agreement.json is absent: how far the proxy scorers agree with gold has not been measured "
        "for these results."
    )
    note = (
        "Area under the curve of each learned scorer as a judge of what gold says (0.5 is chance, 1 is perfect), by "
        "category; for the aesthetic head Spearman's correlation. gold: share of pictures that the exact scorer calls "
        "right."
    )
    return _measured(inside(results, "pretrain/agreement.json"), note, absent)


def base_section(results: Path) -> str:
    """How good the base model is before post-training, or a sentence that says it was not measured."""
    absent = "results/pretrain/base.json is absent: the base model has not been measured for these results."
    note = (
        "The base before post-training: strict gold accuracy by category and guidance scale, and what it was made of."
    )
    path = inside(results, "pretrain/base.json")
    return "\n\n".join(part for part in (_band_warning(path), _measured(path, note, absent)) if part)


def _band_warning(path: Path) -> str:
    """What to think of a base that is weaker or stronger than the world was made for."""
    if not path.is_file():
        return ""
    accuracy = _read(path).get("accuracy_by_guidance", {})
    with _of_its_shape(path):
        best = max((float(row["overall"]) for row in accuracy.values()), default=None)
    if best is None or BAND[0] <= best <= BAND[1]:
        return ""
    return (
        f"**The base is outside the band that this world is made for**: strict accuracy {best:.1%} at its best "
        f"guidance, wanted {BAND[0]:.0%} to {BAND[1]:.0%}. "
        + ("Supervised post-training of so young a base is partly just more pre-training." if best < BAND[0] else "")
    ).strip()


def _measured(path: Path, note: str, absent: str) -> str:
    """Any JSON object: its plain values in one line, each mapping of mappings as a table."""
    if not path.is_file():
        return absent
    found = _read(path)
    nested = {key: value for key, value in found.items() if isinstance(value, dict) and value}
    plain = [f"{_title(key)} {_show(value)}" for key, value in found.items() if key not in nested and key != "schema"]
    lines = [note, ", ".join(plain) + "." if plain else ""]
    for key, value in nested.items():
        table_of = value if all(isinstance(item, dict) for item in value.values()) else {key: value}
        lines.append(f"{_title(key)}:\n\n{_table(table_of)}")
    return "\n\n".join(line for line in lines if line)


def coverage_section(results: Path) -> str:
    """How often the intervals hold the truth, as `python -m bench.results.statistics.coverage` simulated it."""
    path = inside(results, "statistics/coverage.json")
    if not path.is_file():
        return "results/statistics/coverage.json is absent: run `python -m bench.results.statistics.coverage`."
    found = _read(path)
    with _of_its_shape(path):
        names = list(found["coverage"])
        counts = sorted({int(count) for name in names for count in found["coverage"][name]})
        rows = [
            [escape(name), *(f"{100 * found['coverage'][name][str(count)]:.1f} %" for count in counts)]
            for name in names
        ]
        head = [f"Coverage of the {100 * found['level']:g} % interval", *(f"{count} seeds" for count in counts)]
        note = (
            f"{found['repeats']} simulated experiments each, {found['prompts']} prompts "
            "(`python -m bench.results.statistics.coverage`)."
        )
    return f"{markdown_table(head, rows)}\n\n{note}"


@contextmanager
def _of_its_shape(path: Path) -> Iterator[None]:
    """Turns what a file lacks into one message."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): restore it, or make it again") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): make it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object, got a {type(found).__name__}")
    return found


def _table(value: dict[str, dict[str, Any]]) -> str:
    """Rows by name, columns by the keys of any row; mappings inside a row become columns of their own."""
    rows = {name: dict(_flatten(item)) for name, item in value.items()}
    rows = {name: row for name, row in rows.items() if any(cell is not None for cell in row.values())}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [[_title(name), *(_show(row.get(column)) for column in columns)] for name, row in rows.items()]
    return markdown_table(["", *map(_title, columns)], cells)


def _flatten(item: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in item.items():
        name = f"{prefix} {key}".strip()
        found += _flatten(value, name) if isinstance(value, dict) else [(name, value)]
    return found


def _title(name: str) -> str:
    return escape(name.replace("_", " "))


def _show(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
