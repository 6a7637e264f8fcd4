"""The answer in a few sentences with numbers: who won what, at which price, what else changed, what is undecided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench.results.records.schema import BASE
from bench.results.report.gains import proxy_gains
from bench.results.report.markdown import format_number, interval_text, score_decimals
from bench.results.report.side_effects import other_scorers, side_effects
from bench.results.statistics.analysis import Analysis

__all__ = ["Sentence", "answer", "marked", "scorer_decimals"]

NO_HACKING = "no method is shown to raise a proxy while gold falls."


class Sentence(NamedTuple):
    """What it is about, to be read at a glance, and the rest of it."""

    lead: str
    rest: str


def answer(analysis: Analysis, *, clocks: bool = True) -> list[Sentence]:
    """Plain sentences: one a task, the price, side effects, proxies against gold, what is undecided.

    `clocks` says whether seconds may stand in it: they are telemetry, which differs from run to run.
    """
    tasks = analysis.tasks
    said = [*(_task(analysis, task) for task in tasks), Sentence("Price", _price(analysis, clocks=clocks))]
    elsewhere, hacking = _elsewhere(analysis), _hacking(analysis)
    if len(tasks) == 1:
        said += [Sentence("Elsewhere", elsewhere), Sentence("Reward hacking", hacking or NO_HACKING)]
    else:
        said.append(Sentence("Elsewhere", f"{elsewhere[:-1]}; {hacking}" if hacking else elsewhere))
    return [*said, Sentence("Undecided", _undecided(analysis))]


def marked(analysis: Analysis, task: str, method: str) -> str:
    """A method with the mark of too few updates."""
    return method + (" †" if analysis.few_updates(task, method) else "")


def scorer_decimals(analysis: Analysis, task: str, scorer: str) -> int:
    """The decimals that a scorer's numbers deserve in a task."""
    return score_decimals(analysis.info(scorer), analysis.margin(task, scorer))


def _price(analysis: Analysis, *, clocks: bool) -> str:
    """What each method did with the budget that all share."""
    header = analysis.experiment.header
    methods = [m for m in header.methods if any(m in analysis.methods(task) for task in analysis.tasks)]
    seeds = {len(analysis.seeds(task, m)) for task in analysis.tasks for m in analysis.methods(task) if m != BASE}
    count = " or ".join(map(str, sorted(seeds))) or "no"
    spent = _listed(f"{method} {_spent(analysis, method, clocks=clocks)}" for method in methods)
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


def _task(analysis: Analysis, task: str) -> Sentence:
    """Who is best under the headline scorer, and every method minus the base."""
    scorer = analysis.primary(task)
    by = f"by {scorer} ({'gold' if analysis.info(scorer).gold else 'proxy'})"
    rows = {m: row for m in analysis.methods(task) if (row := analysis.row(task, m, scorer))}
    sign = 1 if analysis.info(scorer).higher_is_better else -1
    order = sorted(rows, key=lambda method: -sign * rows[method].mean.mean)
    leader = marked(analysis, task, order[0])
    level = [method for method in order[1:] if not _beats(analysis, task, order[0], method, scorer)]
    mean = format_number(rows[order[0]].mean.mean, scorer_decimals(analysis, task, scorer))
    if not order[1:]:
        lead, found = "nothing to compare", f"{leader} has {mean} {by}"
    elif level:
        lead = "no winner"
        found = f"{by} {leader} has the best mean, {mean}, but is not shown to be better than "
        found += _listed((marked(analysis, task, method) for method in level), last=" or ")
    elif order[0] == BASE:
        lead, found = "nothing beats the base", f"{by} it has {mean}"
    else:
        lead, found = f"{leader} wins", f"{by} it has {mean}"
        baseline = analysis.baseline(task)
        if baseline not in (order[0], BASE):
            found += f", against {baseline} {_over(analysis, task, order[0], baseline, scorer, named=False)}"
    over_base = (_over(analysis, task, method, BASE, scorer) for method in order if method != BASE)
    against = ", ".join(text for text in over_base if text)
    return Sentence(f"{task}, {lead}", f"{found}{f'; over the base: {against}' if against else ''}.")


def _beats(analysis: Analysis, task: str, leader: str, method: str, scorer: str) -> bool:
    """Whether the interval shows the leader to be better; the base has no seeds, so it is the one subtracted."""
    ours, theirs, wanted = (method, leader, "worse") if leader == BASE else (leader, method, "better")
    found = analysis.difference(task, ours, theirs, scorer)
    return found is not None and found.verdict == wanted


def _over(analysis: Analysis, task: str, method: str, baseline: str, scorer: str, *, named: bool = True) -> str:
    """`soar +1.26 [+1.17, +1.35] better`; empty where there is no such comparison."""
    row = analysis.row(task, method, scorer)
    found = row.differences.get(baseline) if row else None
    if found is None:
        return ""
    text = interval_text(found.interval, scorer_decimals(analysis, task, scorer), sign=True)
    return f"{marked(analysis, task, method) + ' ' if named else ''}{text} {found.verdict}"


def _elsewhere(analysis: Analysis) -> str:
    """Losses against the base under gold scorers that are not the headline's."""
    aside = [(task, scorer) for task in analysis.tasks for scorer in other_scorers(analysis, task)]
    if not any(analysis.info(scorer).gold for _, scorer in aside):
        return "no other gold scorer judged what else changed."
    losses = [
        f"{marked(analysis, task, it.method)} on {task} "
        f"({it.scorer} {interval_text(it.difference.interval, it.decimals, sign=True)})"
        for task in analysis.tasks
        for it in side_effects(analysis, task)
        if it.gold and it.difference.verdict == "worse"
    ]
    if not losses:
        return "by the other gold scorers no method is shown to be worse than the base by more than the margin."
    return f"by the other gold scorers these are worse than the base: {_listed(losses)}."


def _hacking(analysis: Analysis) -> str:
    """Where a proxy rises while gold falls; empty where none is shown to."""
    gains = [gain for task in analysis.tasks for gain in proxy_gains(analysis, task)]
    named = [
        f"{gain.method} on {gain.task} ({gain.proxy} against {gain.gold})"
        for gain in gains
        if gain.words.startswith("reward hacking")
    ]
    return f"a proxy rises while gold falls for {_listed(named)}." if named else ""


def _undecided(analysis: Analysis) -> str:
    """Of the comparisons under the headline scorers, which are undecided, and what would have been seen."""
    count, undecided, parts = 0, 0, []
    for task in analysis.tasks:
        scorer, names, seen = analysis.primary(task), [], []
        for method in analysis.methods(task):
            row = analysis.row(task, method, scorer)
            for found in row.differences.values() if row else ():
                count += 1
                if found.verdict.startswith("undecided"):
                    names.append(f"{marked(analysis, task, method)} minus {found.baseline}")
                    seen += [found.detectable] if found.detectable == found.detectable else []
        if names:
            undecided += len(names)
            parts.append(f"{task}: {_listed(names)}{_visible(seen, scorer_decimals(analysis, task, scorer))}")
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


def _listed(items: Iterable[str], last: str = " and ") -> str:
    """`a, b and c`."""
    *first, final = [*items] or [""]
    return f"{', '.join(first)}{last}{final}" if first else final
