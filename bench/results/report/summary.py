"""REPORT.md, short: what a reader wants to know first, of the main experiment, and where all else stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.results.records.registration import Registration
from bench.results.report import reproduce, tables
from bench.results.report.claims import published_claims
from bench.results.report.claims_table import claims_table
from bench.results.report.experiment import ExperimentReport
from bench.results.report.figure import headline_scorers
from bench.results.report.markdown import code, escape, link_target, markdown_table
from bench.results.report.side_effects import other_scorers, side_effect_words
from bench.results.report.words import VERDICTS, mark_notes
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.trials import search_of, searched_methods

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
    "Only the registered comparisons of the claims are corrected for their number; all other intervals are for one "
    "comparison each, and exploratory.",
)

CLAIMS = (
    "**primary**: the one comparison by which the registration (`results/registration.yaml`) judges a claim; its "
    "p-values are corrected by Holm's rule over all primary comparisons that have data, and a claim holds where they "
    "and the margin say so. All others go by their own intervals: exploratory, as is a verdict without primary data. "
    "At equal updates, the method that ended with fewer is taken at its end, the other at its nearest milestone."
)
UNREGISTERED = (
    "Nothing was registered before these runs: every comparison goes by its own interval, and its verdict is "
    "exploratory."
)


def short_report(
    main: ExperimentReport, reported: Sequence[Analysis], registration: Registration | None, place: Path
) -> list[str]:
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
        *(part for task in analysis.tasks for part in _task(analysis, task)),
        VERDICTS,
        "## Samples",
        *main.samples(SHEETS),
        "## Curves",
        *main.curves(),
        f"## Claims{label}",
        published_claims().note,
        CLAIMS if registration else UNREGISTERED,
        claims_table(reported, registration, place),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
        "## How to make it again",
        _again(analysis, place),
    ]


def _task(analysis: Analysis, task: str) -> list[str]:
    """The headline's scorers minus base and baseline, and what else changed."""
    aside, effects = other_scorers(analysis, task), side_effect_words(analysis, task)
    found = [f"- {escape(one)}" for one in effects]
    notes = [tables.filter_note(analysis, task), *mark_notes(analysis, [task])]
    if aside and not effects:
        notes.append(f"No side effect is shown beyond the margin under {escape(', '.join(aside))}.")
    return [
        f"### {escape(tables.task_heading(analysis, task))}",
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
                escape(_methods(analysis)),
                escape(header.budget or "–"),
            ]
        )
    head = ["Experiment", "Label", "Question", "Methods", "Budget"]
    note = (
        f"Each report says all of one experiment, and {code('python -m bench report')} makes a page beside it, "
        f"{code('report.html')}, with all pictures."
    )
    return ["## All experiments", markdown_table(head, rows), note]


def _methods(analysis: Analysis) -> str:
    """`sft, soar`; of a search what was searched, and how often."""
    search = search_of(analysis)
    if search is None:
        return ", ".join(analysis.experiment.header.methods)
    return f"{', '.join(searched_methods(analysis))} ({search.trials} trials each)"


def _link(analysis: Analysis, place: Path) -> str:
    folder = analysis.experiment.folder
    return f"[{escape(analysis.experiment.header.name)}]({link_target(folder / 'REPORT.md', place)})"
