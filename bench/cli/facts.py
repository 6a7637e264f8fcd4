"""What there is to say of one method, one reward or one block of settings, for `bench list` and the documentation."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.setting import Setting, settings_in

if TYPE_CHECKING:
    from bench.api import Method, Reward

PRESETS = Path(__file__).parents[1] / "config" / "presets"
BLOCKS = ("train", "evaluation", "runtime", "experiment", "task", "data", "prompt_set", "scorers")


def docstring(cls: type) -> str:
    """The description of a class, without the indentation of its source."""
    return textwrap.dedent(cls.__doc__ or "no description").strip().replace("\n    ", "\n")


def method_facts(cls: type[Method]) -> list[tuple[str, str]]:
    """Name and text of each fact about a method."""
    needs = [name for name, needed in vars(cls.needs).items() if needed]
    return [("paper", cls.paper or "none given"), ("needs", ", ".join(needs) or "nothing")]


def reward_facts(cls: type[Reward]) -> list[tuple[str, str]]:
    """Name and text of each fact about a reward."""
    low, high = cls.range
    bounds = "no bounds" if math.isinf(low) and math.isinf(high) else f"{low:g} to {high:g}"
    return [
        ("kind", "gold: computed exactly from the picture" if cls.gold else "proxy: learned"),
        ("range", f"{bounds}, {'higher' if cls.higher_is_better else 'lower'} is better"),
        ("gradient", "with one" if cls.differentiable else "none"),
        ("version", cls.version),
        ("source", cls.source or "none given"),
    ]


def preset_summaries() -> dict[str, str]:
    """The first line of every preset, by its name."""
    found = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        found[path.stem] = path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip()
    return found


def block_settings(name: str) -> list[tuple[str, Setting]]:
    """The settings of one of `BLOCKS`, each with its option."""
    from bench.config.pictures import Data
    from bench.config.prompt_set import PromptSet
    from bench.config.scorer_process import ScorerProcess
    from bench.config.settings import Evaluation, Experiment, Runtime, Train
    from bench.config.task import Task

    blocks: dict[str, tuple[type, str]] = {
        "train": (Train, "train"), "evaluation": (Evaluation, "evaluation"), "runtime": (Runtime, "runtime"),
        "experiment": (Experiment, ""), "task": (Task, "task"), "data": (Data, "data"),
        "prompt_set": (PromptSet, "evaluation.prompt_sets.NAME"),
        "scorers": (ScorerProcess, "scorers.NAME"),
    }  # fmt: skip
    return named_settings(*blocks[name])


def named_settings(config: type, prefix: str) -> list[tuple[str, Setting]]:
    """The settings of a dataclass, each with its option.

    Without `prefix` they are those of an experiment: blocks, and what only a preset may say, have no option themselves,
    and come with their name.
    """
    return [
        (f"--{prefix}.{one.name}" if prefix else one.option if one.metavar else one.name, one)
        for one in settings_in(config).values()
    ]
