"""`results/registration.yaml`: what was asked before the runs, whose hash every record carries that is made beside it.

What a claim says and what was published of it stands in `report/claims.yaml`; the registration says by which one
comparison each is judged here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from bench.parsing import read_dataclass
from bench.paths import inside
from bench.results.records.schema import ExperimentHeader

__all__ = [
    "OWN",
    "REGISTRATION",
    "Hypothesis",
    "PlannedExperiment",
    "Registration",
    "read_registration",
    "registration_hash",
]

REGISTRATION = "registration.yaml"
OWN = "own"  # in the place of a guidance scale: each method at its own best one
_STRICT = ConfigDict(extra="forbid")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=_STRICT)
class PlannedExperiment:
    """How much of an experiment, by its name, was planned. preset: where the command line has it from."""

    preset: str
    seeds: Annotated[int, Field(ge=1)]
    budget: str


@dataclass(frozen=True, config=_STRICT)
class Hypothesis:
    """The primary comparison by which the claim of this `number` is judged, method and reference being the claim's.

    expected: what is expected, in words. guidance: scales that each make a comparison of its own, which all have to
    confirm the claim; `own` is each method's own best one. margin: effects within it do not matter. category: one of
    the prompts' categories, or none for all.
    """

    claim: int
    expected: str
    experiment: str
    task: str
    scorer: str
    margin: Positive
    guidance: tuple[Annotated[float, Field(ge=0)] | Literal["own"], ...] = (1.0, "own")
    category: str | None = None


@dataclass(frozen=True, config=_STRICT)
class Registration:
    """All of the file. exclusions: in words. own_guidance: each method's best scale by task, on the tune prompts."""

    experiments: dict[str, PlannedExperiment]
    hypotheses: tuple[Hypothesis, ...]
    exclusions: tuple[str, ...] = ()
    own_guidance: dict[str, dict[str, float]] = field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Registration:
        several = [claim for claim, count in Counter(one.claim for one in self.hypotheses).items() if count > 1]
        if several:
            raise ValueError(f"claim {several[0]} has several primary comparisons, expected one")
        for one in self.hypotheses:
            if one.experiment not in self.experiments:
                known = ", ".join(self.experiments) or "none"
                raise ValueError(f"claim {one.claim} names experiment {one.experiment!r}, but planned are: {known}")
        return self

    def hypothesis(self, claim: int) -> Hypothesis | None:
        """The primary comparison of a claim, None where it has none."""
        return next((one for one in self.hypotheses if one.claim == claim), None)

    def deviations(self, header: ExperimentHeader, seeds: int) -> list[str]:
        """How an experiment with so many seeds differs from its plan, in words; empty where it has none."""
        plan = self.experiments.get(header.name)
        if plan is None:
            return []
        found = [f"{seeds} seeds, planned {plan.seeds}"] if seeds != plan.seeds else []
        return found + ([f"budget {header.budget}, planned {plan.budget}"] if header.budget != plan.budget else [])


def read_registration(results: Path) -> Registration | None:
    """The registration of a results folder, None where it has none.

    Raises:
        ConfigError: it is damaged, or names unknown things.
        DataError: a link stands in its place.
    """
    path = inside(results, REGISTRATION)
    return read_dataclass(Registration, path) if path.exists() else None


def registration_hash(results: Path) -> str | None:
    """16 hex digits of the registration of a results folder, byte by byte, None where it has none.

    Raises as `read_registration` does.
    """
    if read_registration(results) is None:
        return None
    return blake2b(inside(results, REGISTRATION).read_bytes(), digest_size=8).hexdigest()
