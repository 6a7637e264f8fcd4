"""Tasks: which prompts, which scorer trains and selects, which scorers judge, and how small a difference is a tie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Annotated

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from bench.api import Option

SCENES_SCORERS = (
    "scenes-geneval",
    "scenes-ocr",
    "scenes-aesthetic",
    "scenes-clip",
    "scenes-ocr-net",
    "scenes-aesthetic-head",
)
SCENES_MARGINS = MappingProxyType(
    {
        "scenes-geneval": 0.01,
        "scenes-ocr": 0.01,
        "scenes-aesthetic": 0.01,
        "scenes-clip": 0.005,
        "scenes-ocr-net": 0.01,
        "scenes-aesthetic-head": 0.01,
    }
)
GENEVAL_CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Task:
    """One controlled comparison: every method gets these prompts, this scorer and these judges.

    Supervised methods train on the `top_share` of `candidates` fresh samples that `select` ranks highest within each
    category; RL methods train on `reward` with `train_prompts` prompts of the same caption pool.
    """

    name: Annotated[str, Option("name of the task", pattern=r"^[a-z][a-z0-9-]*$")]
    primary: Annotated[str, Option("scorer of the headline; one of `scorers`")]
    title: Annotated[str, Option("a few words for tables")] = ""
    categories: Annotated[tuple[str, ...] | None, Option("prompt categories; null: all of the world's")] = None
    reward: Annotated[str | None, Option("scorer that RL methods train on; null: the task has none")] = None
    select: Annotated[
        str | None, Option("scorer that ranks the candidates for supervised data; null: all are kept")
    ] = None
    top_share: Annotated[float, Option("share of the candidates kept, within each category", gt=0, le=1)] = 0.25
    candidates: Annotated[int, Option("fresh candidates that the supervised data is chosen from", ge=1)] = 16384
    train_prompts: Annotated[int, Option("training prompts of RL methods", ge=1)] = 4096
    scorers: Annotated[tuple[str, ...], Option("all scorers that judge, gold and proxy", min_length=1)] = SCENES_SCORERS
    margins: Annotated[
        dict[str, Annotated[float, Option("", gt=0)]], Option("scorer: differences within +-margin are a tie")
    ] = field(default_factory=lambda: dict(SCENES_MARGINS))

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if self.primary not in self.scorers:
            raise ValueError(f"primary scorer {self.primary!r} has to be one of `scorers` ({', '.join(self.scorers)})")
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError("a scorer is listed twice in `scorers`")
        return self


def _scenes(name: str, title: str, primary: str, reward: str, categories: tuple[str, ...] | None) -> Task:
    return Task(name=name, title=title, primary=primary, reward=reward, select=reward, categories=categories)


BUILT_IN: Mapping[str, Mapping[str, Task]] = MappingProxyType(
    {
        "scenes": MappingProxyType(
            {
                task.name: task
                for task in (
                    _scenes("alignment", "text-image alignment", "scenes-geneval", "scenes-clip", GENEVAL_CATEGORIES),
                    _scenes("aesthetic", "aesthetic quality", "scenes-aesthetic", "scenes-aesthetic-head", None),
                    _scenes("text", "text rendering", "scenes-ocr", "scenes-ocr-net", ("text",)),
                    _scenes(
                        "alignment-gold",
                        "alignment, trained on the exact verifier",
                        "scenes-geneval",
                        "scenes-geneval",
                        GENEVAL_CATEGORIES,
                    ),
                )
            }
        )
    }
)
WORLDS = tuple(BUILT_IN)
