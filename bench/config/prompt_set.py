"""Which prompt sets judge every method at the end, by which scorers; what was found in them stands beside it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from bench.api import Option
from bench.parsing import Problems, read_yaml, validate

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,99}")

_FILE = Path(__file__).with_name("prompt_sets.yaml")


@dataclass(frozen=True, config=_STRICT)
class PublishedSet:
    """How a published set is judged where the settings do not say: by which scorers, on how many pictures a prompt."""

    scorers: tuple[str, ...]
    samples: int


def _published_sets() -> dict[str, PublishedSet]:
    problems = Problems()
    found = {name: validate(PublishedSet, block, name, problems) for name, block in read_yaml(_FILE).items()}
    problems.raise_if_any(_FILE.name)
    return {name: one for name, one in found.items() if one is not None}


PUBLISHED = _published_sets()
_SEVERAL = ", ".join(f"{one.samples} for {name}" for name, one in PUBLISHED.items() if one.samples > 1)


@dataclass(frozen=True, config=_STRICT)
class FoundPrompts:
    """What was found in a set; the run writes it down, and nobody sets it.

    fingerprint: 16 hex digits of the chosen prompts with their metadata. there: prompts in the file. chosen: those that
    judge. judged: how many of the chosen each scorer applies to.
    """

    fingerprint: str
    there: int
    chosen: int
    judged: dict[str, int]


@dataclass(frozen=True, config=_STRICT)
class PromptSet:
    """Prompts that judge every method at the end, beside the world's own; never charged."""

    path: Annotated[
        str,
        Option(
            "prompts in a .txt, .csv, .tsv, .jsonl or .parquet file, or the id of a fetched data set of the hub",
            min_length=1,
        ),
    ]
    scorers: Annotated[
        tuple[str, ...],
        Option(f"scorers that judge it; may be left out for {', '.join(PUBLISHED)}", min_length=1),
    ]
    prompts: Annotated[
        int | None, Option("prompts of the file, one of each category in turn; null: all of them", ge=1, le=1_000_000)
    ] = None
    samples: Annotated[
        int, Option(f"pictures of each prompt, whose mean is its score ({_SEVERAL})", ge=1, le=10_000)
    ] = 1
    column: Annotated[str | None, Option("column of the prompts; null: prompt, prompts or text")] = None
    file: Annotated[str | None, Option("file within a data set of the hub; null: the only one with prompts")] = None
    found: Annotated[FoundPrompts | None, Option("what was found there; not to be set")] = None

    def identity(self) -> dict[str, Any]:
        """What numbers depend on and a report tells; where the prompts lie is no part of it."""
        found = dataclasses.asdict(self.found) if self.found is not None else {}
        return {"scorers": list(self.scorers), "samples": self.samples, **found}


def set_split(name: str) -> str:
    """What stands for the prompt set of that name in the column `split` of scores; no world has such a split."""
    return f"set:{name}"


def read_sets(raw: Any, problems: Problems) -> dict[str, dict[str, Any]]:
    """The sets of the raw settings by name, complete and JSON-able: `NAME: PATH`, or `NAME: {path: PATH, ...}`.

    A set that a preset names is taken back by null. What is wrong is added to `problems`.
    """
    sets: dict[str, dict[str, Any]] = {}
    if not isinstance(raw, Mapping):
        problems.add("evaluation.prompt_sets", f"expected names with their files (drawbench: FILE), got {str(raw)!r}")
        return sets
    for name, given in raw.items():
        if given is None or (isinstance(given, str) and given == "null"):
            continue
        place = f"evaluation.prompt_sets.{name}"
        if not _NAME.fullmatch(str(name)):
            problems.add(place, "expected a name of small letters, digits and '-', a letter first, 100 of them at most")
        elif not isinstance(given, str | Mapping):
            problems.add(place, f"expected a path, or settings with one (path: FILE), got {given!r}")
        else:
            known = dataclasses.asdict(PUBLISHED[name]) if name in PUBLISHED else {}
            block = known | ({"path": str(given)} if isinstance(given, str) else dict(given))
            found = validate(PromptSet, block, place, problems)
            if found is not None:
                sets[name] = json.loads(TypeAdapter(PromptSet).dump_json(found))
    return sets
