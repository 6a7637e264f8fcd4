"""The answer in a few sentences with numbers: who won what, at which price, what else changed, what is undecided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench.results.records.schema import BASE
from bench.results.report.gains import proxy_gains
from bench.results.report.markdown import format_number, interval_text
from bench.results.report.side_effects import other_scorers, side_effects
from bench.results.report.words import listed, marked, scorer_decimals
from bench.results.statistics.analysis import Analysis, ScoreRow

__all__ = ["Sentence", "answer"]

NO_HACKING = "no method is shown to raise a proxy while gold falls."


class Sentence(NamedTuple):
    """What it is about, to be read at a glance, and the rest of it."""

    lead: str
    rest: str


def answer(analysis: Analysis, *, clocks: bool = True) -> list[Sentence]:
    """Five plain sentences: which method, what each gained, at which price, what else changed, what is undecided.

    `clocks` says whether seconds may stand in it: they are telemetry, which differs from run to run.
    """
    return [
        Sentence("Which method", _joined(_leader(analysis, task) for task in analysis.tasks)),
        Sentence("Over the base", _joined(_gains(analysis, task) for task in analysis.tasks)),
        Sentence("Price", _price(analysis, clocks=clocks)),
        Sentence("Elsewhere", f"{_elsewhere(analysis)}; {_hacking(analysis)}"),
        Sentence("Undecided", _undecided(analysis)),
    ]


def _joined(parts: Iterable[str]) -> str:
    """What is said of each task, as one sentence."""
    return f"{'; '.join(filter(None, parts)) or 'nothing could be compared yet'}."


def _price(analysis: Analysis, *, clocks: bool) -> str:
    """What each method did with the budget that all share."""
    header = analysis.experiment.header
    methods = [m for m in header.methods if any(m in analysis.methods(task) for task in analysis.tasks)]
    seeds = {len(analysis.seeds(task, m)) for task in analysis.tasks for m in analysis.methods(task) if m != BASE}
    count = " or ".join(map(str, sorted(seeds))) or "no"
    spent = listed(f"{method} {_spent(analysis, method, clocks=clocks)}" for method in methods)
    label = f" This is a {header.label}: its verdicts decide little." if header.label else ""
    return (
        f"from the same base, each spends the same budget, {header.budget or 'not stated'}, with {count} "
        f"seed{'' if count == '1' else 's'}: {spent or 'no method has finished'}.{label}"
    )


def _spent(analysis: Analysis, method: str, *, clocks: bool) -> str:
    """`168 updates (31 s)`: the fewest updates to the most, and the mean training time of a finished cell."""
    cells = analysis.experiment.cells
    own = cells[(cells["method"] == method) & (cells["status"] == "done")]
    low, high = int(own["updates"].min()), int(own["updates"].max())
    seconds = own["seconds"].dropna()
    time = f" ({seconds.mean():,.0f} s)" if clocks and len(seconds) else ""
    return f"{f'{low:,}' if low == high else f'{low:,} to {high:,}'} updates{time}"


def _leader(analysis: Analysis, task: str) -> str:
    """Who is best under the headline scorer, or that nobody is shown to be."""
    rows, order = _ranked(analysis, task)
    scorer = analysis.primary(task)
    by = f"by {scorer} ({'gold' if analysis.info(scorer).gold else 'proxy'})"
    leader, mean = marked(analysis, task, order[0]), rows[order[0]].mean.mean
    level = [method for method in order[1:] if not _beats(analysis, task, order[0], method, scorer)]
    has = f"{by} {leader} has {format_number(mean, scorer_decimals(analysis, task, scorer))}"
    if not order[1:]:
        return f"{task}: nothing to compare, {has}"
    if level:
        others = listed((marked(analysis, task, method) for method in level), last=" or ")
        return f"{task}: no winner, {has}, the best mean, but is not shown to be better than {others}"
    if order[0] == BASE:
        return f"{task}: nothing beats the base, {has}"
    baseline = analysis.baseline(task)
    is_other = baseline not in (order[0], BASE)
    against = f", against {baseline} {_over(analysis, task, order[0], baseline, scorer)}" if is_other else ""
    return f"{task}: {leader} wins, {has}{against}"


def _ranked(analysis: Analysis, task: str) -> tuple[dict[str, ScoreRow], list[str]]:
    """The rows of a task's methods under its headline scorer, and the methods from the best on."""
    scorer = analysis.primary(task)
    rows = {m: row for m in analysis.methods(task) if (row := analysis.row(task, m, scorer))}
    sign = 1 if analysis.info(scorer).higher_is_better else -1
    return rows, sorted(rows, key=lambda method: -sign * rows[method].mean.mean)


