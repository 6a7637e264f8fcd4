"""The registered comparisons: one for each claim and guidance, judged by p-values that are corrected for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.api import DataError
from bench.results.records.registration import OWN, REGISTRATION, Hypothesis, Registration
from bench.results.report.claims import Claim, ClaimFinding, compared, published_claims
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.intervals import holm, p_value, verdict

__all__ = ["primary_findings"]


def primary_findings(registration: Registration | None, analyses: Sequence[Analysis]) -> dict[int, list[ClaimFinding]]:
    """The primary comparisons that have data, by the number of their claim, each with its verdict after Holm.

    Raises DataError where the registration names a claim that there is none of.
    """
    by_name = {analysis.experiment.header.name: analysis for analysis in analyses}
    found: list[tuple[Claim, Hypothesis, ClaimFinding]] = []
    for one in registration.hypotheses if registration else ():
        claim = _claim(one.claim)
        analysis = by_name.get(one.experiment)
        for scale in one.guidance if analysis and one.task in analysis.tasks else ():
            scales = _scales(registration, one, claim, scale)
            if (
                analysis
                and scales
                and (finding := compared(analysis, claim, one.task, one.scorer, scales, one.category))
            ):
                found.append((claim, one, finding))
    judged: dict[int, list[ClaimFinding]] = {}
    values = [p_value(finding.difference.interval) for _, _, finding in found]
    sure = [number for number, value in enumerate(values) if value == value]  # one seed has none
    corrected = dict(zip(sure, holm([values[number] for number in sure]), strict=True))
    for number, (claim, one, finding) in enumerate(found):
        judged.setdefault(claim.number, []).append(_judged(claim, one, finding, corrected.get(number)))
    return judged


def _claim(number: int) -> Claim:
    known = {claim.number: claim for claim in published_claims().claims}
    if number not in known:
        raise DataError(f"{REGISTRATION}: expected claims out of {', '.join(map(str, known))}, got {number}")
    return known[number]


def _scales(
    registration: Registration | None, one: Hypothesis, claim: Claim, scale: float | str
) -> dict[str, float] | None:
    """The guidance of method and reference; None where the own one of either is not stated yet."""
    pair = (claim.method, claim.reference)
    if scale != OWN:
        return dict.fromkeys(pair, float(scale))
    own = registration.own_guidance.get(one.task, {}) if registration else {}
    return {name: own[name] for name in pair} if {*pair} <= own.keys() else None


def _judged(claim: Claim, one: Hypothesis, finding: ClaimFinding, p: float | None) -> ClaimFinding:
    """With the verdict by the registered margin and the corrected p-value."""
    higher = finding.analysis.info(one.scorer).higher_is_better != (claim.kind == "few_steps")
    word = verdict(finding.difference.interval, one.margin, higher, p)
    return replace(finding, difference=replace(finding.difference, verdict=word), corrected=p)
