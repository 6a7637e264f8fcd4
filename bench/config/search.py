"""Random search: each method under many settings, each setting a method of its own in the experiment.

Where a preset or file has the block

    search:
      trials: 12
      space:
        all: {train.learning_rate: {low: 1.0e-5, high: 1.0e-3}, train.batch_size: [16, 32, 64]}
        soar: {rollout_steps: [5, 10, 20, 40]}

its method `soar` runs as `soar-t00` to `soar-t11`, each with every setting of `all` and of `soar`. A range is drawn
from logarithmically, a list evenly. Settings are spread over their ranges: one draw in each of `trials` equal parts, in
a random order of each setting's own. A setting that two methods search takes the same values in the same trials.

Source: Latin hypercube sampling, McKay, Beckman and Conover, Technometrics 21 (1979).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from bench.api import DataError, Option
from bench.parsing import Problems, split_list, validate

__all__ = ["ALL", "Range", "Search", "expand_search", "joined", "searched_method"]

ALL = "all"  # stands in `space` for every method
_LABEL = re.compile(r"(.+)-t(\d{2,})")
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Block = dict[str, Any]


@dataclass(frozen=True, config=_STRICT)
class Range:
    """Numbers from `low` to `high`, logarithmically."""

    low: Annotated[float, Option("least value", gt=0)]
    high: Annotated[float, Option("greatest value", gt=0)]

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low has to be below high, got {self.low:g} and {self.high:g}")
        return self


@dataclass(frozen=True, config=_STRICT)
class Search:
    """How many settings of each method are tried, and from where they are drawn."""

    space: Annotated[
        dict[str, dict[str, Range | list[Any]]],
        Option("method (or `all`): dotted setting: {low, high} or a list of values", min_length=1),
    ]
    trials: Annotated[int, Option("settings of each method", ge=2, le=1000)] = 12
    seed: Annotated[int, Option("of the draws", ge=0, le=2**32 - 1)] = 0

    def searched(self, method: str) -> dict[str, Range | list[Any]]:
        """From where each setting of a method is drawn, by dotted names."""
        return {**self.space.get(ALL, {}), **self.space.get(method, {})}

    def draw(self, method: str) -> list[Block]:
        """The settings of each trial of a method, by dotted names."""
        columns = {name: self._column(name, values) for name, values in self.searched(method).items()}
        return [{name: column[trial] for name, column in columns.items()} for trial in range(self.trials)]

    def trials_of(self, method: str) -> dict[str, Block]:
        """What `draw` gives, by the label of each trial."""
        return {f"{method}-t{number:02d}": settings for number, settings in enumerate(self.draw(method))}

    def _column(self, name: str, values: Range | list[Any]) -> list[Any]:
        rng = random.Random(f"search/{self.seed}/{name}")
        order = rng.sample(range(self.trials), self.trials)
        return [_at(values, (part + rng.random()) / self.trials) for part in order]


def _at(values: Range | list[Any], place: float) -> Any:
    """The value at a place in [0, 1) of a range (to three digits), or of a list."""
    if isinstance(values, Range):
        return float(f"{math.exp(math.log(values.low) + place * math.log(values.high / values.low)):.3g}")
    return values[int(place * len(values))]


def expand_search(raw: Block, problems: Problems) -> Block:
    """Raw settings with the trials of each method in its place, and `search` read; as they are without that block."""
    if "search" not in raw:
        return raw
    rest = {name: value for name, value in raw.items() if name != "search"}
    block = raw["search"]
    if not isinstance(block, Mapping):
        problems.add("search", f"expected settings (`search.trials: 12`), got {block!r}")
        return rest
    search = validate(Search, block, "search", problems)
    methods = rest.get("methods")
    methods = split_list(methods) if isinstance(methods, str) else methods
    if search is None or not isinstance(methods, list):
        return rest
    for name in (str(method) for method in methods if "+" in str(method)):
        problems.add("search", f"{name} is a chain: search the settings of its methods one by one")
        return rest
    for name in sorted(search.space.keys() - {ALL, *map(str, methods)}):
        problems.add(f"search.space.{name}", f"is no method of this experiment: {', '.join(map(str, methods))}")
    for place, values in ((f"{of}.{name}", v) for of, found in search.space.items() for name, v in found.items()):
        if isinstance(values, list) and not values:
            problems.add(f"search.space.{place}", "expected at least one value")
            return rest
    labels = []
    for method in map(str, methods):
        for label, settings in search.trials_of(method).items():
            labels.append(label)
            rest[label] = _laid_over({"method": method, **(rest.get(method) or {})}, settings)
    return {**rest, "methods": labels, "search": search}


def _laid_over(block: Block, settings: Block) -> Block:
    for path, value in settings.items():
        *above, last = path.split(".")
        level = block = dict(block)
        for name in above:
            level[name] = dict(level.get(name) or {})
            level = level[name]
        level[last] = value
    return block


def joined(held: Search | None, new: Search | None) -> Search | None:
    """What an experiment searched, and what its next run searches: its methods may be searched one by one.

    Raises DataError where the two draw otherwise.
    """
    if held is None or new is None:
        return held or new
    same = all(held.space[name] == new.space[name] for name in held.space.keys() & new.space.keys())
    same = same and held.space.get(ALL) == new.space.get(ALL)
    if not same or (held.trials, held.seed) != (new.trials, new.seed):
        raise DataError(
            "this experiment was searched with other trials, seed or ranges than `search` says: give it those, or "
            "give this search another --name"
        )
    return replace(new, space={**held.space, **new.space})


def searched_method(label: str) -> str | None:
    """The method that a label is a trial of; None for other labels."""
    found = _LABEL.fullmatch(label)
    return found[1] if found else None
