"""Reward functions in trl's calling convention as rewards of ours.

Source: trl, GRPOTrainer, `reward_funcs`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import PluginError, Reward

# What trl passes on besides, and a reward function of pictures cannot be given here
OF_TRAINERS = ("completion_ids", "trainer_state", "log_extra", "log_metric")
_GIVEN = {"prompts", "completions", *OF_TRAINERS}  # no names of columns
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@cache
def reward_class(function: Callable[..., Any]) -> type[Reward]:
    """A function in trl's convention as a reward of the function's name; higher is better, and there are no bounds.

    It is called with `prompts` (texts), `completions` (pictures uint8 (H, W, 3), as arrays), and a list of that length
    for every name in the prompts' metadata and every one that the function needs, None where a prompt lacks it; it
    returns as many numbers. What only a trainer has (`completion_ids`, `trainer_state`, `log_extra`, `log_metric`) is
    not passed. Its version is a hash of the file that it stands in. A function that looks at pictures alone may say so:
    `mine.reads_prompts = False`.

    Raises:
        PluginError: it takes no `**kwargs`, needs what only a trainer has, or is asynchronous.

    Source: trl, GRPOTrainer, `reward_funcs`.
    """
    _refuse_other_functions(function)
    named = {p.name: p for p in inspect.signature(function).parameters.values() if p.kind in _NAMED}
    needed = {name for name, p in named.items() if p.default is p.empty} - {"prompts", "completions"}

    def score(
        self: Reward, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        names = sorted(({name for row in metadata for name in row} | needed) - _GIVEN)
        columns = {name: [row.get(name) for row in metadata] for name in names}
        given = function(prompts=list(prompts), completions=list(images), **columns)
        return _numbers(function.__name__, given, prompts)

    file = Path(inspect.getfile(inspect.unwrap(function)))
    about = {
        "__module__": function.__module__, "__qualname__": function.__qualname__, "__call__": score,
        "__doc__": inspect.getdoc(function) or "A function in trl's calling convention.",
        "name": function.__name__, "version": _digest(file), "range": (-math.inf, math.inf),
        "reads_prompts": bool(getattr(function, "reads_prompts", True)),
        "source": f"{function.__qualname__} in {file.name}, a function in trl's calling convention",
    }  # fmt: skip
    return type(function.__name__, (Reward,), about)


def _refuse_other_functions(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.name in OF_TRAINERS and p.default is p.empty]
    problem = None
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        problem = "takes no **kwargs, where trl passes what it does not name"
    elif needed:
        problem = f"needs {' and '.join(needed)}, which only a trainer of trl's has: give it a default"
    elif inspect.iscoroutinefunction(function):
        problem = "is asynchronous: let it return its scores"
    if problem:
        raise PluginError(
            f"reward function {function.__name__!r}: expected trl's convention, (prompts, completions, **kwargs) to a "
            f"list of floats, but it {problem}"
        )


def _numbers(name: str, given: Any, prompts: Sequence[str]) -> np.ndarray:
    """What a function returned, as (B,) float64, or objects where it abstains by None; `Scorer` sees to the rest."""
    given = list(given) if isinstance(given, Iterator) else given
    if not isinstance(given, Iterable) or any(isinstance(score, str) for score in given):
        raise PluginError(
            f"reward function {name!r}: expected a list of floats, one for each of {len(prompts)} pictures, got "
            f"{given!r}"[:400]
        )
    if any(score is None for score in given):
        return np.array([None if score is None else float(score) for score in given], object)
    return np.array(given, np.float64)


def _digest(file: Path) -> str:
    """8 hex digits of the file's content: a function has no version that its author would raise."""
    return hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()
