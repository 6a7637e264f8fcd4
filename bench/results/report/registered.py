"""Whether the cells of an experiment were recorded under the registration as it is."""

from __future__ import annotations

from collections import Counter

from bench.results.records.reader import ExperimentResults
from bench.results.records.registration import REGISTRATION, read_registration, registration_hash
from bench.results.report.markdown import code, escape
from bench.results.statistics.analysis import Analysis

__all__ = ["other_registrations", "registration_words"]


def registration_words(analysis: Analysis) -> str:
    """A sentence or two: under which registration the cells were recorded, and how the experiment differs from it."""
    experiment = analysis.experiment
    present, held = registration_hash(experiment.folder.parent), _held(experiment)
    if not any(held.elements()):
        return "It was not registered."
    parts = []
    for digest, count in held.items():
        is_it = "as it is" if digest == present else "as it was before a change" if present else "which is not there"
        parts.append(
            f"{count} cells under {code(REGISTRATION)} {code(digest)}, {is_it}" if digest else f"{count} under none"
        )
    registration = read_registration(experiment.folder.parent)
    seeds = max((len(analysis.seeds(task, m)) for task in analysis.tasks for m in analysis.methods(task)), default=0)
    deviations = registration.deviations(experiment.header, seeds) if registration else []
    differs = f" It differs from what was planned: {escape('; '.join(deviations))}." if deviations else ""
    return f"Recorded: {'; '.join(parts)}.{differs}"


def other_registrations(experiment: ExperimentResults) -> str | None:
    """What `bench verify` tells of an experiment whose cells carry another registration than the present one."""
    present = registration_hash(experiment.folder.parent)
    others = {digest: count for digest, count in _held(experiment).items() if digest and digest != present}
    if not others:
        return None
    told = ", ".join(f"{count} under {digest}" for digest, count in others.items())
    now = f"it is {present} now" if present else "it is not there now"
    return f"{experiment.folder}: cells were recorded under another {REGISTRATION} ({told}): {now}"


def _held(experiment: ExperimentResults) -> Counter[str]:
    """How many cells carry each hash, empty for none."""
    return Counter(cell.header.registration or "" for cell in experiment.results)
