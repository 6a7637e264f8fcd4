"""A task: which prompts, which scorer trains and selects, which scorers judge, and how small a difference is a tie."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from bench.api import Option


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Task:
    """One controlled comparison: every method gets these prompts, this scorer and these judges.

    Supervised methods train on the `top_share` of `candidates` fresh samples that `select` ranks highest within each
    category; RL methods train on `reward` with `train_prompts` prompts of the same caption pool.
    """

    name: Annotated[str, Option("name of the task", pattern=r"^[a-z][a-z0-9-]*$", max_length=100)]
    primary: Annotated[str, Option("scorer of the headline; one of `scorers`")]
    scorers: Annotated[tuple[str, ...], Option("all scorers that judge, gold and proxy", min_length=1)]
    title: Annotated[str, Option("a few words for tables", max_length=200)] = ""
    categories: Annotated[tuple[str, ...] | None, Option("prompt categories; null: all of the world's")] = None
    reward: Annotated[str | None, Option("scorer that RL methods train on, or a sum like 0.7*a+0.3*b; null: none")] = (
        None
    )
    select: Annotated[str | None, Option("scorer or sum that ranks the candidates; null: all of them are kept")] = None
    top_share: Annotated[float, Option("share of the candidates kept, within each category", gt=0, le=1)] = 0.25
    candidates: Annotated[
        int, Option("fresh candidates that the supervised data is chosen from", ge=1, le=10_000_000)
    ] = 16384
    train_prompts: Annotated[int, Option("training prompts of RL methods", ge=1, le=1_000_000)] = 4096
    margins: Annotated[
        dict[str, Annotated[float, Option("", gt=0)]], Option("scorer: differences within +-margin are a tie")
    ] = field(default_factory=dict)

    @property
    def unselected(self) -> Task:
        """This task with all of its candidates as supervised data."""
        return replace(self, select=None, top_share=1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if self.primary not in self.scorers:
            raise ValueError(f"primary scorer {self.primary!r} has to be one of `scorers` ({', '.join(self.scorers)})")
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError("a scorer is listed twice in `scorers`")
        if self.categories is not None and not self.categories:
            raise ValueError("categories: expected at least one, or null for all")
        return self
