"""The table at the end of a run: plain text, at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results.records.reader import ExperimentResults, read_experiment
from bench.results.records.schema import BASE
from bench.results.report import main_table, tables
from bench.results.report.figure import headline_scorers
from bench.results.report.markdown import format_number, interval_text, one_line, printable
from bench.results.report.side_effects import other_scorers, side_effect_words
from bench.results.report.words import SIGNS, mark_notes, marked, scorer_decimals, sign_of
from bench.results.statistics.analysis import DID_NOT_LEARN, Analysis, Difference, ScoreRow

__all__ = ["terminal_table"]

WIDTH = 80
_SLIGHT = f"{SIGNS['slightly better']} {SIGNS['slightly worse']}"
LEGEND = (
    f"{SIGNS['better']} better, {SIGNS['worse']} worse: the 95 % interval in brackets excludes zero, and the mean",
    f"is beyond the margin ({_SLIGHT}: inside). {SIGNS['tie']} tie: the interval lies inside the margin.",
    f"{SIGNS['undecided']} undecided: anything else. {SIGNS[DID_NOT_LEARN]} did not learn: no verdict.",
)
ONE_SEED = "One seed gives no interval: it decides nothing."


def terminal_table(experiment: ExperimentResults | Path) -> str:
    """Tasks, methods, headline scores minus base and minus baseline, side effects; no line exceeds 80 columns."""
    analysis = Analysis(read_experiment(experiment) if isinstance(experiment, Path) else experiment)
    header = analysis.experiment.header
    label = f" ({header.label})" if header.label else ""
    lines = _wrapped(f"{header.name}{label}: budget {header.budget or 'not stated'}")
    for task in analysis.tasks:
        lines += ["", *_task_lines(analysis, task, label)]
        lines += [*_paper_lines(analysis, task), *_set_lines(analysis, task)]
    if analysis.tasks:
        lines += ["", *LEGEND]
    if any(len(analysis.seeds(task, m)) == 1 for task in analysis.tasks for m in analysis.methods(task) if m != BASE):
        lines += _wrapped(ONE_SEED)
    lines += [line for note in mark_notes(analysis, analysis.tasks) for line in _wrapped(note)]
    lines += _unfinished_lines(analysis)
    if not analysis.tasks:
        lines.append("no cell has finished")
    return "\n".join([*lines, *_telemetry_lines(analysis)])


def _unfinished_lines(analysis: Analysis) -> list[str]:
    """Cells that are not reported, with their reasons."""
    said = [f"refused  {cells}: {one_line(why)}" for cells, why in analysis.experiment.refused_by_reason()]
    for cell in analysis.experiment.results:
        if cell.status != "done":
            reason = f": {one_line(cell.end.reason)}" if cell.end and cell.end.reason else ""
            name = f"{cell.header.task}/{cell.header.method}/seed{cell.header.seed}"
            said.append(f"{cell.status}  {name}{reason}")
    return [line for text in said for line in _wrapped(text)]


def _task_lines(analysis: Analysis, task: str, label: str) -> list[str]:
    """Headline scorers, gold or proxy, each with its table; then the other scorers' changes beyond the margin."""
    title = analysis.task_info(task).title
    lines = _wrapped(f"{task}{': ' + title if title else ''}{label}")
    lines += _wrapped(tables.filter_words(analysis, task), "  ")
    lines += _wrapped(_trained(analysis, task), "  ")
    for scorer in headline_scorers(analysis, task):
        lines += ["", *_scorer_lines(analysis, task, scorer)]
    aside, effects = other_scorers(analysis, task), side_effect_words(analysis, task)
    if effects:
        lines += ["", "Side effects beyond the margin, minus the base:"]
        lines += [line for words in effects for line in _wrapped(words, "  ")]
    elif aside and BASE in analysis.methods(task):
        lines += ["", *_wrapped(f"No side effect is shown beyond the margin under {', '.join(aside)}.")]
    return lines


def _trained(analysis: Analysis, task: str) -> str:
    """`Seeds x updates: sft 5 x 1,683, soar 5 x 720.`; empty where nothing was trained."""
    methods = [method for method in analysis.methods(task) if method != BASE]
    told = [
        f"{marked(analysis, task, method)} {len(analysis.seeds(task, method))} x {analysis.updates(task, method):,}"
        for method in methods
    ]
    return f"Seeds x updates: {', '.join(told)}." if told else ""


