"""What each prompt set says of the methods, and how many of its prompts training could have seen."""

from __future__ import annotations

from bench.results.records.schema import PromptSetScores
from bench.results.report import tables
from bench.results.report.markdown import code, escape
from bench.results.statistics.analysis import Analysis

__all__ = ["about", "prompt_sets_section"]


def prompt_sets_section(analysis: Analysis, task: str) -> list[str]:
    """For each prompt set that judged a task: what it is, and a table; nothing where there is none."""
    parts = []
    for split, one in analysis.prompt_sets(task).items():
        title = f"On the prompt set {code(one.name)} (prompts {code(one.fingerprint)}){tables.label_of(analysis)}"
        parts += [f"{title}: {about(one)}.", tables.summary_table(analysis, task, split, tuple(one.scores))]
    return parts


def about(one: PromptSetScores) -> str:
    """How many prompts and pictures, sampled how, and how many of the prompts training could have seen."""
    count = f"all {one.prompts:,} prompts" if one.prompts == one.there else f"{one.prompts:,} of {one.there:,} prompts"
    pictures = "one picture each" if one.samples == 1 else f"the mean of {one.samples} pictures each"
    seen = "not counted" if one.in_training is None else f"{one.in_training:,}" if one.in_training else "none"
    return (
        f"{count}, {pictures}, guidance {one.guidance:g}, {one.steps} steps; also among the captions and prompts that "
        f"training may use: {escape(seen)}"
    )
