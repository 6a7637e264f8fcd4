"""Puts a forecast together: cells, steps and cost of each method, memory, disk, and hours on a card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import registry
from bench.api import ConfigError
from bench.config.settings import BASE, Experiment, StageSettings
from bench.config.task import Task
from bench.models.flops import PassFlops
from bench.models.loading import ENCODERS
from bench.preflight.forecast.cards import Card
from bench.preflight.forecast.encodings import EncodingForecast
from bench.preflight.forecast.memory import Memory, Parts, Scales
from bench.preflight.forecast.plan import Plan, StagePlan, counted
from bench.preflight.forecast.scorers import held_by_scorers
from bench.preflight.forecast.shapes import Shapes, is_here
from bench.preflight.forecast.sharding import shared
from bench.preflight.forecast.spending import Spending, spending
from bench.training.checkpoint import KEEP

UTILISATION = 0.4  # of the peak; well-run training of transformers of this size reaches 0.3 to 0.5
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class StageForecast:
    """One stage: its settings, the FLOPs of its passes, what it spends, and its memory."""

    settings: StageSettings
    passes: PassFlops
    spending: Spending
    memory: Memory
    trained: int


@dataclass(frozen=True)
class Forecast:
    """What an experiment would take. Stages by method; bytes in main memory and on disk by part.

    cards: how many train each cell together. unknown: scorers whose memory is left out.
    """

    experiment: Experiment
    plan: Plan
    stages: dict[str, tuple[StageForecast, ...]]
    host: Parts
    disk: Parts
    fetched: float
    unknown: tuple[str, ...]
    cards: int = 1

    @property
    def most(self) -> float:
        """Bytes of a card's memory that some phase needs."""
        return max(stage.memory.most for stages in self.stages.values() for stage in stages)

    def on(self, card: Card, utilisation: float) -> Plan:
        """The plan with the times of cards that reach a share of their peak."""
        utilisation *= self.cards
        precision = self.experiment.train.precision
        plans: dict[str, tuple[StagePlan, ...]] = {}
        for label, stages in self.stages.items():
            budgets = self.experiment.budgets(label)
            timed = []
            for stage, budget in zip(stages, budgets, strict=True):
                rate = card.peak(stage.settings.train.precision) * utilisation
                amounts = {**stage.spending.by_update, "seconds": stage.spending.computed / rate}
                timed.append(StagePlan(stage.settings.name, budget, amounts))
            plans[label] = tuple(timed)
        one = next(iter(self.stages.values()))[0].passes.reference
        return replace(self.plan, stages=plans, rate=card.peak(precision) * utilisation / one)

    def seconds(self, plan: Plan) -> float:
        """Of all cells one after another."""
        tasks, seeds = len(self.experiment.tasks), len(self.experiment.seeds)
        return tasks * (plan.cell_seconds(BASE) + seeds * sum(map(plan.cell_seconds, plan.stages)))


def forecast(experiment: Experiment, results: Path, cards: int = 1) -> Forecast:
    """What an experiment would take, each cell trained by so many cards; the model need not be here.

    Raises:
        ConfigError, DataError: the model's numbers are not known; a method fails; one card is to share.
    """
    if experiment.shard and cards == 1:
        raise ConfigError("--shard true shares weights out over several cards: say over how many by --cards N")
    shapes = Shapes.of(experiment)
    scorers, unknown = held_by_scorers(experiment, cards)
    scales = Scales(experiment, shapes, scorers)
    known: dict[str, tuple[int, PassFlops]] = {}
    stages: dict[str, tuple[StageForecast, ...]] = {}
    for chain in experiment.methods:
        found = []
        for settings in chain.stages:
            train = settings.train
            key = f"{train.adaptation} {train.lora_rank} {train.lora_targets}"
            if key not in known:
                known[key] = shapes.trained(train)
            trained, passes = known[key]
            spent = spending(settings, shapes, passes)
            reference = registry.load_method(settings.source).needs.reference
            weighed = scales.memory(train, trained, reference=reference, rollouts=spent.rollouts / cards)
            weighed = shared(weighed, shapes, cards) if experiment.shard else weighed
            found.append(StageForecast(settings, passes, spent, weighed, trained))
        stages[chain.label] = tuple(found)
    halves = 2 * shapes.numbers_of("transformer", "vae", *ENCODERS)
    return Forecast(
        experiment=experiment,
        plan=counted(experiment, results),
        stages=stages,
        host=_host(experiment, shapes),
        disk=_disk(experiment, shapes, stages),
        unknown=unknown,
        fetched=0.0 if experiment.weights == "random" or is_here(experiment.model) else halves,
        cards=cards,
    )


