"""The typed, frozen settings of an experiment, complete: every default written out. `experiment` reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, PlainSerializer, PlainValidator, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from bench import registry
from bench.api import ConfigError, Effect, Method, Option
from bench.budget import Budget
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.config.prompt_set import PromptSet
from bench.config.scorer_process import ScorerProcess
from bench.config.search import Search
from bench.config.task import Task
from bench.parsing import Problems, option_effects, validate, without_later
from bench.paths import portable_values
from bench.plugin_errors import plugin_errors
from bench.registry import BASE

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

MOST = 1_000_000  # prompts, samples and the like: far above any use, and far below what hangs or overflows
MOST_SEEDS = 1000
Positive = Annotated[int, Option("", ge=1, le=10_000)]
Scale = Annotated[float, Option("", ge=0, le=1000)]


@dataclass(frozen=True, config=_STRICT)
class Train:
    """Settings of training that all methods share, so that a difference between methods is none between optimisers."""

    batch_size: Annotated[int, Option("samples of one optimiser update", ge=1, le=MOST)] = 32
    micro_batch: Annotated[int, Option("at most this many samples in one pass (memory)", ge=1, le=2**31 - 1)] = 32
    learning_rate: Annotated[float, Option("AdamW's, constant after the warm-up", gt=0, le=100)] = 1e-4
    weight_decay: Annotated[float, Option("AdamW's decoupled weight decay", ge=0, le=100)] = 1e-2
    betas: Annotated[
        tuple[Annotated[float, Option("", ge=0, lt=1)], Annotated[float, Option("", ge=0, lt=1)]],
        Option("AdamW's decay rates of both moments"),
    ] = (0.9, 0.999)
    clip_norm: Annotated[float, Option("largest norm of the gradient", ge=1e-6, le=1e12)] = 1.0
    warmup_updates: Annotated[int, Option("updates of linear warm-up of the learning rate", ge=0, le=10**9)] = 0
    caption_dropout: Annotated[float, Option("probability of the empty caption", ge=0, lt=1)] = 0.0
    ema_half_life: Annotated[
        float, Option("half-life of the averaged weights, as a share of the budget; 0: no averaging", ge=0, le=1)
    ] = 0.0
    precision: Annotated[Literal["float32", "bfloat16"], Option("of the denoiser's passes; weights stay float32")] = (
        "float32"
    )
    gradient_checkpointing: Annotated[
        bool, Option("compute activations again in the backward pass: less memory, the same gradient, not charged")
    ] = False
    adaptation: Annotated[Literal["full", "lora"], Option("train all weights, or low-rank updates")] = "full"
    lora_rank: Annotated[int, Option("rank of the updates", ge=1, le=65_536)] = 32
    lora_alpha: Annotated[int, Option("their scale is alpha / rank", ge=1, le=MOST)] = 64
    lora_targets: Annotated[tuple[str, ...], Option("modules that get updates, by the end of their names")] = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )


@dataclass(frozen=True, config=_STRICT)
class Runtime:
    """How the model is loaded and run: the same for every method, in training and in evaluation."""

    resolution: Annotated[
        int | None, Option("side of the pictures in pixels; null: the model's own", ge=8, le=16_384)
    ] = None
    t5: Annotated[bool, Option("load the T5 text encoder where the model has one")] = True
    text_length: Annotated[
        int | None,
        Option(
            "tokens that are read of every text, in SD3 by T5; null: the family's own (SD3: 256, 0 without T5)",
            ge=0,
            le=16_384,
        ),
    ] = None
    embedded_guidance: Annotated[
        float | None,
        Option(
            "guidance scale that the denoiser takes as an input, where it does; null: 3.5", ge=0, le=1000, before=None
        ),
    ] = None
    denoiser_weights: Annotated[
        Literal["float32", "bfloat16"],
        Option("how the denoiser's weights are held; bfloat16 only where all methods train LoRA adapters"),
    ] = "float32"
    frozen_weights: Annotated[
        Literal["float32", "bfloat16", "float16"], Option("how the weights of VAE and text encoders are held")
    ] = "float32"
    park_encoders: Annotated[
        bool, Option("text encoders leave the device while none is needed; main memory too, where there is a cache")
    ] = False
    attention: Annotated[
        Literal["auto", "math", "flash", "efficient", "cudnn"], Option("torch's kernel of the denoiser's attention")
    ] = "auto"
    compile: Annotated[bool, Option("compile the blocks of the denoiser by torch.compile")] = False

    def identity(self) -> dict[str, Any]:
        """What numbers depend on, JSON-able."""
        return without_later(Runtime, _plain(self))


@dataclass(frozen=True, config=_STRICT)
class Evaluation:
    """How every method is judged: the same prompts, the same initial noise, never charged to the budget."""

    split: Annotated[Literal["report", "tune"], Option("prompt set; tune on `tune` only")] = "report"
    milestones: Annotated[
        tuple[Annotated[float, Option("", gt=0, le=1)], ...],
        Option("shares of the budget to evaluate at, rising, the last one 1", min_length=1),
    ] = (0.25, 0.5, 0.75, 1.0)
    milestone_prompts: Annotated[int, Option("prompts at every milestone but the last", ge=1, le=MOST)] = 256
    final_prompts: Annotated[int, Option("prompts at the end", ge=1, le=MOST)] = 1024
    held_out_prompts: Annotated[int, Option("prompts of unseen combinations at the end", ge=0, le=MOST)] = 128
    guidance: Annotated[float, Option("guidance scale of all but the grid", ge=0, le=1000)] = 3.0
    steps: Annotated[int, Option("sampling steps of all but the grid", ge=1, le=10_000)] = 20
    grid_guidance: Annotated[tuple[Scale, ...], Option("guidance scales of the grid; [] is no grid")] = (1.0, 3.0, 5.0)
    grid_steps: Annotated[tuple[Positive, ...], Option("sampling steps of the grid; [] is no grid")] = (5, 10, 20)
    grid_prompts: Annotated[int, Option("prompts of the grid", ge=1, le=MOST)] = 128
    diversity_prompts: Annotated[int, Option("prompts of the diversity measure; 0: none", ge=0, le=MOST)] = 32
    diversity_samples: Annotated[int, Option("samples of each of these prompts", ge=2, le=10_000)] = 4
    drift_states: Annotated[int, Option("fixed states of the drift from the base; 0: none", ge=0, le=MOST)] = 128
    pictures: Annotated[int, Option("prompts in the sample grid", ge=1, le=10_000)] = 12
    batch_size: Annotated[int, Option("samples at once (memory and speed)", ge=1, le=MOST)] = 32
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        Option("of the denoiser's passes in sampling; null: as in training (see bench doctor --tune)", before=None),
    ] = None
    prompt_sets: Annotated[
        dict[str, PromptSet],
        Option("NAME: PATH of prompts that judge at the end, beside the world's own (bench list prompt_set)"),
    ] = field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        if list(self.milestones) != sorted(set(self.milestones)) or self.milestones[-1] != 1.0:
            raise ValueError(f"milestones have to rise and end with 1.0, got {list(self.milestones)}")
        if self.split == "tune" and self.prompt_sets:
            raise ValueError(
                f"split tune: no tuning may see the prompts that are reported ({', '.join(self.prompt_sets)}): leave "
                "each out by --evaluation.prompt_sets.NAME null"
            )
        for name in ("milestone_prompts", "grid_prompts", "pictures"):
            if getattr(self, name) > self.final_prompts:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) has to be at most final_prompts ({self.final_prompts})"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """What numbers depend on, JSON-able: prompt sets by what they hold, not by where they lie."""
        values = without_later(Evaluation, _plain(self))
        del values["prompt_sets"]
        sets = {name: one.identity() for name, one in self.prompt_sets.items()}
        return values | ({"prompt_sets": sets} if sets else {})

    @property
    def set_scorers(self) -> tuple[str, ...]:
        """The scorers that judge a prompt set, each once."""
        return tuple(dict.fromkeys(name for one in self.prompt_sets.values() for name in one.scorers))


@dataclass(frozen=True, config=_STRICT)
class StageSettings:
    """One method within a chain: `name` for tables, `source` for the registry, its own settings, and training's.

    config: the method's `Config`; plain values where they come from a file or another process, which `build` validates.
    """

    name: str
    source: str
    config: Any
    train: Train

    def __reduce__(self) -> tuple[Any, ...]:
        """As plain values: another process may not have imported the plugin yet."""
        return StageSettings, (self.name, self.source, _plain(self)["config"], self.train)

    def recorded(self) -> dict[str, Any]:
        """As a cell records it, JSON-able; raises as `build` does."""
        plain = _plain(self)
        return plain | {"config": without_later(type(self.typed().config), plain["config"])}

    def build(self) -> Method:
        """The configured method; imports its plugin.

        Raises:
            ConfigError, PluginError: the plugin is gone, broken, or has other settings than when this was resolved.
        """
        return configured(registry.load_method(self.source), self.typed().config)

    def typed(self) -> StageSettings:
        """The same with a `Config`; raises as `build` does."""
        method = registry.load_method(self.source)
        if isinstance(self.config, method.Config):
            return self
        problems = Problems()
        config = validate(method.Config, self.config, self.name, problems)
        problems.raise_if_any(f"settings of method {self.name}")
        return dataclasses.replace(self, config=config)


def configured(method: type[Method], config: Any) -> Method:
    """The method with these settings; raises ConfigError where it refuses them, PluginError where it fails."""
    with plugin_errors(f"method {method.name!r} in __init__()", method):
        return method(config)


@dataclass(frozen=True, config=_STRICT)
class Chain:
    """What one row of the tables stands for: one method, or several in turn (`soar+flowgrpo`)."""

    label: str
    stages: tuple[StageSettings, ...]


def _budget(value: object) -> Budget:
    """A budget, of what the user gave."""
    if isinstance(value, Budget):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected an amount like 200k or 500updates, got {value!r}")
    try:
        return Budget.parse(str(value))
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("budget ")) from error


def _split(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
    if isinstance(value, tuple) and (not value or abs(sum(value) - 1) > 1e-9):
        raise ValueError(f"the shares of the stages have to sum to 1, got {list(value)}")
    return value


Share = Annotated[float, Option("", gt=0, lt=1)]


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """A complete comparison, every default written out: tasks x methods x seeds under one budget."""

    name: Annotated[
        str,
        Option(
            "folder of the results; another comparison needs another name",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            max_length=100,
            effect="report",
            metavar="NAME",
        ),
    ]
    tasks: Annotated[
        tuple[Task, ...], Option("tasks by name (bench list tasks)", min_length=1, effect="cell", metavar="A,B")
    ]
    methods: Annotated[
        tuple[Chain, ...],
        Option(
            "methods by name or file (path/to/file.py); a+b runs b after a, each on its share of the budget",
            min_length=1,
            effect="cell",
            metavar="A,B",
        ),
    ]
    budget: Annotated[
        Budget,
        Option(
            "of every method: 200k (forward-equivalents), 1e15flops, 10min, 500updates, 20kimages", metavar="AMOUNT"
        ),
        PlainValidator(_budget),
        PlainSerializer(lambda budget: budget.text),
    ]
    seeds: Annotated[
        tuple[Annotated[int, Option("", ge=0, le=2**32 - 1)], ...],
        Option(
            "number of seeds, or a list of them ([4] is the one seed 4)",
            min_length=1,
            max_length=MOST_SEEDS,
            effect="cell",
            metavar="N|A,B",
        ),
    ] = (0,)
    label: Annotated[
        str,
        Option(
            "words for the title of every table, e.g. demonstration", max_length=200, effect="report", metavar="TEXT"
        ),
    ] = ""
    question: Annotated[str, Option("what the experiment asks, in one sentence", max_length=2000, effect="report")] = ""
    world: Annotated[str, Option("where tasks and data come from")] = "scenes"
    model: Annotated[
        str | None,
        Option(
            "folder in the diffusers format, or hub id of a fetched model; null: the world's own", metavar="PATH|ID"
        ),
    ] = None
    data: Annotated[Data | None, Option("the user's own pictures, for the world `images`")] = None
    weights: Annotated[
        Literal["stored", "random"],
        Option(
            "the model's own; or random ones in its architecture, for a rehearsal without the model",
            metavar="stored|random",
        ),
    ] = "stored"
    device: Annotated[
        str,
        Option(
            "auto (CUDA where there is one), cpu, cuda or cuda:N",
            pattern=r"^(auto|cpu|cuda(:\d+)?)$",
            effect="run",
            metavar="DEVICE",
        ),
    ] = "auto"
    shard: Annotated[
        bool,
        Option(
            "share weights, gradients and optimiser's state out over the processes of torchrun",
            effect="run",
            metavar="true|false",
        ),
    ] = False
    split: Annotated[
        Share | tuple[Share, ...],
        Option(
            "share of the budget of a chain's first stage, the others share the rest; or a list of shares",
            metavar="SHARE",
        ),
        AfterValidator(_split),
    ] = 0.5
    baseline: Annotated[
        str,
        Option(
            "method that differences are taken to; where none is named, sft if it runs, else base, the model before "
            "training",
            effect="report",
            metavar="METHOD",
        ),
    ] = BASE
    runtime: Annotated[Runtime, Option("how the model is loaded and run")] = Runtime()
    train: Annotated[Train, Option("training, for all methods", effect="cell")] = Train()
    evaluation: Annotated[Evaluation, Option("evaluation, for all methods")] = Evaluation()
    tuning_trials: Annotated[
        int | None,
        Option(
            "tuning trials that each method was given, for the report; where nothing is said, as recorded before",
            ge=0,
            le=MOST,
            effect="report",
            metavar="N",
        ),
    ] = None
    search: Annotated[
        Search | None,
        Option("a block of trials and space, which tries each method under many settings; null: none", effect="report"),
    ] = None
    workers: Annotated[int, Option("cells that run at once", ge=1, le=1024, effect="run", metavar="N")] = 2
    threads: Annotated[int, Option("threads of each worker", ge=1, le=1024, metavar="N")] = 1
    cache_gib: Annotated[
        float,
        Option(
            "GiB of latents and text embeddings kept on disk, for all runs; the oldest go; 0: none is kept",
            ge=0,
            le=MOST,
            effect="run",
            metavar="GIB",
        ),
    ] = 50.0
    track: Annotated[
        Literal["tensorboard", "trackio", "wandb"] | None,
        Option(
            "tensorboard, trackio or wandb: write curves for it, in tracking/ beside the results; wandb's are offline "
            "unless WANDB_MODE is online; null: none",
            effect="run",
            metavar="TRACKER",
        ),
    ] = None
    scorers: Annotated[
        dict[str, ScorerProcess],
        Option("scorers that run in a process of their own, by name; the others in the worker's", effect="run"),
    ] = field(default_factory=dict)
    reward_server: Annotated[
        str | None,
        Option(
            "take the scorers that `bench serve-rewards` has there from it; the others run here; null: all run here",
            pattern=r"^https?://[^/\s@]+/?$",
            effect="run",
            metavar="URL",
        ),
    ] = None
    reward_seconds: Annotated[
        float | None,
        Option(
            "a call or load() of a reward that takes longer hangs, and its worker is ended; null: no limit",
            gt=0,
            le=MOST,
            effect="run",
            metavar="SECONDS",
        ),
    ] = 600.0

    def task(self, name: str) -> Task:
        """The task of this name; raises KeyError where the experiment has none."""
        return {task.name: task for task in self.tasks}[name]

    def stages(self, label: str) -> tuple[StageSettings, ...]:
        """The stages of the method of this label, in order; raises KeyError where the experiment has none."""
        return {chain.label: chain for chain in self.methods}[label].stages

    def budgets(self, label: str) -> tuple[Budget, ...]:
        """The budget of each stage of the method of this label; they sum to the whole."""
        whole, count = self.budget, len(self.stages(label))
        if count == 1:
            return (whole,)
        if isinstance(self.split, tuple):
            return tuple(whole.share(share) for share in self.split)
        rest = (1 - self.split) / (count - 1)
        return tuple(whole.share(share) for share in (self.split, *[rest] * (count - 1)))

    def resolved(self) -> dict[str, Any]:
        """Everything, JSON-able; `from_resolved` is the inverse."""
        return json.loads(TypeAdapter(Experiment).dump_json(self))

    @classmethod
    def from_resolved(cls, values: Mapping[str, Any]) -> Experiment:
        """The experiment that `resolved` described.

        Raises:
            ConfigError, PluginError: the values are not those of an experiment, or a method of it is gone or broken.
        """
        problems = Problems()
        experiment = validate(cls, values, "", problems)
        problems.raise_if_any("resolved experiment")
        assert experiment is not None
        chains = (Chain(chain.label, tuple(stage.typed() for stage in chain.stages)) for chain in experiment.methods)
        return dataclasses.replace(experiment, methods=tuple(chains))

    @property
    def config_hash(self) -> str:
        """16 hex digits that name what the numbers depend on: settings that decide no number are left out."""
        return config_hash(self._values("numbers", "cell"))

    @property
    def shared_config(self) -> dict[str, Any]:
        """What the numbers of all cells depend on, JSON-able; settings of single cells are left out."""
        return self._values("numbers")

    def _values(self, *effects: Effect) -> dict[str, Any]:
        """The settings of these effects, without absolute paths."""
        values = self.resolved() | {"evaluation": self.evaluation.identity(), "runtime": self.runtime.identity()}
        marks = option_effects(Experiment)
        kept = {name: values[name] for name in marks if marks[name] in effects and name != "data"} | self._pictures()
        return portable_values(kept)

    def cell_config(self, task: str, label: str) -> dict[str, Any]:
        """What the numbers of one cell depend on, its seed apart; `base` is the model before training.

        Adding a task, a method or a seed to an experiment leaves it as it is. Paths are as `bench.paths.portable` has
        them: what lies there is known by the hashes of the sources.
        """
        values: dict[str, Any] = {
            "world": self.world,
            "model": self.model,
            "weights": self.weights,
            "runtime": self.runtime.identity(),
            "threads": self.threads,
            "task": _plain(self.task(task)),
            "evaluation": self.evaluation.identity(),
            **self._pictures(),
        }
        if label == BASE:
            values["precision"] = self.train.precision
        else:
            values["stages"] = [stage.recorded() for stage in self.stages(label)]
            values["budgets"] = [str(budget) for budget in self.budgets(label)]
        return portable_values(values)

    def _pictures(self) -> dict[str, Any]:
        """What the user's pictures are, but not where they lie."""
        return {} if self.data is None else {"data": self.data.identity()}


def _plain(value: Any) -> dict[str, Any]:
    """A settings dataclass as JSON-able values."""
    return json.loads(TypeAdapter(type(value)).dump_json(value))
