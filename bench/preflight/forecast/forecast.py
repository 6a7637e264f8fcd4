"""What an experiment would take: cells, updates and cost of each method, memory, disk, and hours on a card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import registry
from bench.api import ConfigError
from bench.config.settings import BASE, Experiment, StageSettings
from bench.config.task import Task
from bench.hub import is_model_here
from bench.models.encoding_cache.cached_encoder import HELD_BYTES
from bench.models.flops import PassFlops
from bench.preflight.forecast.cards import Card
from bench.preflight.forecast.memory import (
    BytesByPart,
    StageMemory,
    StageMemoryForecaster,
    scorer_bytes,
    sharded_memory,
)
from bench.preflight.forecast.plan import ExperimentPlan, StagePlan, count_cells
from bench.preflight.forecast.shapes import ModelShapes
from bench.preflight.forecast.spending import UpdateSpending, forecast_spending
from bench.training.checkpoint import KEEP

UTILISATION = 0.4  # of the peak; well-run training of transformers of this size reaches 0.3 to 0.5
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class StageForecast:
    """One stage: its settings, the FLOPs of its passes, what it spends, and its memory."""

    settings: StageSettings
    passes: PassFlops
    spending: UpdateSpending
    memory: StageMemory
    trained: int


@dataclass(frozen=True)
class ExperimentForecast:
    """What an experiment would take. Stages by method; bytes in main memory and on disk by part.

    cards: how many train each cell together. unknown: scorers whose memory is left out.
    """

    experiment: Experiment
    plan: ExperimentPlan
    stages: dict[str, tuple[StageForecast, ...]]
    host: BytesByPart
    disk: BytesByPart
    fetched: float
    unknown: tuple[str, ...]
    cards: int = 1

    @property
    def most(self) -> float:
        """Bytes of a card's memory that some phase needs."""
        return max(stage.memory.most for stages in self.stages.values() for stage in stages)

    def plan_for(self, card: Card, utilisation: float) -> ExperimentPlan:
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

    def seconds(self, plan: ExperimentPlan) -> float:
        """Of all cells one after another."""
        tasks, seeds = len(self.experiment.tasks), len(self.experiment.seeds)
        return tasks * (plan.cell_seconds(BASE) + seeds * sum(map(plan.cell_seconds, plan.stages)))


def forecast_experiment(experiment: Experiment, results: Path, cards: int = 1) -> ExperimentForecast:
    """What an experiment would take, each cell trained by so many cards; the model need not be here.

    Raises:
        ConfigError, DataError: the model's numbers are not known; a method fails; one card is to share.
    """
    if experiment.shard and cards == 1:
        raise ConfigError("--shard true shares weights out over several cards: say over how many by --cards N")
    shapes = ModelShapes.of(experiment)
    scorers, unknown = scorer_bytes(experiment, cards)
    memories = StageMemoryForecaster(experiment, shapes, scorers)
    known: dict[str, tuple[int, PassFlops]] = {}
    stages: dict[str, tuple[StageForecast, ...]] = {}
    for chain in experiment.methods:
        found = []
        for settings in chain.stages:
            train = settings.train
            key = f"{train.adaptation} {train.lora_rank} {train.lora_targets}"
            if key not in known:
                known[key] = shapes.trained_weights_and_flops(train)
            trained, passes = known[key]
            spent = forecast_spending(settings, shapes, passes)
            needs = registry.load_method(settings.source).needs
            memory = memories.of_stage(train, trained, needs, rollouts=spent.rollouts / cards, largest=spent.largest)
            memory = sharded_memory(memory, shapes, cards) if experiment.shard else memory
            found.append(StageForecast(settings, passes, spent, memory, trained))
        stages[chain.label] = tuple(found)
    halves = 2 * shapes.numbers_of("transformer", "vae", *shapes.family.encoders)
    return ExperimentForecast(
        experiment=experiment,
        plan=count_cells(experiment, results),
        stages=stages,
        host=_host(experiment, shapes),
        disk=_disk(experiment, shapes, stages),
        unknown=unknown,
        fetched=0.0 if experiment.weights == "random" or is_model_here(experiment.model) else halves,
        cards=cards,
    )


