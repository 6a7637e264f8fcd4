"""What a paper claims, and the comparisons of an experiment that bear on it; the claims stand in `claims.yaml`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.parsing import read_dataclass
from bench.results.records.schema import BASE
from bench.results.statistics.analysis import DID_NOT_LEARN, Analysis, Difference
from bench.results.statistics.equal_updates import at_equal_updates
from bench.results.statistics.score_tables import of_category, paired, table_interval

__all__ = [
    "HOLLOW",
    "OVER_UNLEARNT",
    "Claim",
    "ClaimFinding",
    "claim_findings",
    "compared",
    "compared_at_equal_updates",
    "published_claims",
]

HOLLOW = "no better than the base"  # in the place of a win, or of a tie that would suffice
OVER_UNLEARNT = "a win over an arm that did not learn"
_WON = ("better", "slightly better")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Claim:
    """One row. `method` minus `reference` under `scorers`, in those of the `tasks` that an experiment has.

    kind: what is compared: the scores at the end of the budget, or what few sampling steps cost. An empty `tasks`
    stands for all, an empty `scorers` for the scorer that each task trains on. tie_suffices: a tie confirms it as a
    gain does.
    """

    number: int
    text: str
    published: str
    method: str
    reference: str
    kind: Literal["final_scores", "few_steps"] = "final_scores"
    tasks: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    tie_suffices: bool = False

    @property
    def needs(self) -> str:
        """What an experiment has to have so that it bears on the claim."""
        grid = ", and a grid of several step counts" if self.kind == "few_steps" else ""
        tasks = f" on {' or '.join(self.tasks)}" if self.tasks else ""
        return f"{self.method} and {self.reference}{tasks}{grid}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PublishedClaims:
    """All claims, the model that they were published on, and the sentences that have to stand beside them."""

    model: str
    note: str
    claims: tuple[Claim, ...]


@dataclasses.dataclass(frozen=True)
class ClaimFinding:
    """One comparison that bears on a claim, under a scorer: `what` says how it was judged.

    over_base: method and reference minus the base, where that has finished. reference_learned: whether the reference
    is not known to have stayed where it was. few: whether one of both had too few updates to say much. corrected: the
    p-value of a primary comparison, after Holm.
    """

    analysis: Analysis
    task: str
    scorer: str
    what: str
    difference: Difference
    over_base: Mapping[str, Difference]
    reference_learned: bool
    few: bool
    corrected: float | None = None

    def word(self, claim: Claim) -> str:
        """The verdict that counts for a claim: nothing wins that is not itself shown to be better than the base."""
        word: str = self.difference.word
        if word == DID_NOT_LEARN:
            return word
        if claim.tie_suffices and word in ("tie", "slightly better"):
            word = "better"
        own = self.over_base.get(claim.method)
        if word in _WON and own is not None and own.verdict not in _WON:
            return HOLLOW
        return OVER_UNLEARNT if word in _WON and not self.reference_learned else word


@cache
def published_claims() -> PublishedClaims:
    """The claims that the package knows; raises ConfigError where their file is damaged."""
    return read_dataclass(PublishedClaims, Path(__file__).with_name("claims.yaml"))


def claim_findings(analysis: Analysis, claim: Claim) -> list[ClaimFinding]:
    """All comparisons of an experiment that bear on a claim, at the evaluation's guidance; none without data."""
    found = []
    for task in analysis.tasks:
        if not claim.tasks or task in claim.tasks:
            found += [compared(analysis, claim, task, scorer) for scorer in _judges(analysis, task, claim)]
    return [one for one in found if one is not None]


def _judges(analysis: Analysis, task: str, claim: Claim) -> tuple[str, ...]:
    """The claim's scorers, else what the task trains on, and for claims about all tasks its headline scorer too."""
    if claim.kind == "few_steps":
        return (analysis.primary(task),)
    reward = analysis.task_info(task).reward
    names = claim.scorers or ([reward] if reward else []) + ([] if claim.tasks else [analysis.primary(task)])
    return tuple(name for name in dict.fromkeys(names) if name in analysis.scorers(task))


def compared(
    analysis: Analysis, claim: Claim, task: str, scorer: str, guidance: Mapping[str, float] | None = None,
    category: str | None = None,
) -> ClaimFinding | None:  # fmt: skip
    """A claim's method minus its reference in a task, under one scorer; None where the data is absent.

    guidance: the scale of each of both, where it is not that of the evaluation. category: one of the prompts', or all.
    """
    pair = (claim.method, claim.reference)
    if not {*pair} <= set(analysis.methods(task)) or scorer not in analysis.scorers(task):
        return None
    scale = guidance or {}
    make = _lost_at_few_steps if claim.kind == "few_steps" else Analysis.scores_at
    tables = [of_category(make(analysis, task, name, scorer, scale.get(name)), category) for name in pair]
    gains = {name: _over_base(analysis, task, name, scorer, scale.get(name), category) for name in pair}
    what = _described(analysis, claim, task, scorer, scale, category)
    return _finding(analysis, claim, task, scorer, what, tables, gains, scale)


