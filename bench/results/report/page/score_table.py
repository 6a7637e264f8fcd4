"""The table of the page: one row a task, method and scorer, as texts and as numbers to sort by."""

from __future__ import annotations

from typing import Any

from bench.results.records.schema import BASE
from bench.results.report.figure import headline_scorers
from bench.results.report.markdown import interval_text
from bench.results.report.words import marked, scorer_decimals, sign_of
from bench.results.statistics.analysis import Analysis, Difference

__all__ = ["table_rows"]


def table_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Rows in the order of the report; `base` and `baseline` are None where there is no such difference."""
    rows = []
    for task in analysis.tasks:
        headline = headline_scorers(analysis, task)
        for row in sorted(analysis.rows(task), key=lambda row: row.scorer not in headline):
            decimals = scorer_decimals(analysis, task, row.scorer)
            baseline = analysis.baseline(task)
            shown = {
                "base": _difference(row.differences.get(BASE), decimals),
                "baseline": _difference(row.differences.get(baseline) if baseline != BASE else None, decimals),
            }
            rows.append(
                {
                    "task": task,
                    "method": marked(analysis, task, row.method),
                    "scorer": row.scorer,
                    "kind": "gold" if analysis.info(row.scorer).gold else "proxy",
                    "is_used": row.scorer in analysis.task_info(task).used,
                    "is_headline": row.scorer in headline,
                    "mean": row.mean.mean,
                    "text": interval_text(row.mean, decimals),
                    **shown,
                }
            )
    return rows


def _difference(found: Difference | None, decimals: int) -> dict[str, Any] | None:
    if found is None:
        return None
    text = interval_text(found.interval, decimals, sign=True)
    kind = found.word.removeprefix("slightly ").split(" ")[0]
    said = {"kind": kind, "sign": sign_of(found), "verdict": found.word}
    return {"mean": found.interval.mean, "text": text, **said}