@dataclass(frozen=True)
class EncodingForecast:
    """How many texts and pictures have to be encoded, their bytes, and how many of these the cache may take."""

    texts: int
    pictures: int
    text_bytes: float
    picture_bytes: float
    limit: float

    @property
    def size(self) -> float:
        """Bytes of all."""
        return self.text_bytes + self.picture_bytes

    @property
    def on_disk(self) -> float:
        """Bytes that the cache takes."""
        return min(self.size, self.limit)

    def held(self) -> BytesByPart:
        """Bytes in the memory of a worker: those used last of what lies on disk, and all that does not."""
        if not self.limit:
            return {
                f"embeddings of {self.texts:,} texts": self.text_bytes,
                f"latents of {self.pictures:,} pictures": self.picture_bytes,
            }
        return {
            f"of embeddings of {self.texts:,} texts": min(self.text_bytes, HELD_BYTES),
            f"of latents of {self.pictures:,} pictures": min(self.picture_bytes, HELD_BYTES),
            "what is over --cache-gib": max(0.0, self.size - self.limit),
        }


def _pictures(experiment: Experiment, task: Task) -> int:
    """Pictures that supervised methods train on in a task, at most."""
    there = task.candidates
    if experiment.data is not None and experiment.data.found is not None:
        there = min(there, experiment.data.found.training)
    needs = [stage.build().needs for chain in experiment.methods for stage in chain.stages]
    single = math.ceil((1.0 if any(each.unselected for each in needs) else task.top_share) * there)
    if not any(each.pairs for each in needs):
        return single
    found = experiment.data.found if experiment.data is not None else None
    return single + min(task.candidates, 2 * found.pairs if found else task.candidates)


def _host(experiment: Experiment, shapes: ModelShapes) -> BytesByPart:
    """Bytes of main memory that one worker needs, at most: tasks with fewer pictures and prompts need less."""
    loading: BytesByPart = {"while the model is loaded": shapes.bytes_of("transformer", "vae", *shapes.family.encoders)}
    cached = experiment.weights == "stored" and experiment.cache_gib
    parked: BytesByPart = {
        "text encoders, while they encode" if cached else "parked text encoders":
        shapes.bytes_of(*shapes.family.encoders) if experiment.runtime.park_encoders else 0
    }  # fmt: skip
    most = max(
        (forecast_encodings(experiment, shapes, [task]) for task in experiment.tasks), key=lambda needed: needed.size
    )
    return loading | most.held() | parked


def forecast_encodings(experiment: Experiment, shapes: ModelShapes, tasks: Sequence[Task]) -> EncodingForecast:
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


def _disk(experiment: Experiment, shapes: ModelShapes, stages: dict[str, tuple[StageForecast, ...]]) -> BytesByPart:
    """Bytes on disk: of checkpoints while cells run, and of what stays."""
    cells = len(experiment.tasks) * len(experiment.seeds)
    running = [s for found in stages.values() for s in found]
    # weights, two moments, the average and the old policy; and one more checkpoint while it is written
    sizes = [
        4 * s.trained * (3 + bool(s.settings.train.ema_half_life) + registry.load_method(s.settings.source).needs.old)
        + s.spending.rollouts
        for s in running
    ]
    whole = shapes.numbers_of("transformer")
    lora = sum(4 * f[0].trained for f in stages.values() if len(f) == 1 and f[0].settings.train.adaptation == "lora")
    pictures = shapes.latent[1] * shapes.latent[2] * shapes.family.pixels**2 * 3 * experiment.evaluation.pictures
    return {
        f"checkpoints, cells at work: {experiment.workers}": (KEEP + 1) * max(sizes) * experiment.workers,
        f"final models, cells: {cells * len(stages)}": 4 * whole * cells * len(stages),
        "the base's own": shapes.bytes_of("transformer") * len(experiment.tasks),
        "final adapters": lora * cells,
        "cache of latents and texts": forecast_encodings(experiment, shapes, experiment.tasks).on_disk,
        "sheets of pictures, at most": pictures * (cells * len(stages) + len(experiment.tasks)),
    }


def _latent_bytes(shapes: ModelShapes) -> int:
    """Mean and deviation of one picture's latent, float32."""
    channels, height, width = shapes.latent
    return 2 * 4 * channels * height * width