def compared_at_equal_updates(analysis: Analysis, claim: Claim, task: str, scorer: str) -> ClaimFinding | None:
    """As `compared`, after equally many updates, as far as milestones allow; None for what is lost at few steps."""
    pair = (claim.method, claim.reference)
    if claim.kind == "few_steps" or not {*pair} <= set(analysis.methods(task)):
        return None
    equal = at_equal_updates(analysis, task, pair, scorer)
    if equal is None:
        return None
    gains = {}
    for name, table in equal.scores.items():
        base = analysis.scores(task, BASE, scorer) if BASE in analysis.methods(task) else pd.DataFrame()
        shared = table.columns.intersection(base.columns) if base.size else []
        gains[name] = _gain(analysis, task, name, scorer, [table[shared], base[shared]]) if len(shared) else None
    counts = [
        f"{name} {low:,}" if low == high else f"{name} {low:,} to {high:,}"
        for name, (low, high) in equal.updates.items()
    ]
    prompts = equal.scores[claim.method].shape[1]
    what = f"{scorer} after {' and '.join(counts)} updates, {prompts:,} prompts"
    return _finding(analysis, claim, task, scorer, what, list(equal.scores.values()), gains, {})


def _finding(
    analysis: Analysis, claim: Claim, task: str, scorer: str, what: str, tables: Sequence[pd.DataFrame],
    gains: Mapping[str, Difference | None], guidance: Mapping[str, float],
) -> ClaimFinding | None:  # fmt: skip
    """The scores of a claim's method minus those of its reference, None where they share nothing."""
    table = paired(*tables, what=f"{task}: {claim.method} and {claim.reference} ({scorer})")
    if not table.size:
        return None
    is_loss = claim.kind == "few_steps"  # of which less is better
    found = analysis.judged(
        task, claim.method, claim.reference, scorer, table_interval(table), guidance.get(claim.method), is_loss=is_loss
    )
    return ClaimFinding(
        analysis, task, scorer, what, found,
        over_base={name: gain for name, gain in gains.items() if gain is not None},
        reference_learned=not analysis.did_not_learn(task, claim.reference, guidance.get(claim.reference)),
        few=any(analysis.few_updates(task, name) for name in (claim.method, claim.reference)),
    )  # fmt: skip


def _lost_at_few_steps(analysis: Analysis, task: str, method: str, scorer: str, guidance: float | None) -> pd.DataFrame:
    """What few sampling steps cost: exposure bias shows as that loss. Empty without a grid of several step counts."""
    scales, steps = analysis.grid.settings(task)
    if len(steps) < 2:
        return pd.DataFrame()
    wanted = analysis.sampling(task)[0] if guidance is None else guidance
    scale = min(scales, key=lambda value: abs(value - wanted))
    if guidance is not None and abs(scale - guidance) > 1e-6:
        return pd.DataFrame()
    many, few = (analysis.grid.scores(task, method, scorer, scale, count) for count in (steps[-1], steps[0]))
    return many - few if many.size and few.size else pd.DataFrame()


def _over_base(
    analysis: Analysis, task: str, method: str, scorer: str, guidance: float | None, category: str | None
) -> Difference | None:
    """A method minus the base at its own guidance, at the end of the budget."""
    if BASE not in analysis.methods(task):
        return None
    of = [of_category(analysis.scores_at(task, name, scorer, guidance), category) for name in (method, BASE)]
    return _gain(analysis, task, method, scorer, of, guidance)


def _gain(
    analysis: Analysis, task: str, method: str, scorer: str, of: Sequence[pd.DataFrame], guidance: float | None = None
) -> Difference | None:
    table = paired(*of, what=f"{task}: {method} and base ({scorer})", has_seeds=False)
    return analysis.judged(task, method, BASE, scorer, table_interval(table), guidance) if table.size else None


def _described(
    analysis: Analysis, claim: Claim, task: str, scorer: str, guidance: Mapping[str, float], category: str | None
) -> str:
    """`scenes-geneval (gold), guidance 1, position`."""
    said = [f"{scorer} ({'gold' if analysis.info(scorer).gold else 'proxy'})"]
    if claim.kind == "few_steps":
        steps = analysis.grid.settings(task)[1]
        said[0] = f"{scorer} lost from {steps[-1]} to {steps[0]} steps (less is better)"
    if guidance:
        scales = [f"{guidance[name]:g}" for name in (claim.method, claim.reference)]
        alike = len(set(scales)) == 1
        said.append(f"guidance {scales[0]}" if alike else f"guidance {scales[0]} ({claim.method}) and {scales[1]}")
    else:
        said.append(f"guidance {analysis.sampling(task)[0]:g}")
    return ", ".join(said + ([category] if category else []))