def _gains(analysis: Analysis, task: str) -> str:
    """Every method minus the base under the headline scorer, and what it was trained by where that did not rise."""
    scorer, said = analysis.primary(task), []
    for method in _ranked(analysis, task)[1]:
        if gain := _over(analysis, task, method, BASE, scorer):
            said.append(f"{marked(analysis, task, method)} {gain}{_stuck(analysis, task, method)}")
    return f"{task}: {', '.join(said)}" if said else ""


def _stuck(analysis: Analysis, task: str, method: str) -> str:
    """` (scenes-clip, which it met in training, -0.006 [-0.019, +0.008])` of a method that did not learn."""
    gained, scorer = analysis.learning(task, method), analysis.optimises(task, method)
    if gained is None or scorer is None or not analysis.did_not_learn(task, method):
        return ""
    text = interval_text(gained, scorer_decimals(analysis, task, scorer), sign=True)
    return f" ({scorer}, which it met in training, {text})"


def _beats(analysis: Analysis, task: str, leader: str, method: str, scorer: str) -> bool:
    """Whether the interval shows the leader to be better; the base has no seeds, so it is the one subtracted."""
    if leader == BASE:
        found = analysis.difference(task, method, BASE, scorer)
        return found is not None and found.verdict in ("worse", "slightly worse")
    found = analysis.difference(task, leader, method, scorer)
    return found is not None and found.word in ("better", "slightly better")


def _over(analysis: Analysis, task: str, method: str, baseline: str, scorer: str) -> str:
    """`+1.26 [+1.17, +1.35] better`; empty where there is no such comparison."""
    row = analysis.row(task, method, scorer)
    found = row.differences.get(baseline) if row else None
    if found is None:
        return ""
    return f"{interval_text(found.interval, scorer_decimals(analysis, task, scorer), sign=True)} {found.word}"


def _elsewhere(analysis: Analysis) -> str:
    """Losses against the base under gold scorers that are not the headline's."""
    aside = [(task, scorer) for task in analysis.tasks for scorer in other_scorers(analysis, task)]
    if not any(analysis.info(scorer).gold for _, scorer in aside):
        return "no other gold scorer judged what else changed"
    losses = [
        f"{marked(analysis, task, it.method)} on {task} "
        f"({it.scorer} {interval_text(it.difference.interval, it.decimals, sign=True)})"
        for task in analysis.tasks
        for it in side_effects(analysis, task)
        if it.gold and it.difference.verdict == "worse"
    ]
    if not losses:
        return "by the other gold scorers no method is shown to be worse than the base by more than the margin"
    return f"by the other gold scorers these are worse than the base: {listed(losses)}"


def _hacking(analysis: Analysis) -> str:
    """Where a proxy rises while gold falls."""
    gains = [gain for task in analysis.tasks for gain in proxy_gains(analysis, task)]
    named = [
        f"{gain.method} on {gain.task} ({gain.proxy} against {gain.gold})"
        for gain in gains
        if gain.words.startswith("reward hacking")
    ]
    return f"a proxy rises while gold falls for {listed(named)}." if named else NO_HACKING


def _undecided(analysis: Analysis) -> str:
    """Of the comparisons under the headline scorers, which are undecided, and what would have been seen."""
    count, undecided, parts = 0, 0, []
    for task in analysis.tasks:
        scorer, names, seen = analysis.primary(task), [], []
        for method in analysis.methods(task):
            row = analysis.row(task, method, scorer)
            for found in row.differences.values() if row else ():
                count += 1
                if found.word.startswith("undecided"):
                    names.append(f"{marked(analysis, task, method)} minus {found.baseline}")
                    seen += [found.detectable] if found.detectable == found.detectable else []
        if names:
            undecided += len(names)
            parts.append(f"{task}: {listed(names)}{_visible(seen, scorer_decimals(analysis, task, scorer))}")
    if not count:
        return "nothing could be compared yet."
    if not parts:
        return f"none of the {count} comparisons by these headline scorers."
    return f"{undecided} of the {count} comparisons by these headline scorers; {'; '.join(parts)}."


def _visible(seen: list[float], decimals: int) -> str:
    """What this design would have shown, of several comparisons from the sharpest to the bluntest."""
    if not seen:
        return ""
    ends = dict.fromkeys(format_number(value, decimals) for value in (min(seen), max(seen)))
    return f" (true differences of {' to '.join(ends)} would probably have been seen)"
