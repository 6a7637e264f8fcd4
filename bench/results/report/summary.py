"""REPORT.md, short: what a reader wants to know first, of the main experiment, and where all else stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.results.report import reproduce, tables
from bench.results.report.claims import claims_table, published_claims
from bench.results.report.experiment import ExperimentReport
from bench.results.report.figures import headline_scorers
from bench.results.report.markdown import code, escape, link_target, markdown_table
from bench.results.report.side_effects import other_scorers, side_effect_words
from bench.results.statistics.analysis import Analysis

__all__ = ["TITLE", "experiments_section", "short_report"]

TITLE = "# Which post-training method, at equal budget?"
SHEETS = 2  # of samples; the experiment's own report shows all
LIMITS = (
    "The embedded world is small: tiny pictures of simple scenes, a model of a few million parameters. What wins here "
    "need not win on SD3.5-Medium; the published figures beside ours are of another model and data.",
    "Every method gets the same budget in one unit. Under another unit the order can change: the curves show two.",
    "Supervised methods see the scorer too: it chose their data. No comparison here is of training without a scorer.",
    "Verdicts hold for the prompts' distribution, the guidance scale and the step count of the set-up; the grid in "
    "each experiment's own report shows others, on fewer prompts and without intervals.",
    "Intervals are for one comparison each and are not corrected for their number, which each experiment's own report "
    "states.",
)


def short_report(main: ExperimentReport, reported: Sequence[Analysis], place: Path) -> list[str]:
    """The sections up to the list of experiments; `reported` begins with the main one, `place` is where they stand."""
    analysis, label = main.analysis, main.label
    return [
        TITLE,
        main.question(),
        *main.warning(),
        "## The answer",
        main.answer(),
        f"## The main table{label}",
        main.facts(),
        *(part for task in analysis.tasks for part in _task(analysis, task, label)),
        tables.VERDICTS,
        "## Samples",
        *main.samples(SHEETS),
        "## Curves",
        *main.curves(),
        f"## Claims{label}",
        published_claims().note,
        claims_table(reported, lambda tested: "" if tested is analysis else f"in {_link(tested, place)}"),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
        "## How to make it again",
        _again(analysis, place),
    ]


def _task(analysis: Analysis, task: str, label: str) -> list[str]:
    """The headline's scorers minus base and baseline, and what else changed."""
    title = escape(analysis.task_info(task).title)
    aside, effects = other_scorers(analysis, task), side_effect_words(analysis, task)
    found = [f"- {escape(one)}" for one in effects]
    notes = [tables.filter_note(analysis, task), tables.few_note(analysis, task)]
    if aside and not effects:
        notes.append(f"No side effect is shown beyond the margin under {escape(', '.join(aside))}.")
    return [
        f"### {escape(task)}{': ' + title if title else ''}{label}",
        tables.detail_table(analysis, task, scorers=headline_scorers(analysis, task)),
        " ".join(filter(None, notes)),
        *(["Side effects beyond the margin, minus the base:", "\n".join(found)] if found else []),
    ]


def _again(analysis: Analysis, place: Path) -> str:
    header = analysis.experiment.header
    return "\n".join(
        [
            f"- run it: {reproduce.run_command(analysis)}",
            f"- this text, its figures, the experiments' own reports and pages: {code('python -m bench report')}",
            f"- do they agree with the results, and are these as recorded? {code('python -m bench report --check')}, "
            f"{code('python -m bench verify')}",
            f"- settings, hashes, commits and versions of {escape(header.name)}: {_link(analysis, place)}",
        ]
    )


def experiments_section(analyses: Sequence[Analysis], place: Path) -> list[str]:
    """All experiments, each with a link to its own report."""
    rows = []
    for analysis in analyses:
        header = analysis.experiment.header
        rows.append(
            [
                _link(analysis, place),
                escape(header.label or "–"),
                escape(header.question or "–"),
                escape(", ".join(header.methods)),
                escape(header.budget or "–"),
            ]
        )
    head = ["Experiment", "Label", "Question", "Methods", "Budget"]
    note = (
        f"Each report says all of one experiment, and {code('python -m bench report')} makes a page beside it, "
        f"{code('report.html')}, with all pictures."
    )
    return ["## All experiments", markdown_table(head, rows), note]


def _link(analysis: Analysis, place: Path) -> str:
    folder = analysis.experiment.folder
    return f"[{escape(analysis.experiment.header.name)}]({link_target(folder / 'REPORT.md', place)})"
