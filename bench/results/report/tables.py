"""The numbers of one experiment as markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.results.records.schema import BASE, HELD_OUT, PromptSetScores
from bench.results.report.figure import scorer_kind
from bench.results.report.gains import proxy_gains
from bench.results.report.markdown import (
    anchor,
    code,
    escape,
    format_number,
    interval_text,
    link_target,
    markdown_table,
)
from bench.results.report.words import mark_notes, marked, scorer_decimals, verdict_words
from bench.results.statistics.analysis import REPORT, Analysis, Difference, ScoreRow

__all__ = [
    "category_table",
    "describe_prompt_set",
    "detail_table",
    "drift_table",
    "filter_note",
    "filter_words",
    "final_values",
    "gains_table",
    "grid_table",
    "label_of",
    "mean_and_range",
    "method_name",
    "prompt_sets_section",
    "section_link",
    "summary_cell",
    "summary_note",
    "summary_table",
    "task_heading",
]


def label_of(analysis: Analysis) -> str:
    """` (demonstration)`, for the title of every table, or nothing."""
    label = analysis.experiment.header.label
    return f" ({escape(label)})" if label else ""


def task_heading(analysis: Analysis, task: str) -> str:
    """The heading of a task's results, as plain text."""
    title, label = analysis.task_info(task).title, analysis.experiment.header.label
    return f"{task}{f': {title}' if title else ''}{f' ({label})' if label else ''}"


def section_link(analysis: Analysis, task: str, place: Path) -> str:
    """A link to a task's results in the report of its experiment, from a text that stands at `place`."""
    report = analysis.experiment.folder / "REPORT.md"
    target = "" if report == place else link_target(report, place)
    name = f"{analysis.experiment.header.name}, {task}"
    return f"[{escape(name)}]({target}{anchor(task_heading(analysis, task))})"


def method_name(analysis: Analysis, task: str, method: str) -> str:
    """`marked` as markdown."""
    return escape(marked(analysis, task, method))


def filter_note(analysis: Analysis, task: str) -> str:
    """`filter_words` as markdown."""
    return escape(filter_words(analysis, task))


def filter_words(analysis: Analysis, task: str) -> str:
    """Which scorers the methods that ran saw in training, as a filter of data or as a reward; empty where none ran."""
    info, said = analysis.task_info(task), []
    uses_data, uses_reward = (_spent_any(analysis, task, entry) for entry in ("samples", "reward_calls"))
    if uses_data and info.filter:
        said.append(
            f"Supervised methods use {info.filter} as a data filter: they train on the pictures it ranks highest."
        )
    elif uses_data:
        said.append("No scorer chose the training data of the supervised methods.")
    if uses_reward and info.reward:
        said.append(f"RL methods use {info.reward} as their reward.")
        said += ["None of them is free of a reward model."] if uses_data and info.filter else []
    return " ".join(said)


def _spent_any(analysis: Analysis, task: str, entry: str) -> bool:
    """Whether a finished cell of a task has any of an entry of the ledger."""
    cells = analysis.experiment.cells
    return bool((cells.loc[(cells["task"] == task) & (cells["status"] == "done"), entry] > 0).any())


def summary_table(analysis: Analysis, task: str, split: str = REPORT, judges: Sequence[str] = ()) -> str:
    """Methods by scorers, the task's or `judges`: mean, half the 95 % interval, verdict against the baseline."""
    baseline, scorers = analysis.baseline(task), judges or analysis.scorers(task)
    head = ["Method", "Seeds", "Updates"]
    head += [f"{escape(scorer)}<br>{scorer_kind(analysis, task, scorer)}" for scorer in scorers]
    rows = []
    for method in analysis.methods(task):
        seeds = "–" if method == BASE else str(len(analysis.seeds(task, method)))
        cells = [method_name(analysis, task, method), seeds, str(analysis.updates(task, method))]
        for scorer in scorers:
            row = analysis.row(task, method, scorer, split)
            cells.append(summary_cell(analysis, row, baseline) if row else "–")
        rows.append(cells)
    return f"{markdown_table(head, rows)}\n\n{summary_note(analysis, task)}"


def summary_note(analysis: Analysis, task: str) -> str:
    """How the cells of a summary are read."""
    baseline = escape(analysis.baseline(task))
    note = f"± is half of the 95 % interval of the mean over seeds and prompts; words compare with {baseline}."
    return " ".join([note, *mark_notes(analysis, [task])])


def summary_cell(analysis: Analysis, row: ScoreRow, baseline: str) -> str:
    """`0.489 ± 0.012<br>better`: a mean with half of its interval, and the verdict against the baseline."""
    decimals = scorer_decimals(analysis, row.task, row.scorer)
    text = format_number(row.mean.mean, decimals)
    if row.mean.high == row.mean.high:  # an interval is there
        text += f" ± {format_number((row.mean.high - row.mean.low) / 2, decimals)}"
    return text + (f"<br>{row.differences[baseline].word}" if baseline in row.differences else "")


