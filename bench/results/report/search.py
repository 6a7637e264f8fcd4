"""What a search found on the tune prompts: trials best first, the best settings, and whether they lie at an edge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import yaml

from bench.config.search import Range, Search
from bench.results.figures import draw_sensitivity
from bench.results.report.figures import Figure, rounded
from bench.results.report.markdown import code, escape, fenced, markdown_table, score_decimals, signed
from bench.results.report.tables import label_of
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.trials import (
    Judged,
    TaskTrials,
    Trial,
    best_over_tasks,
    place_in_range,
    search_of,
    search_trials,
    searched_methods,
)

__all__ = ["search_figures", "search_section"]

RULE = (
    "All trials are judged on the tune prompts, which no reported number may use; the best of many is best by luck "
    "too, and what it truly gains only the report prompts tell. The rule of choice: the highest mean gain over the "
    "base in the task's headline scorer, each guidance scale with the same weight (the headline's on all its prompts, "
    "the others of the grid on theirs), in units of the scorer's margin. "
)
OVER = {
    True: "Over tasks: the highest mean of that over the tasks.",
    False: "A task states no margin: its gains are in the scorer's own unit, and over tasks the best mean rank counts.",
}
PLACES = {
    "inside": "inside",
    "lowest": "at the lower edge: widen the range for all methods",
    "highest": "at the upper edge: widen the range for all methods",
    None: "in no order",
}


def search_section(analysis: Analysis, image: Callable[[str], list[str]]) -> list[str]:
    """The search of a tuning experiment; nothing where none is recorded. `image` gives a figure by its name."""
    search = search_of(analysis)
    if search is None:
        return []
    tasks = search_trials(analysis, search)
    label = label_of(analysis)
    parts = [f"## The search{label}", RULE + OVER[_has_margins(tasks)]]
    if not all(one.judged for one in tasks):
        parts.append("The base has not finished in every task: there is nothing to gain over yet.")
    for method in searched_methods(analysis):
        parts.append(f"### {escape(method)}{label}")
        for one in tasks:
            parts += _trials_table(analysis, one, method, search)
        parts += [*image(f"search-{method}"), *_best_table(tasks, method, search)]
    return parts + _presets(analysis, tasks, label)


def search_figures(analysis: Analysis) -> list[Figure]:
    """Gain over each searched setting, one figure a method; none where no search is recorded."""
    search = search_of(analysis)
    if search is None:
        return []
    tasks = search_trials(analysis, search)
    found = [_figure(tasks, method, search) for method in searched_methods(analysis)]
    return [figure for figure in found if figure is not None]


def _figure(tasks: Sequence[TaskTrials], method: str, search: Search) -> Figure | None:
    trials = [
        {
            "task": one.task,
            "best": trial is one.methods[method][0],
            "gain": trial.value,
            "x": [_x(values, trial.settings[name]) for name, values in search.searched(method).items()],
        }
        for one in tasks
        for trial in one.methods[method]
    ]
    if not trials or not search.searched(method):
        return None
    unit = "mean gain over the base, " + ("in margins" if _has_margins(tasks) else "in margins where one is stated")
    settings = [
        {"name": name, "range": [values.low, values.high], "values": []}
        if isinstance(values, Range)
        else {"name": name, "range": None, "values": [_told(value) for value in values]}
        for name, values in search.searched(method).items()
    ]
    data = rounded({"tasks": [one.task for one in tasks], "unit": unit, "settings": settings, "trials": trials})
    caption = (
        "A marker is a trial, on the tune prompts; filled: the best of each task. Ranges are logarithmic. The line at "
        "0 is the base. A gain that rises to an edge asks for a wider range."
    )
    return Figure(f"search-{method}", f"Sensitivity of {method}", caption, data, partial(draw_sensitivity, data))


def _x(values: Range | list[Any], value: Any) -> float:
    """Where a value lies on the axis of its setting."""
    return float(value) if isinstance(values, Range) else float(values.index(value))


def _trials_table(analysis: Analysis, one: TaskTrials, method: str, search: Search) -> list[str]:
    """The trials of a method in a task, best first."""
    trials = one.methods[method]
    stated = f"margin {one.margin:g}" if one.margin else "no margin stated"
    said = (
        f"{escape(one.task)}: {len(trials)} of {search.trials} trials finished, best first; gains over the base in "
        f"{escape(one.scorer)} ({stated}), guidance scale w:"
    )
    if not trials:
        return [said]
    settings = list(search.searched(method))
    head = ["Trial", "Seeds", *map(code, settings), "Mean gain" + (", margins" if one.margin else "")]
    head += [_title(found) for found in one.judged]
    head += [f"{escape(name)} (reward), {_title(found)}" for name, found in one.rewards.items()]
    rows = []
    for trial in trials:
        cells = [escape(trial.label), str(trial.seeds), *(escape(_told(trial.settings[name])) for name in settings)]
        cells.append(_value(analysis, one, trial.value))
        cells += [signed(gain, _decimals(analysis, one.task, one.scorer)) for gain in trial.gains]
        cells += [signed(gain, _decimals(analysis, one.task, name)) for name, gain in trial.rewards.items()]
        rows.append(cells)
    return [said, markdown_table(head, rows)]


def _title(found: Judged) -> str:
    return f"w {found.guidance:g}, {found.steps} steps, {found.prompts:,} prompts"


def _best_table(tasks: Sequence[TaskTrials], method: str, search: Search) -> list[str]:
    """The settings of the best trials, and whether each lies at an edge of what was tried."""
    rows = []
    for of, trial in _best(tasks, method):
        for name, value in trial.settings.items():
            place = PLACES[place_in_range(search, method, name, value)]
            rows.append(
                [escape(of), escape(trial.label), code(name), escape(_told(value)), _tried(search, method, name), place]
            )
    head = ["Best in", "Trial", "Setting", "Value", "Searched", "Within what was tried"]
    return [markdown_table(head, rows)] if rows else []


def _best(tasks: Sequence[TaskTrials], method: str) -> list[tuple[str, Trial]]:
    """The best trial of each task, and over them where there are several, each with what it is best in."""
    found = [(one.task, one.methods[method][0]) for one in tasks if one.methods[method]]
    over = best_over_tasks(tasks, method) if len(tasks) > 1 else None
    return [*found, *([("all tasks", over[0])] if over else [])]


def _tried(search: Search, method: str, name: str) -> str:
    values = search.searched(method)[name]
    if isinstance(values, Range):
        return f"{values.low:g} to {values.high:g}, logarithmic"
    return escape(", ".join(map(_told, values)))


def _presets(analysis: Analysis, tasks: Sequence[TaskTrials], label: str) -> list[str]:
    """The best settings of all methods as blocks of a preset: over tasks, and of each task."""
    blocks: dict[str, list[str]] = {}
    for method in searched_methods(analysis):
        over = best_over_tasks(tasks, method)
        if over and len(tasks) > 1:
            told = f"{over[1]:+.2f} margins" if _has_margins(tasks) else f"mean rank {-over[1]:.2f}"
            blocks.setdefault("over all tasks", []).append(_block(method, over[0], told))
    for one in tasks:
        for method, trials in one.methods.items():
            if trials:
                told = _value(analysis, one, trials[0].value) + (" margins" if one.margin else "")
                blocks.setdefault(f"in {one.task} alone" if len(tasks) > 1 else f"in {one.task}", []).append(
                    _block(method, trials[0], told)
                )
    if not blocks:
        return []
    texts = [
        fenced(f"# best {of}, on the tune prompts\n" + "".join(found).rstrip(), "yaml") for of, found in blocks.items()
    ]
    return [f"### The best settings, for a preset{label}", *texts]


def _block(method: str, trial: Trial, told: str) -> str:
    """`sft: ...` in YAML, with a comment that names the trial."""
    nested: dict[str, Any] = {}
    for name, value in trial.settings.items():
        *above, last = name.split(".")
        level = nested
        for part in above:
            level = level.setdefault(part, {})
        level[last] = value
    return f"# {trial.label}: {told}\n{yaml.safe_dump({method: nested}, sort_keys=False, allow_unicode=True)}"


def _has_margins(tasks: Sequence[TaskTrials]) -> bool:
    return all(one.margin for one in tasks)


def _value(analysis: Analysis, one: TaskTrials, value: float) -> str:
    return signed(value, 2 if one.margin else _decimals(analysis, one.task, one.scorer))


def _decimals(analysis: Analysis, task: str, scorer: str) -> int:
    return score_decimals(analysis.info(scorer), analysis.margin(task, scorer))


def _told(value: Any) -> str:
    """A setting's value as JSON has it."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
