"""The table at the end of a run: plain text, at most 100 columns."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bench.results.records.reader import ExperimentResults, read_experiment
from bench.results.records.schema import BASE
from bench.results.report import main_table, tables
from bench.results.report.figures import headline_scorers
from bench.results.report.markdown import format_number, one_line, printable, score_decimals, signed
from bench.results.report.tables import FEW
from bench.results.statistics.analysis import Analysis, ScoreRow

__all__ = ["terminal_table"]

WIDTH = 100


def terminal_table(experiment: ExperimentResults | Path) -> str:
    """Tasks, methods, headline scores, difference to the baseline with its verdict; no line exceeds 100 columns."""
    analysis = Analysis(read_experiment(experiment) if isinstance(experiment, Path) else experiment)
    header = analysis.experiment.header
    label = f" ({header.label})" if header.label else ""
    lines = [f"{header.name}{label}: budget {header.budget or 'not stated'}"]
    few = False
    for task in analysis.tasks:
        lines += ["", *_task_lines(analysis, task, label)]
        lines += [*_paper_lines(analysis, task), *_set_lines(analysis, task)]
        few |= any(analysis.few_updates(task, method) for method in analysis.methods(task))
    if few:
        lines += ["", FEW]
    lines += [f"refused  {cells}: {one_line(why)}" for cells, why in analysis.experiment.refused_by_reason()]
    unfinished = [cell for cell in analysis.experiment.results if cell.status != "done"]
    for cell in unfinished:
        reason = f": {one_line(cell.end.reason)}" if cell.end and cell.end.reason else ""
        name = f"{cell.header.task}/{cell.header.method}/seed{cell.header.seed}"
        lines.append(f"{cell.status}  {name}{reason}")
    if not analysis.tasks:
        lines.append("no cell has finished")
    lines += _telemetry_lines(analysis)
    lines = [printable(line) for line in lines]
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines)


def _task_lines(analysis: Analysis, task: str, label: str) -> list[str]:
    scorers, baseline = headline_scorers(analysis, task), analysis.baseline(task)
    gold = scorers[0]
    decimals = score_decimals(analysis.info(gold), analysis.margin(task, gold))
    head = ["method", "seeds", "updates", *scorers, f"{gold} minus {baseline}", "verdict"]
    rows = []
    for method in analysis.methods(task):
        seeds = "–" if method == BASE else str(len(analysis.seeds(task, method)))
        cells = [_marked(analysis, task, method), seeds, str(analysis.updates(task, method))]
        cells += [_mean(analysis, task, method, scorer) for scorer in scorers]
        row = analysis.row(task, method, gold)
        found = row.differences.get(baseline) if row else None
        if found is None:
            rows.append([*cells, "–", "–"])
            continue
        interval = found.interval
        text = signed(interval.mean, decimals)
        if interval.low == interval.low:
            text += f" [{signed(interval.low, decimals)}, {signed(interval.high, decimals)}]"
        rows.append([*cells, text, found.verdict])
    info = analysis.task_info(task)
    title = f": {info.title}" if info.title else ""
    notes = [f"  data of supervised methods chosen by {info.filter}"] if info.filter else []
    notes += [f"  reward of RL methods {info.reward}"] if info.reward else []
    return [f"{task}{title}{label}", *notes, *_align([head, *rows])]


def _marked(analysis: Analysis, task: str, method: str) -> str:
    return method + (" †" if analysis.few_updates(task, method) else "")


def _mean(analysis: Analysis, task: str, method: str, scorer: str) -> str:
    return _shown(analysis, task, analysis.row(task, method, scorer))


def _shown(analysis: Analysis, task: str, row: ScoreRow | None) -> str:
    if row is None:
        return "–"
    return format_number(row.mean.mean, score_decimals(analysis.info(row.scorer), analysis.margin(task, row.scorer)))


def _paper_lines(analysis: Analysis, task: str) -> list[str]:
    """The papers' main table, means alone, with the published rows below ours; nothing where no column is filled."""
    splits, papers = main_table.column_splits(analysis, task), main_table.papers_table()
    if not any(splits.values()):
        return []
    rows = [["", *(column.narrow or column.title for column in papers.columns), "diver- sity", "drift"]]
    for method in analysis.methods(task):
        judged = [main_table.column_score(analysis, task, method, column, splits) for column in papers.columns]
        ends = [tables.final_values(analysis, task, method, name) for name in ("diversity", "drift.velocity")]
        means = [f"{sum(values) / len(values):.2g}" if values else "–" for values in ends]
        rows.append([_marked(analysis, task, method), *(_shown(analysis, task, row) for row in judged), *means])
    for paper in papers.rows:
        rows.append([paper.name, *(paper.figure(column.scorer) for column in papers.columns), "–", "–"])
    lines, count = _align(rows), len(papers.rows)
    sources = "; ".join(dict.fromkeys(paper.source for paper in papers.rows))
    marked = _wrapped(f"Published ({sources}), of {papers.model}, no baselines of this run:")
    below = _wrapped(main_table.empty_columns_note(splits)) + _wrapped(
        "Intervals, and the prompts of each column: in the report."
    )
    return ["", f"{task}, beside the papers' table", *lines[:-count], *marked, *lines[-count:], *below]


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
                rows.append([_marked(analysis, task, method), *means])
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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _align(rows: list[list[str]]) -> list[str]:
    """Columns of equal width; headings break into two lines where they would be too wide."""
    head, body = rows[0], rows[1:]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    words = [_wrap(title, max(width, 9)) for title, width in zip(head, widths, strict=True)]
    widths = [max(width, *map(len, lines)) for width, lines in zip(widths, words, strict=True)]
    height = max(map(len, words))
    padded = [[""] * (height - len(lines)) + lines for lines in words]
    titles = [[lines[number] for lines in padded] for number in range(height)]
    rule = ["-" * width for width in widths]
    return [_line(row, widths) for row in [*titles, rule, *body]]


def _line(row: list[str], widths: list[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1])]
    cells += [text.rjust(width) for text, width in rest[:-1]] + [rest[-1][0]]
    return "  ".join(cells).rstrip()


def _wrap(title: str, width: int) -> list[str]:
    """Break at spaces, and after hyphens where a word alone is too long."""
    lines = [""]
    for word in title.replace("-", "- ").split():
        glue = "" if not lines[-1] or lines[-1].endswith("-") else " "
        if lines[-1] and len(lines[-1] + glue + word) > width:
            lines.append(word)
        else:
            lines[-1] += glue + word
    return lines
