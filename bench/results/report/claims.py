"""What a paper claims, what it published, and what this experiment says about it; the claims stand in `claims.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.parsing import read_dataclass
from bench.results.records.schema import BASE
from bench.results.report.markdown import escape, interval_text, markdown_table, score_decimals, signed
from bench.results.report.tables import verdict_words
from bench.results.statistics.analysis import Analysis, Difference
from bench.results.statistics.intervals import crossed_interval, detectable, paired_differences, verdict

__all__ = ["Claim", "ClaimFinding", "claim_findings", "claim_verdict", "claims_table", "published_claims"]

BETTER, WORSE, TIE = "better", "worse", "tie"
HOLLOW = "no better than the base"  # in the place of a win, or of a tie that would suffice


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Claim:
    """One row. `method` minus `reference` under `scorers`, in those of the `tasks` that an experiment has.

    kind: what is compared: the scores at the end of the budget, or what few sampling steps cost under the headline
    scorer. An empty `tasks` stands for all, an empty `scorers` for the scorer that each task trains on.
    absent: the verdict where an experiment has no such comparison. tie_suffices: a tie confirms it as a gain does.
    """

    number: int
    text: str
    published: str
    method: str
    reference: str
    kind: Literal["final_scores", "few_steps"] = "final_scores"
    tasks: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    absent: str = "not tested here"
    tie_suffices: bool = False


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PublishedClaims:
    """All claims, the model that they were published on, and the sentences that have to stand beside them."""

    model: str
    note: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class ClaimFinding:
    """One comparison that bears on a claim. over_base: method and reference minus the base, where that has finished."""

    task: str
    what: str
    difference: Difference
    decimals: int
    few: bool
    over_base: Mapping[str, Difference]

    @property
    def text(self) -> str:
        """One line of the column `ours`."""
        found = interval_text(self.difference.interval, self.decimals, sign=True)
        mark = " †" if self.few else ""
        shown = (
            f"{escape(name)} {signed(it.interval.mean, self.decimals)} {it.verdict}"
            for name, it in self.over_base.items()
        )
        beside = f" (over the base at the end: {', '.join(shown)})" if self.over_base else ""
        return (
            f"{escape(self.task)}, {escape(self.what)}: {found}, {verdict_words(self.difference, self.decimals)}{mark}"
            f"{beside}"
        )

    def word(self, claim: Claim) -> str:
        """The verdict that counts for a claim: nothing wins that is not itself shown to be better than the base."""
        word: str = self.difference.verdict
        if claim.tie_suffices and word == TIE:
            word = BETTER
        own = self.over_base.get(claim.method)
        return HOLLOW if word == BETTER and own is not None and own.verdict != BETTER else word


@cache
def published_claims() -> PublishedClaims:
    """The claims that the package knows; raises ConfigError where their file is damaged."""
    return read_dataclass(PublishedClaims, Path(__file__).with_name("claims.yaml"))


def claim_findings(analysis: Analysis, claim: Claim) -> list[ClaimFinding]:
    """All comparisons of an experiment that bear on a claim; none where the data is absent."""
    compare = _few_steps if claim.kind == "few_steps" else _final_scores
    tasks = [task for task in analysis.tasks if not claim.tasks or task in claim.tasks]
    both = [task for task in tasks if {claim.method, claim.reference} <= set(analysis.methods(task))]
    return [found for task in both for found in compare(analysis, task, claim)]


def _final_scores(analysis: Analysis, task: str, claim: Claim) -> list[ClaimFinding]:
    """Method minus reference at the end of the budget, under each scorer that the claim is about."""
    findings = []
    for scorer in claim.scorers or _trained_on(analysis, task, claim):
        if scorer in analysis.scorers(task):
            found = analysis.difference(task, claim.method, claim.reference, scorer)
            what = f"{scorer} ({'gold' if analysis.info(scorer).gold else 'proxy'})"
            findings += [_finding(analysis, task, claim, scorer, what, found)] if found else []
    return findings


def _trained_on(analysis: Analysis, task: str, claim: Claim) -> tuple[str, ...]:
    """The scorer that the task trains on; for claims about all tasks its headline scorer too."""
    reward = analysis.task_info(task).reward
    names = ([reward] if reward else []) + ([] if claim.tasks else [analysis.primary(task)])
    return tuple(dict.fromkeys(names))


def _few_steps(analysis: Analysis, task: str, claim: Claim) -> list[ClaimFinding]:
    """What few sampling steps cost the method, minus what they cost the reference: exposure bias shows as that loss."""
    guidance, steps = analysis.grid_settings(task)
    if len(steps) < 2:
        return []
    scorer = analysis.primary(task)
    marks = analysis.experiment.milestones
    used = float(marks.loc[marks["task"] == task, "guidance"].iloc[0])
    scale = min(guidance, key=lambda value: abs(value - used))
    losses = []
    for method in (claim.method, claim.reference):
        many, few = (analysis.grid_scores(task, method, scorer, scale, count) for count in (steps[-1], steps[0]))
        if not many.size or not few.size:
            return []
        losses.append(many - few)
    ours, theirs = losses
    seeds = ours.index.intersection(theirs.index)
    if not len(seeds):
        return []
    interval = crossed_interval(paired_differences(ours.loc[seeds].to_numpy(), theirs.loc[seeds].to_numpy()))
    less_is_better = analysis.info(scorer).higher_is_better  # of a loss
    word = verdict(interval, analysis.margin(task, scorer), higher_is_better=not less_is_better)
    found = Difference(claim.reference, interval, word, detectable(interval))
    what = f"{scorer} lost from {steps[-1]} to {steps[0]} steps at guidance {scale:g} (less is better)"
    return [_finding(analysis, task, claim, scorer, what, found)]


def _finding(analysis: Analysis, task: str, claim: Claim, scorer: str, what: str, found: Difference) -> ClaimFinding:
    pair = (claim.method, claim.reference)
    few = any(analysis.few_updates(task, name) for name in pair)
    decimals = score_decimals(analysis.info(scorer), analysis.margin(task, scorer))
    gained = {name: analysis.difference(task, name, BASE, scorer) for name in pair if BASE in analysis.methods(task)}
    over_base = {name: gain for name, gain in gained.items() if gain is not None}
    return ClaimFinding(task, what, found, decimals, few, over_base)


def claim_verdict(claim: Claim, findings: list[ClaimFinding]) -> str:
    """The verdict on a claim in words: it holds only where every comparison is won (`ClaimFinding.word`)."""
    if not findings:
        return claim.absent
    said = _verdict_of_all([item.word(claim) for item in findings])
    if any(item.few for item in findings):
        said += "; with fewer than 50 updates (†) this says little"
    if not claim.scorers and claim.tasks:
        said += f" (tested on {len(findings)} learned score{'s' if len(findings) > 1 else ''})"
    return said + (" (indirect: quality lost at few steps)" if claim.kind == "few_steps" else "")


def _verdict_of_all(words: list[str]) -> str:
    if all(word == BETTER for word in words):
        return "**holds here**"
    if all(word == WORSE for word in words):
        return "**fails here**: the opposite"
    if all(word == TIE for word in words):
        return "**tie**: no difference that matters"
    if all(word == HOLLOW for word in words):
        return f"**not shown**: {HOLLOW}"
    if all(word.startswith("undecided") for word in words):
        return "**undecided**"
    kinds = (BETTER, HOLLOW, WORSE, TIE, "undecided")
    counts = [(name, sum(word.startswith(name) for word in words)) for name in kinds]
    held = "**fails in part**" if WORSE in words else "**not shown as a whole**"
    return f"{held}: " + ", ".join(f"{count} {name}" for name, count in counts if count)


def claims_table(analyses: Sequence[Analysis], told: Callable[[Analysis], str] = lambda analysis: "") -> str:
    """One row a claim: claim, published figures, ours, verdict.

    Each claim is judged by the first of the experiments that has such a comparison; `told` says in markdown which.
    """
    published, rows = published_claims(), []
    for claim in published.claims:
        tested = ((analysis, found) for analysis in analyses if (found := claim_findings(analysis, claim)))
        analysis, found = next(tested, (None, []))
        ours = [item.text for item in found]
        ours += [where] if analysis is not None and (where := told(analysis)) else []
        against = f" ({claim.method} minus {claim.reference})" if found else ""
        verdict_cell = claim_verdict(claim, found)
        rows.append([str(claim.number), claim.text + against, claim.published, "<br>".join(ours) or "–", verdict_cell])
    head = ["#", "Claim", f"Published on {published.model}", "Ours, embedded world, equal budget", "Verdict"]
    return markdown_table(head, rows)
