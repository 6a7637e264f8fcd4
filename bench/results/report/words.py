"""The words, signs and marks that all tables of a report share, as plain text."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results.report.markdown import format_number, score_decimals
from bench.results.statistics.analysis import DID_NOT_LEARN, FEW_UPDATES, Analysis, Difference

__all__ = ["SIGNS", "VERDICTS", "listed", "mark_notes", "marked", "scorer_decimals", "sign_of", "verdict_words"]

# A shape for each verdict
SIGNS = {
    "better": "▲", "slightly better": "△", "tie": "=", "slightly worse": "▽", "worse": "▼", "undecided": "?",
    DID_NOT_LEARN: "×",
}  # fmt: skip
VERDICTS = (
    "better, worse: the 95 % interval excludes zero, and the estimate lies beyond the margin that was stated before "
    "the run; slightly so where it lies inside. tie: the interval lies inside the margin. undecided: anything else; "
    "beside it stands the difference that this design would probably have shown. did not learn: there is no verdict "
    "about such a method (‡). Each comparison in these tables goes by its own interval, not corrected for their "
    "number: they are exploratory."
)
_FEW = f"† fewer than {FEW_UPDATES} optimiser updates: such a row says little about the method."
_UNLEARNT = (
    "‡ did not learn: the scorer that the method met in training, or that chose its data, is at the end not above the "
    "base's by more than its 95 % interval, on the same prompts and at the same guidance."
)


def marked(analysis: Analysis, task: str, method: str) -> str:
    """A method with the marks of too few updates and of a training without effect."""
    marks = "†" * analysis.few_updates(task, method) + "‡" * analysis.did_not_learn(task, method)
    return f"{method} {marks}" if marks else method


def mark_notes(analysis: Analysis, tasks: Iterable[str]) -> list[str]:
    """The meaning of the marks that tables of these tasks have."""
    cells = [(task, method) for task in tasks for method in analysis.methods(task)]
    found = [_FEW] if any(analysis.few_updates(*cell) for cell in cells) else []
    return found + ([_UNLEARNT] if any(analysis.did_not_learn(*cell) for cell in cells) else [])


def sign_of(found: Difference) -> str:
    """The shape of a verdict."""
    return SIGNS["undecided" if found.word.startswith("undecided") else found.word]


def verdict_words(found: Difference, decimals: int) -> str:
    """The verdict; beside an undecided one, the difference that would probably have been seen."""
    if found.word == "undecided" and found.detectable == found.detectable:
        return f"undecided (would see {format_number(found.detectable, decimals)})"
    return found.word


def scorer_decimals(analysis: Analysis, task: str, scorer: str) -> int:
    """The decimals that a scorer's numbers deserve in a task."""
    return score_decimals(analysis.info(scorer), analysis.margin(task, scorer))


def listed(items: Iterable[str], last: str = " and ") -> str:
    """`a, b and c`."""
    *first, final = [*items] or [""]
    return f"{', '.join(first)}{last}{final}" if first else final
