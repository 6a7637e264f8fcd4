"""The paper's main table: methods by GenEval, OCR, preference, diversity and drift, with published rows beside ours.

It stands wherever one of its seven scorers judged a task, whatever the model: the published rows are marked as such,
and a note says that they are of SD3.5-Medium and no baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.report import tables
from bench.results.report.markdown import escape, markdown_table
from bench.results.report.published import published
from bench.results.statistics.analysis import ALIKE, REPORT, Analysis, ScoreRow

__all__ = ["COLUMNS", "Column", "empty_columns_note", "main_table_section", "places", "row"]


@dataclass(frozen=True)
class Column:
    """A column of the papers' table: the scorer, and the prompt set it is measured on where that is there."""

    title: str
    scorer: str
    home: str


# Prompts as Flow-GRPO, arXiv 2505.05470, has them; the columns are SOAR's, arXiv 2604.12617.
COLUMNS = (
    Column("GenEval", "geneval", "geneval"),
    Column("OCR", "ocr", "ocr"),
    Column("PickScore", "pickscore", "drawbench"),
    Column("ClipScore", "clipscore", "drawbench"),
    Column("HPSv2.1", "hpsv2", "drawbench"),
    Column("Aesthetic", "aesthetic", "drawbench"),
    Column("ImageReward", "imagereward", "drawbench"),
)
_ENDS = (("Diversity", "diversity"), ("Drift", "drift.velocity"))


def main_table_section(analysis: Analysis, task: str) -> list[str]:
    """The table, GenEval by category, and what has to be said of them; nothing where none of the scorers judged."""
    found = places(analysis, task)
    if not any(found.values()):
        return []
    label = tables.label_of(analysis)
    parts = [
        f"Beside the papers' table, {escape(task)}{label}:",
        _table(analysis, task, found),
        _notes(analysis, task, found),
    ]
    split = found["geneval"]
    if split:
        parts += [
            f"GenEval by category, {escape(task)}{label} (the published rows stand here without):",
            tables.category_table(analysis, task, "geneval", split),
        ]
    return parts


def places(analysis: Analysis, task: str) -> dict[str, str]:
    """The split that fills each column: the set of its home, another set, the task's own prompts, or none (empty)."""
    sets, found = analysis.prompt_sets(task), {}
    for column in COLUMNS:
        judged = [split for split, one in sets.items() if column.scorer in one.scores]
        at_home = [split for split in judged if sets[split].name == column.home]
        own = [REPORT] if column.scorer in analysis.scorers(task) else []
        found[column.scorer] = next(iter([*at_home, *judged, *own]), "")
    return found


def _table(analysis: Analysis, task: str, found: dict[str, str]) -> str:
    baseline, rows = analysis.baseline(task), []
    for method in analysis.methods(task):
        cells = [tables.method_name(analysis, task, method)]
        for column in COLUMNS:
            one = row(analysis, task, method, column.scorer, found)
            cells.append(tables.summary_cell(analysis, one, baseline) if one else "–")
        rows.append(cells + [tables.spread(tables.at_the_end(analysis, task, method, name)) for _, name in _ENDS])
    for paper in published().rows:
        figures = [paper.figure(column.scorer) for column in COLUMNS]
        rows.append([f"*{escape(paper.name)}*<br>published, {escape(paper.source)}", *figures, "–", "–"])
    sets = analysis.prompt_sets(task)
    where = {split: escape(one.name) for split, one in sets.items()} | {REPORT: "own prompts", "": "empty"}
    head = [f"{column.title}<br>{where[found[column.scorer]]}" for column in COLUMNS]
    return markdown_table(["Method", *head, *(title for title, _ in _ENDS)], rows)


def row(analysis: Analysis, task: str, method: str, scorer: str, found: dict[str, str]) -> ScoreRow | None:
    """A mean with its differences; GenEval's own is the mean over its categories' means, arXiv 2310.11513."""
    split = found[scorer]
    return analysis.row(task, method, scorer, split, ALIKE if scorer == "geneval" else None) if split else None


def empty_columns_note(found: dict[str, str]) -> str:
    """Which columns are empty and why, in one sentence; nothing where none is."""
    missing = [f"{column.title} ({column.scorer})" for column in COLUMNS if not found[column.scorer]]
    if not missing:
        return ""
    return (
        f"Empty, because this run has no such scorer: {', '.join(missing)}. A task's `scorers`, or those of a prompt "
        "set, name what judges."
    )


def _notes(analysis: Analysis, task: str, found: dict[str, str]) -> str:
    drift = "Diversity and drift (of the velocity) are means over seeds (lowest to highest)."
    said = [
        tables.summary_note(analysis, task),
        "GenEval is the mean of its categories' means.",
        drift,
        empty_columns_note(found),
    ]
    return " ".join(filter(None, [*said, published().note]))