def detail_table(analysis: Analysis, task: str, split: str = REPORT, scorers: Sequence[str] = ()) -> str:
    """Every scorer (or `scorers`) and method: differences to base and baseline with verdicts, and the mean."""
    head, others = ["Scorer", "Method"], analysis.baselines(task)[::-1]
    for other in others:
        head += [f"Minus {escape(other)} [95 %]", "Verdict"]
    rows = []
    for row in analysis.rows(task, split):
        if scorers and row.scorer not in scorers:
            continue
        decimals = scorer_decimals(analysis, task, row.scorer)
        name = f"{escape(row.scorer)} ({scorer_kind(analysis, task, row.scorer)})"
        cells = [name, method_name(analysis, task, row.method)]
        for other in others:
            cells += _difference_cells(row.differences.get(other), decimals)
        rows.append([*cells, interval_text(row.mean, decimals)])
    return markdown_table([*head, "Mean [95 %]"], rows)


def _difference_cells(found: Difference | None, decimals: int) -> list[str]:
    if found is None:
        return ["–", "–"]
    return [interval_text(found.interval, decimals, sign=True), verdict_words(found, decimals)]


def category_table(analysis: Analysis, task: str, scorer: str, split: str = REPORT) -> str:
    """Means by prompt category with verdicts against the baseline."""
    baseline, categories = analysis.baseline(task), analysis.categories(task, scorer, split)
    rows = []
    for method in analysis.methods(task):
        cells = [method_name(analysis, task, method)]
        for category in categories:
            row = analysis.row(task, method, scorer, split, category)
            cells.append(summary_cell(analysis, row, baseline) if row else "–")
        rows.append(cells)
    return markdown_table(["Method", *map(escape, categories)], rows)


def held_out_table(analysis: Analysis, task: str) -> str:
    """The summary on prompts of combinations that no training data holds; empty where none were scored."""
    if not any(analysis.rows(task, HELD_OUT)):
        return ""
    return summary_table(analysis, task, HELD_OUT)


def grid_table(analysis: Analysis, task: str, scorer: str) -> str:
    """Mean of one scorer over guidance scales and step counts; empty where there is no grid."""
    guidance, steps = analysis.grid.settings(task)
    means, decimals = analysis.grid.means(task, scorer), scorer_decimals(analysis, task, scorer)
    points = [(scale, count) for scale in guidance for count in steps]
    if not points:
        return ""
    rows = []
    for method in analysis.methods(task):
        values = [means.get((method, scale, count)) for scale, count in points]
        cells = ["–" if value is None else format_number(value, decimals) for value in values]
        rows.append([method_name(analysis, task, method), *cells])
    return markdown_table(["Method", *(f"w {scale:g}, {count} steps" for scale, count in points)], rows)


def drift_table(analysis: Analysis, task: str) -> str:
    """Diversity and drift at the end: mean over seeds, and the range where there are several."""
    marks = analysis.experiment.milestones
    marks = marks[marks["task"] == task]
    names = ["diversity", *sorted(name for name in marks if str(name).startswith("drift."))]
    rows = [
        [
            method_name(analysis, task, method),
            *(mean_and_range(final_values(analysis, task, method, name)) for name in names),
        ]
        for method in analysis.methods(task)
    ]
    return markdown_table(["Method", *(escape(name.removeprefix("drift.")) for name in names)], rows)


def final_values(analysis: Analysis, task: str, method: str, name: str) -> list[float]:
    """A column of the milestones at the last one of every finished seed: `diversity`, `drift.velocity`."""
    marks = analysis.experiment.milestones
    own = marks[(marks["task"] == task) & (marks["method"] == method)]
    own = own[own["seed"].isin(analysis.seeds(task, method))]
    last = own[own["update"] == own.groupby("seed")["update"].transform("max")]
    return last[name].dropna().tolist() if name in last else []


def mean_and_range(values: Sequence[float]) -> str:
    """Mean over seeds, and the range where there are several."""
    if not values:
        return "–"
    mean = f"{sum(values) / len(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3g} to {max(values):.3g})"


def prompt_sets_section(analysis: Analysis, task: str) -> list[str]:
    """For each prompt set that judged a task: what it is, and a table; nothing where there is none."""
    parts = []
    for split, one in analysis.prompt_sets(task).items():
        title = f"On the prompt set {code(one.name)} (prompts {code(one.fingerprint)}){label_of(analysis)}"
        parts += [f"{title}: {describe_prompt_set(one)}.", summary_table(analysis, task, split, tuple(one.scores))]
    return parts


def describe_prompt_set(one: PromptSetScores) -> str:
    """How many prompts and pictures, sampled how, and how many of the prompts training could have seen."""
    count = f"all {one.prompts:,} prompts" if one.prompts == one.there else f"{one.prompts:,} of {one.there:,} prompts"
    pictures = "one picture each" if one.samples == 1 else f"the mean of {one.samples} pictures each"
    seen = "not counted" if one.in_training is None else f"{one.in_training:,}" if one.in_training else "none"
    return (
        f"{count}, {pictures}, guidance {one.guidance:g}, {one.steps} steps; also among the captions and prompts that "
        f"training may use: {escape(seen)}"
    )


def gains_table(analysis: Analysis) -> str:
    """Proxy against gold for every task and method; empty without a base."""
    rows = []
    for task in analysis.tasks:
        for gain in proxy_gains(analysis, task):
            means = [interval_text(one, 2, sign=True) for one in (gain.proxy_gain, gain.gold_gain, gain.excess)]
            name = method_name(analysis, task, gain.method)
            rows.append([escape(task), name, f"{escape(gain.proxy)} / {escape(gain.gold)}", *means, gain.words])
    head = ["Task", "Method", "Proxy / gold", "Gain of the proxy", "Gain of gold", "Proxy minus gold", "In words"]
    return markdown_table(head, rows) if rows else ""
