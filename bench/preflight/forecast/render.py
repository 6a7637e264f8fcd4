"""Plans in words and tables: measured ones, and forecasts for a card."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from bench.config.load import lora_preset
from bench.config.settings import BASE, Experiment
from bench.preflight.forecast.plan import ExperimentPlan

if TYPE_CHECKING:
    from bench.preflight.forecast.cards import Card
    from bench.preflight.forecast.forecast import ExperimentForecast, StageForecast


_WIDTH = 80  # of a terminal


def _wrapped(lines: list[str]) -> str:
    """Lines of any length, which go on in lines of their own with two more spaces before them."""
    found: list[str] = []
    for line in "\n".join(lines).split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        found += textwrap.wrap(
            line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        ) or [""]
    return "\n".join(found)


def render_plan(experiment: Experiment, plan: ExperimentPlan) -> str:
    """A measured plan."""
    lines = [*_head(experiment, plan), *_methods(plan)]
    seconds = sum(plan.cell_seconds(label) for label in plan.stages) * len(experiment.tasks) * len(experiment.seeds)
    seconds = (seconds + plan.cell_seconds(BASE) * len(experiment.tasks)) / experiment.workers
    where = "documented for the embedded base: --again measures here"
    if plan.measured:
        where = f"measured on this machine {f'{plan.when}, --again does it anew' if plan.when else 'now'}"
    if plan.stages:
        lines.append(
            f"\nabout {_duration(seconds)} with {experiment.workers} workers, if each has a core of its own and "
            f"nothing is done yet\n({plan.rate:,.0f} forward passes/s a worker, {where})"
        )
    return _wrapped(lines)


def _head(experiment: Experiment, plan: ExperimentPlan) -> list[str]:
    tasks, seeds = [task.name for task in experiment.tasks], len(experiment.seeds)
    return [
        f"{experiment.name}: {len(tasks)} tasks ({', '.join(tasks)}) x {len(experiment.methods)} methods x {seeds} "
        f"seeds, and the base once a task: {plan.cells} cells, {plan.done} of them done",
        f"budget of every method: {experiment.budget}; evaluation, never charged: "
        f"{plan.evaluation_passes:,} passes a cell",
        *_guidance(experiment),
    ]


def _guidance(experiment: Experiment) -> list[str]:
    """A line where methods train with another guidance scale than evaluation samples with."""
    judged = experiment.evaluation.guidance
    others = {
        stage.name: stage.config.guidance
        for chain in experiment.methods
        for stage in chain.stages
        if getattr(stage.config, "guidance", judged) != judged
    }
    if not others:
        return []
    trained = ", ".join(f"{name} {scale:g}" for name, scale in others.items())
    return [f"guidance scale: {judged:g} in evaluation, another one in training: {trained}"]


def _methods(plan: ExperimentPlan) -> list[str]:
    """A row for each stage of each method; empty where there is none."""
    if not plan.stages:
        return []
    lines = ["", f"{'method':<24}{'updates':>9}{'cost':>13}{'FLOPs':>11}{'pictures':>11}{'a cell':>9}"]
    few = []
    for label, stages in plan.stages.items():
        for stage in stages:
            name = label if len(stages) == 1 else f"{label}: {stage.name}"
            few += [name] * (stage.updates < 50)
            lines += [name] * (len(name) > 23)
            lines.append(
                f"{name if len(name) <= 23 else '':<24}{stage.updates:>9,}{stage.total('cost'):>13,.0f}"
                f"{stage.total('flops'):>11.2e}{stage.total('images'):>11,.0f}"
                f"{_duration(plan.cell_seconds(label)):>9}"
            )
    return [*lines, *([f"fewer than 50 updates: {', '.join(few)}"] if few else [])]


def render_forecast(found: ExperimentForecast, cards: list[Card], utilisation: float) -> str:
    """A forecast, with the times of each of the cards; the methods' own are those of the first."""
    first, experiment = cards[0], found.experiment
    plan = found.plan_for(first, utilisation)
    lines = [*_head(experiment, plan)]
    lines += _methods(plan)
    lines.append(f"(a cell on {_number(found.cards)} {first.title}, evaluation and start included)")
    lines += _memory(found)
    lines += _sizes("main memory of a worker, at most", found.host)
    disk = {**found.disk, "in all": sum(found.disk.values())}
    lines += _sizes("disk, at most", disk)
    if found.fetched:
        lines.append(f"\nto be fetched once: about {_size(found.fetched)}, weights of 16 bits")
    lines += _cards(found, cards, utilisation)
    return _wrapped([*lines, "", _NOT_COUNTED, *_unknown(found)])


