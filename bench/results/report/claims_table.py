"""The table of claims: what was published, ours at equal cost and at equal updates, and a verdict on each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from bench.results.records.registration import Hypothesis, Registration
from bench.results.report.claims import (
    HOLLOW,
    OVER_UNLEARNT,
    Claim,
    ClaimFinding,
    claim_findings,
    compared_at_equal_updates,
    published_claims,
)
from bench.results.report.markdown import code, escape, format_number, interval_text, markdown_table, signed
from bench.results.report.primary import primary_findings
from bench.results.report.tables import section_link
from bench.results.report.words import scorer_decimals, verdict_words
from bench.results.statistics.analysis import DID_NOT_LEARN, Analysis

__all__ = ["claim_verdict", "claims_table"]

_ALL = {  # where all comparisons of a claim say the same
    "better": "**holds here**",
    "slightly better": "**holds slightly here**: inside the margin",
    "worse": "**fails here**: the opposite",
    "slightly worse": "**fails slightly here**: the opposite, inside the margin",
    "tie": "**tie**: no difference that matters",
    HOLLOW: f"**not shown**: {HOLLOW}",
    OVER_UNLEARNT: f"**not shown**: {OVER_UNLEARNT}",
}


def claims_table(analyses: Sequence[Analysis], registration: Registration | None, place: Path) -> str:
    """One row a claim: claim, published figures, ours at equal cost and at equal updates, verdict; for `place`.

    Each claim is judged by its primary comparisons where the registration names some that have data, else by all those
    of the first of the experiments that has any, each by its own interval.
    """
    published, primary, rows = published_claims(), primary_findings(registration, analyses), []
    count = sum(map(len, primary.values()))
    for claim in published.claims:
        hypothesis = registration.hypothesis(claim.number) if registration else None
        ours = primary.get(claim.number, [])
        others = next((found for analysis in analyses if (found := claim_findings(analysis, claim))), [])
        if ours:
            others = claim_findings(ours[0].analysis, claim)
        said = [f"**primary**: {_finding_text(claim, one)}" for one in ours]
        said += [_finding_text(claim, one) for one in others]
        said += [_held_out_text(claim, tuple(of)) for _, of in groupby(others, key=lambda one: one.task)]
        links = dict.fromkeys(section_link(one.analysis, one.task, place) for one in ours + others)
        said += [f"in {', '.join(links)}"] if links else []
        if ours:
            end = claim_verdict(claim, ours) + _corrected(hypothesis, ours, count)
        elif others:
            end = f"exploratory: {claim_verdict(claim, others)}" + _owed(registration, hypothesis)
        else:
            end = f"**no data**: needs {escape(claim.needs)}" + _owed(registration, hypothesis)
        against = f" ({claim.method} minus {claim.reference})" if ours or others else ""
        cells = ["<br>".join(filter(None, said)) or "–", _updates_text(claim, others)]
        rows.append([str(claim.number), claim.text + against, claim.published, *cells, end])
    head = ["#", "Claim", f"Published on {published.model}", "Ours at equal cost", "Ours at equal updates", "Verdict"]
    return markdown_table(head, rows)


def claim_verdict(claim: Claim, findings: Sequence[ClaimFinding]) -> str:
    """The verdict on a claim in words: it holds only where every comparison is won (`ClaimFinding.word`)."""
    words = [one.word(claim) for one in findings]
    kinds = ["undecided" if word.startswith("undecided") else word for word in words]
    said = _of_all(claim, kinds)
    if "undecided" in kinds:
        said += _visible([one for one in findings if one.word(claim).startswith("undecided")])
    if any(one.few for one in findings):
        said += "; with fewer than 50 updates (†) this says little"
    return said + (" (indirect: quality lost at few steps)" if claim.kind == "few_steps" else "")


def _of_all(claim: Claim, kinds: Sequence[str]) -> str:
    if len(set(kinds)) == 1:
        if kinds[0] == DID_NOT_LEARN:
            return f"**not shown**: {escape(claim.method)} {DID_NOT_LEARN}"
        return _ALL.get(kinds[0], "**undecided**")
    if {*kinds} == {"better", "slightly better"}:
        return "**holds here**, in part inside the margin"
    held = "**fails in part**" if {"worse", "slightly worse"} & {*kinds} else "**not shown as a whole**"
    counts = [(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]
    return f"{held}: " + ", ".join(f"{count} {kind}" for kind, count in counts)


def _visible(findings: Sequence[ClaimFinding]) -> str:
    """What would have been seen, of each comparison that has an interval."""
    seen = [
        f"{format_number(one.difference.detectable, scorer_decimals(one.analysis, one.task, one.scorer))} of "
        f"{escape(one.scorer)}"
        for one in findings
        if one.difference.detectable == one.difference.detectable
    ]
    return f" (would have seen {', '.join(dict.fromkeys(seen))})" if seen else ""


def _corrected(hypothesis: Hypothesis | None, ours: Sequence[ClaimFinding], count: int) -> str:
    """The corrected p-values, and the co-primary comparisons that are still owed."""
    values = ["–" if one.corrected is None else _p_text(one.corrected) for one in ours]
    said = f"; p {', '.join(values)} after Holm over {count} primary comparisons"
    missing = len(hypothesis.guidance) - len(ours) if hypothesis else 0
    return said + (f"; {missing} of {missing + len(ours)} of its own have no data" if missing else "")


def _p_text(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _owed(registration: Registration | None, hypothesis: Hypothesis | None) -> str:
    """Which preset supplies the primary comparison, where it is registered."""
    if registration is None or hypothesis is None:
        return ""
    return f"; preset {code(registration.experiments[hypothesis.experiment].preset)} supplies its primary comparison"


def _finding_text(claim: Claim, one: ClaimFinding) -> str:
    """One line of the column at equal cost: the difference, its verdict, and both methods minus the base."""
    decimals = scorer_decimals(one.analysis, one.task, one.scorer)
    found = interval_text(one.difference.interval, decimals, sign=True)
    shown = (
        f"{escape(name)} {signed(it.interval.mean, decimals)} {it.word}"
        for name, it in one.over_base.items()
    )  # fmt: skip
    beside = f" (over the base: {', '.join(shown)})" if one.over_base else ""
    word = verdict_words(one.difference, decimals)
    if one.word(claim) in (HOLLOW, OVER_UNLEARNT):
        word += f", but {one.word(claim)}"
    return f"{escape(one.task)}, {escape(one.what)}: {found}, {word}{' †' if one.few else ''}{beside}"


def _held_out_text(claim: Claim, findings: Sequence[ClaimFinding]) -> str:
    """What the scorers say that neither train nor select in the task, and that the claim is not about."""
    analysis, task = findings[0].analysis, findings[0].task
    told = {*analysis.task_info(task).used, *(one.scorer for one in findings)}
    said = []
    for scorer in analysis.scorers(task) if claim.kind == "final_scores" else ():
        found = analysis.difference(task, claim.method, claim.reference, scorer) if scorer not in told else None
        if found is not None:
            text = interval_text(found.interval, scorer_decimals(analysis, task, scorer), sign=True)
            said.append(f"{escape(scorer)} {text} {found.word}")
    return f"held out, {escape(task)}: {'; '.join(said)}" if said else ""


def _updates_text(claim: Claim, findings: Sequence[ClaimFinding]) -> str:
    """The column at equal updates: the difference where both have gone as far, and how far that is."""
    found = [compared_at_equal_updates(one.analysis, claim, one.task, one.scorer) for one in findings]
    return "<br>".join(_finding_text(claim, one) for one in found if one) or "–"
