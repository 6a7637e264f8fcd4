"""The papers' main table: methods by the scorers that papers report, diversity and drift, with published rows beside.

Columns and published rows are those of `main_table.yaml`. The table stands wherever one of the columns' scorers judged
a task, whatever the model: the published rows are marked as such, and a note says that they are no baselines.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from bench.parsing import read_dataclass
from bench.results.report import tables
from bench.results.report.markdown import escape, markdown_table
from bench.results.statistics.analysis import REPORT, Analysis, ScoreRow
from bench.results.statistics.score_tables import ALIKE

__all__ = [
    "Column",
    "PapersTable",
    "PublishedRow",
    "column_score",
    "column_splits",
    "empty_columns_note",
    "main_table_section",
    "papers_table",
]

_STRICT = ConfigDict(extra="forbid")
_ENDS = (("Diversity", "diversity"), ("Drift", "drift.velocity"))


@dataclass(frozen=True, config=_STRICT)
class Column:
    """A column of the papers' table: the scorer, and the prompt set it is measured on where that is there.

    mean: over all prompts, or over the means of their categories. narrow: the title where it may break, for a terminal.
    """

    title: str
    scorer: str
    home: str
    mean: Literal["of_prompts", "of_categories"] = "of_prompts"
    narrow: str | None = None


@dataclass(frozen=True, config=_STRICT)
class PublishedRow:
    """One published row: its figures by scorer, each with the digits that its source prints."""

    name: str
    source: str
    figures: dict[str, str]

    def figure(self, scorer: str) -> str:
        """The figure under a scorer, or a dash where the source gives none."""
        return self.figures.get(scorer, "–")


@dataclass(frozen=True, config=_STRICT)
class PapersTable:
    """The columns, the published rows with the model they are of, and the sentences that have to stand beside them."""

    columns: tuple[Column, ...]
    model: str
    note: str
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _figures_have_columns(self) -> PapersTable:
        scorers = {column.scorer for column in self.columns}
        for row in self.rows:
            if not scorers.issuperset(row.figures):
                strange = ", ".join(sorted(set(row.figures) - scorers))
                raise ValueError(f"row {row.name!r}: expected figures of the columns' scorers, got {strange}")
        return self


@cache
def papers_table() -> PapersTable:
    """The papers' table; raises ConfigError where its file is damaged."""
    return read_dataclass(PapersTable, Path(__file__).with_name("main_table.yaml"))


def main_table_section(analysis: Analysis, task: str) -> list[str]:
    """The table, its means of categories one by one, and what has to be said of them; nothing where no column has any.

    That is, where none of the columns' scorers judged the task.
    """
    splits = column_splits(analysis, task)
    if not any(splits.values()):
        return []
    label = tables.label_of(analysis)
    parts = [
        f"Beside the papers' table, {escape(task)}{label}:",
        _table(analysis, task, splits),
        _notes(analysis, task, splits),
    ]
    for column in _of_categories():
        if splits[column.scorer]:
            parts += [
                f"{column.title} by category, {escape(task)}{label} (the published rows stand here without):",
                tables.category_table(analysis, task, column.scorer, splits[column.scorer]),
            ]
    return parts


def _of_categories() -> list[Column]:
    return [column for column in papers_table().columns if column.mean == "of_categories"]


def column_splits(analysis: Analysis, task: str) -> dict[str, str]:
    """The split that fills each column: the set of its home, another set, the task's own prompts, or none (empty)."""
    sets, splits = analysis.prompt_sets(task), {}
    for column in papers_table().columns:
        judged = [split for split, one in sets.items() if column.scorer in one.scores]
        at_home = [split for split in judged if sets[split].name == column.home]
        own = [REPORT] if column.scorer in analysis.scorers(task) else []
        splits[column.scorer] = next(iter([*at_home, *judged, *own]), "")
    return splits


def _table(analysis: Analysis, task: str, splits: dict[str, str]) -> str:
    papers, baseline, rows = papers_table(), analysis.baseline(task), []
    for method in analysis.methods(task):
        cells = [tables.method_name(analysis, task, method)]
        for column in papers.columns:
            score = column_score(analysis, task, method, column, splits)
            cells.append(tables.summary_cell(analysis, score, baseline) if score else "–")
        ends = [tables.final_values(analysis, task, method, name) for _, name in _ENDS]
        rows.append(cells + [tables.mean_and_range(values) for values in ends])
    for paper in papers.rows:
        figures = [paper.figure(column.scorer) for column in papers.columns]
        rows.append([f"*{escape(paper.name)}*<br>published, {escape(paper.source)}", *figures, "–", "–"])
    sets = analysis.prompt_sets(task)
    where = {split: escape(one.name) for split, one in sets.items()} | {REPORT: "own prompts", "": "empty"}
    head = [f"{column.title}<br>{where[splits[column.scorer]]}" for column in papers.columns]
    return markdown_table(["Method", *head, *(title for title, _ in _ENDS)], rows)


def column_score(analysis: Analysis, task: str, method: str, column: Column, splits: dict[str, str]) -> ScoreRow | None:
    """A method's mean in a column, taken as the column says, with its differences; None where it has no scores."""
    split, category = splits[column.scorer], ALIKE if column.mean == "of_categories" else None
    return analysis.row(task, method, column.scorer, split, category) if split else None


def empty_columns_note(splits: dict[str, str]) -> str:
    """Which columns are empty and why, in one sentence; nothing where none is."""
    missing = [f"{column.title} ({column.scorer})" for column in papers_table().columns if not splits[column.scorer]]
    if not missing:
        return ""
    return (
        f"Empty, because this run has no such scorer: {', '.join(missing)}. A task's `scorers`, or those of a prompt "
        "set, name what judges."
    )


def _notes(analysis: Analysis, task: str, splits: dict[str, str]) -> str:
    said = [
        tables.summary_note(analysis, task),
        *(f"{column.title} is the mean of its categories' means." for column in _of_categories()),
        "Diversity and drift (of the velocity) are means over seeds (lowest to highest).",
        empty_columns_note(splits),
        papers_table().note,
    ]
    return " ".join(filter(None, said))