def _scorer_lines(analysis: Analysis, task: str, scorer: str) -> list[str]:
    """What every method scores, minus the base and minus the baseline."""
    info, others = analysis.info(scorer), analysis.baselines(task)[::-1]
    kind = "gold" if info.gold else "proxy"
    better = "" if info.higher_is_better else ", less is better"
    rows = [["method", "mean", *(f"minus {other}" for other in others)]]
    for method in analysis.methods(task):
        row = analysis.row(task, method, scorer)
        found = [_difference(analysis, task, row, other) for other in others]
        rows.append([marked(analysis, task, method), _shown(analysis, task, row), *found])
    return [*_wrapped(f"By {scorer} ({kind}{better}):"), *_align(rows)]


def _difference(analysis: Analysis, task: str, row: ScoreRow | None, other: str) -> str:
    """`+0.013 [-0.002, +0.028] ?`."""
    found: Difference | None = row.differences.get(other) if row else None
    if row is None or found is None:
        return "–"
    text = interval_text(found.interval, scorer_decimals(analysis, task, row.scorer), sign=True)
    return f"{text} {sign_of(found)}"


def _shown(analysis: Analysis, task: str, row: ScoreRow | None) -> str:
    return "–" if row is None else format_number(row.mean.mean, scorer_decimals(analysis, task, row.scorer))


def _paper_lines(analysis: Analysis, task: str) -> list[str]:
    """The papers' main table, means alone, with the published rows below ours; nothing where no column is filled."""
    splits, papers = main_table.column_splits(analysis, task), main_table.papers_table()
    if not any(splits.values()):
        return []
    columns = [column for column in papers.columns if splits[column.scorer]]
    rows = [["", *(column.narrow or column.title for column in columns), "diver- sity", "drift"]]
    for method in analysis.methods(task):
        judged = [main_table.column_score(analysis, task, method, column, splits) for column in columns]
        ends = [tables.final_values(analysis, task, method, name) for name in ("diversity", "drift.velocity")]
        means = [f"{sum(values) / len(values):.2g}" if values else "–" for values in ends]
        rows.append([marked(analysis, task, method), *(_shown(analysis, task, row) for row in judged), *means])
    published = [[paper.name, *(paper.figure(column.scorer) for column in columns), "–", "–"] for paper in papers.rows]
    sources = "; ".join(dict.fromkeys(paper.source for paper in papers.rows))
    marks = _wrapped(f"Published ({sources}), of {papers.model}, no baselines of this run:")
    below = _wrapped(main_table.empty_columns_note(splits))
    below += _wrapped("Intervals, and the prompts of each column: in the report.")
    return ["", f"{task}, beside the papers' table", *_align(rows), *marks, *_align([rows[0], *published]), *below]


def _set_lines(analysis: Analysis, task: str) -> list[str]:
    """What each prompt set is, and the means of those of its scorers that the table above has no column for."""
    shown, lines = main_table.column_splits(analysis, task), []
    for split, one in analysis.prompt_sets(task).items():
        lines += _wrapped(f"Prompt set {one.name}: {tables.describe_prompt_set(one)}.")
        scorers = [scorer for scorer in one.scores if shown.get(scorer) != split]
        if scorers:
            rows = [["", *scorers]]
            for method in analysis.methods(task):
                means = [_shown(analysis, task, analysis.row(task, method, scorer, split)) for scorer in scorers]
                rows.append([marked(analysis, task, method), *means])
            lines += _align(rows)
    return ["", *lines] if lines else []


def _telemetry_lines(analysis: Analysis) -> list[str]:
    """What clocks and memory said, means over finished seeds; the report says nothing of it."""
    cells = analysis.experiment.cells
    done = cells[cells["status"] == "done"]
    rows = [
        [f"{task}/{method}", f"{own['seconds'].mean():,.0f}", f"{own['max_rss_mib'].mean():,.0f}"]
        for (task, method), own in done.groupby(["task", "method"], sort=False)
        if own["seconds"].notna().any()
    ]
    return ["", *_align([["telemetry", "training seconds", "peak MiB"], *rows])] if rows else []


def _wrapped(text: str, indent: str = "") -> list[str]:
    hanging = f"{indent}  " if indent else ""
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False
    )


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in 80 columns, the first row its heading; what is too wide takes several lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    head, *body = [[Text(printable(cell)) for cell in row] for row in rows]
    for number, title in enumerate(head):
        table.add_column(title, justify="right" if number else "left", vertical="top", overflow="fold")
    for row in body:
        table.add_row(*row)
    out = StringIO()
    Console(file=out, width=WIDTH, color_system=None, emoji=False, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]