_NOT_COUNTED = """\
Computed from shapes; nothing was measured. Hours are FLOPs over the card's peak
times an assumed utilisation; what gradient checkpointing computes again is in
the hours, not in the cost. Left out: the passes of reward models, in hours and
memory; curation; decoding in evaluation; kernels' workspaces; what
torch.compile saves."""


def _unknown(found: ExperimentForecast) -> list[str]:
    """A line where there are scorers whose memory is left out too."""
    if found.experiment.reward_server is not None:
        return ["The memory of scorers is left out, as if the reward server had all without settings of their own."]
    return [f"The memory of {', '.join(found.unknown)} is left out: no `held` says how much it is."] * bool(
        found.unknown
    )


def _memory(found: ExperimentForecast) -> list[str]:
    """Memory by part, a column for each stage, and below one another what is too wide for the terminal."""
    tables: list[list[tuple[str, StageForecast]]] = [[]]
    room = _WIDTH - 28
    for column in [(label, stage) for label, stages in found.stages.items() for stage in stages]:
        width = max(10, len(_name(*column)) + 2)
        if tables[-1] and width > room:
            tables.append([])
            room = _WIDTH - 28
        room -= width
        tables[-1].append(column)
    return [line for columns in tables for line in _memory_table(columns)]


def _memory_table(columns: list[tuple[str, StageForecast]]) -> list[str]:
    widths = [max(10, len(_name(*column)) + 2) for column in columns]
    head = "".join(f"{_name(*column):>{width}}" for column, width in zip(columns, widths, strict=True))
    lines = ["", f"{'memory of the card':<28}{head}"]

    def row(name: str, values: list[float | None]) -> str:
        cells = ["-" if value is None else _size(value) for value in values]
        return f"{name:<28}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    memories = [stage.memory for _, stage in columns]
    for part in dict.fromkeys(name for memory in memories for name in memory.resident):
        if any(memory.resident[part] for memory in memories):
            lines.append(row(f"  {part}", [memory.resident[part] or None for memory in memories]))
    extras = dict.fromkeys((phase, part) for m in memories for phase, parts in m.phases.items() for part in parts)
    parts = dict.fromkeys(part for _, part in extras)
    for part in parts:
        values = [max((p.get(part, 0.0) for p in m.phases.values()), default=0.0) for m in memories]
        if any(values):
            lines.append(row(f"  {part}", [value or None for value in values]))
    for phase in dict.fromkeys(phase for memory in memories for phase in memory.phases):
        lines.append(row(f"at once: {phase}", [m.total(phase) if phase in m.phases else None for m in memories]))
    return lines


def _name(label: str, stage: StageForecast) -> str:
    return label if "+" not in label else f"{label}: {stage.settings.name}"


def _sizes(title: str, parts: dict[str, float]) -> list[str]:
    return ["", title, *(f"  {name:<32}{_size(value):>11}" for name, value in parts.items() if value)]


def _cards(found: ExperimentForecast, cards: list[Card], utilisation: float) -> list[str]:
    several = "One card at" if found.cards == 1 else f"{found.cards} cards, each at"
    lines = ["", f"{several} {utilisation:g} of its dense peak (TFLOP/s), all cells one after another"]
    lines.append(f"{'card':<12}{'GiB':>5}{'peak':>7}{'all cells':>11}")
    for card in cards:
        plan = found.plan_for(card, utilisation)
        peak = card.peak(found.experiment.train.precision) / 1e12
        fits = _fits(found, card)
        lines.append(f"{card.title:<12}{card.gib:>5g}{peak:>7,.0f}{_duration(found.seconds(plan)):>11}  {fits[0]}")
        lines += [f"{'':<14}{line}" for line in fits[1:]]
    return lines


def _fits(found: ExperimentForecast, card: Card) -> list[str]:
    """Whether every stage fits; of those that do not, the phase, and what would help."""
    short = []
    for label, stages in found.stages.items():
        for stage in stages:
            memory = stage.memory
            if memory.most > card.usable:
                need = f"{_name(label, stage)} needs {_size(memory.most)} ({memory.fullest})"
                short.append((need, memory.mends(stage.settings.train, found.experiment.runtime)[:3]))
    if not short:
        return [f"fits: at most {_size(found.most)} of {_size(card.usable)}"]
    lines = [f"does not fit: {_size(card.usable)} are usable"]
    other = lora_preset(found.experiment.model)
    if other and any(stage.settings.train.adaptation == "full" for stages in found.stages.values() for stage in stages):
        lines.append(f"try --preset {other}, where all train adapters")
    for need, mends in short:
        lines += [need, *(f"  try {mend}" for mend in mends)]
    return lines


def _number(count: int) -> str:
    return "one" if count == 1 else str(count)


def _size(size: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= 0.1 * scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 2**10:,.0f} KiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"
