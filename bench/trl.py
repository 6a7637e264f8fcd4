"""Rewards in trl's calling convention, both ways: ours as one of trl's functions, and trl's functions as ours."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import DataError, PluginError, Reward
from bench.scorers.scorer import Scorer

# What trl passes on besides, and a reward function of pictures cannot be given here
_OF_TRAINERS = ("completion_ids", "trainer_state", "log_extra", "log_metric")
_GIVEN = {"prompts", "completions", *_OF_TRAINERS}  # no names of columns
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def reward_function(reward: Reward) -> Callable[..., list[float | None]]:
    """A reward as one of trl's `reward_funcs`.

    trl calls it with `prompts` (texts), `completions` (here pictures uint8 (H, W, 3), as arrays or PIL images), and
    each further column of its dataset as a list of that length, which together are the metadata; a column's None means
    that the row lacks it. Higher is better, as trl wants it; None where the reward cannot judge the prompt.

    Raises, when called:
        DataError: prompts that are no texts, not one picture for each prompt, or what is no such picture.

    Source: trl, GRPOTrainer, `reward_funcs` and `_calculate_rewards`.
    """
    scorer = Scorer(reward)

    def function(prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        if len(completions) != len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise DataError(
                f"reward {reward.name!r}: expected prompts that are texts, with one picture each, got {len(prompts)} "
                f"prompts such as {list(prompts)[:1]} and {len(completions)} completions"
            )
        metadata = _rows(columns, len(prompts))
        images = [_picture(picture, reward.name) for picture in completions]
        sign, scores = 1 if reward.higher_is_better else -1, list[float | None]([None] * len(images))
        for size in dict.fromkeys(image.shape for image in images):  # a batch holds pictures of one size
            rows = [i for i, image in enumerate(images) if image.shape == size and reward.applies(metadata[i])]
            if rows:
                parts = (np.stack([images[i] for i in rows]), [prompts[i] for i in rows], [metadata[i] for i in rows])
                for i, score in zip(rows, scorer(*parts), strict=True):
                    scores[i] = sign * float(score)
        return scores

    function.__name__ = reward.name  # the name under which trl logs it
    return function


def _picture(picture: Any, reward: str) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of an array, or of a PIL image of any mode."""
    from PIL import Image

    pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"reward {reward!r}: expected completions that are pictures, PIL images or arrays uint8 (H, W, 3), got a "
            f"{type(picture).__name__} that is {pixels.dtype} {pixels.shape}"
        )
    return pixels


def _rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The dataset's columns by row, without what a row lacks; trl's own arguments are left out."""
    lists = {
        name: values
        for name, values in columns.items()
        if name not in _OF_TRAINERS and isinstance(values, list) and len(values) == count
    }
    return [_without_none({name: values[i] for name, values in lists.items()}) for i in range(count)]


def _without_none(value: Any) -> Any:
    """A dataset gives every row the keys of all of them, at every depth, and None for those it does not have."""
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


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
    needed = [p.name for p in parameters if p.name in _OF_TRAINERS and p.default is p.empty]
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
    """What a function returned, as (B,) float64; `Scorer` sees to their number and to what is not finite."""
    given = list(given) if isinstance(given, Iterator) else given
    if not isinstance(given, Iterable) or any(isinstance(score, str) for score in given):
        raise PluginError(
            f"reward function {name!r}: expected a list of floats, one for each of {len(prompts)} pictures, got "
            f"{given!r}"[:400]
        )
    if any(score is None for score in given):
        which = prompts[next(row for row, score in enumerate(given) if score is None)]
        raise PluginError(
            f"reward function {name!r} gave None for {which!r}: expected a number for every picture; which prompts can "
            "be judged is said before, by applies() of a class (`bench new NAME --reward` writes one)"
        )
    return np.array(given, np.float64)


def _digest(file: Path) -> str:
    """8 hex digits of the file's content: a function has no version that its author would raise."""
    return hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()