def _pictures(experiment: Experiment, task: Task) -> int:
    """Pictures that supervised methods train on in a task, at most."""
    there = task.candidates
    if experiment.data is not None and experiment.data.found is not None:
        there = min(there, experiment.data.found.training)
    return math.ceil(task.top_share * there)


def _host(experiment: Experiment, shapes: Shapes) -> Parts:
    """Bytes of main memory that one worker needs, at most: tasks with fewer pictures and prompts need less."""
    loading: Parts = {"while the model is loaded": shapes.bytes_of("transformer", "vae", *ENCODERS)}
    cached = experiment.weights == "stored" and experiment.cache_gib
    parked: Parts = {
        "text encoders, while they encode" if cached else "parked text encoders":
        shapes.bytes_of(*ENCODERS) if experiment.runtime.park_encoders else 0
    }  # fmt: skip
    most = max((encodings(experiment, shapes, [task]) for task in experiment.tasks), key=lambda needed: needed.size)
    return loading | most.held() | parked


def encodings(experiment: Experiment, shapes: Shapes, tasks: Sequence[Task]) -> EncodingForecast:
    """What has to be encoded for some tasks, at most: what they have in common counts once for each of them."""
    evaluation = experiment.evaluation
    pictures = [_pictures(experiment, task) for task in tasks]
    texts = sum(pictures) + sum(task.train_prompts for task in tasks)
    texts += evaluation.final_prompts + evaluation.held_out_prompts
    texts += sum(one.found.chosen for one in evaluation.prompt_sets.values() if one.found)
    return EncodingForecast(
        texts=texts, pictures=sum(pictures),
        text_bytes=texts * shapes.text_numbers * _BYTES[experiment.runtime.frozen_weights],
        picture_bytes=sum(pictures) * _latent_bytes(shapes),
        limit=experiment.cache_gib * 2**30 if experiment.weights == "stored" else 0.0,
    )  # fmt: skip


def _disk(experiment: Experiment, shapes: Shapes, stages: dict[str, tuple[StageForecast, ...]]) -> Parts:
    """Bytes on disk: of checkpoints while cells run, and of what stays."""
    cells = len(experiment.tasks) * len(experiment.seeds)
    running = [s for found in stages.values() for s in found]
    # weights, two moments, the average; and one more checkpoint while it is written
    sizes = [4 * s.trained * (4 if s.settings.train.ema_half_life else 3) + s.spending.rollouts for s in running]
    whole = shapes.numbers_of("transformer")
    lora = sum(4 * f[0].trained for f in stages.values() if len(f) == 1 and f[0].settings.train.adaptation == "lora")
    pictures = shapes.latent[1] * shapes.latent[2] * 64 * 3 * experiment.evaluation.pictures
    return {
        f"checkpoints, cells at work: {experiment.workers}": (KEEP + 1) * max(sizes) * experiment.workers,
        f"final models, cells: {cells * len(stages)}": 4 * whole * cells * len(stages),
        "the base's own": shapes.bytes_of("transformer") * len(experiment.tasks),
        "final adapters": lora * cells,
        "cache of latents and texts": encodings(experiment, shapes, experiment.tasks).on_disk,
        "sheets of pictures, at most": pictures * (cells * len(stages) + len(experiment.tasks)),
    }


def _latent_bytes(shapes: Shapes) -> int:
    """Mean and deviation of one picture's latent, float32."""
    channels, height, width = shapes.latent
    return 2 * 4 * channels * height * width
