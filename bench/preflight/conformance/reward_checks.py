"""The checks of a reward: a picture's score depends on the picture, its prompt and its metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.api import Prompt
from bench.device import present_device
from bench.preflight.conformance.check import CheckSuite, Mismatch, NotApplicable
from bench.preflight.conformance.fixtures import RewardSubject
from bench.scoring.scorer import without_none
from bench.scoring.trl import reward_function

SUITE = CheckSuite[RewardSubject]()

# Of the declared range, or of the largest score where there are no bounds: a network rounds otherwise in other batches
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 0.01  # the same share: whole grey levels and PIL's filter have no gradient


@SUITE.check("batch-equals-singles", "a score that depends on its neighbours ranks methods by how they were batched")
def batch_equals_singles(subject: RewardSubject) -> None:
    """The scores of a batch are those of its pictures one by one."""
    if subject.reward.groupwise:
        raise NotApplicable("the reward scores whole groups")
    images, prompts = _pictures_of(subject)
    singles = [_scores(subject, images[i : i + 1], prompts[i : i + 1]).reshape(-1) for i in range(len(images))]
    _require_equal(subject, _scores(subject, images, prompts), np.concatenate(singles), "the scores of its pictures")


@SUITE.check("order", "scores handed to the wrong pictures train on noise, and nothing in the curves says so")
def order(subject: RewardSubject) -> None:
    """A batch in reverse gives the scores in reverse."""
    images, prompts = _pictures_of(subject)
    back = _scores(subject, images[::-1], prompts[::-1])
    _require_equal(subject, _scores(subject, images, prompts), back[::-1], "the same scores in any order")


@SUITE.check("single-picture", "a squeezed array of one score is a number, and the last batch of an epoch fails")
def single_picture(subject: RewardSubject) -> None:
    """One picture gives an array (1,)."""
    images, prompts = _pictures_of(subject)
    shape = _scores(subject, images[:1], prompts[:1]).shape
    if shape != (1,):
        raise Mismatch("an array of shape (1,) for one picture", f"shape {shape}")


@SUITE.check("range", "a score out of its range is a broken reward, and margins are meant within the range")
def declared_range(subject: RewardSubject) -> None:
    """Scores of the world's pictures, of black, white and noise lie within the declared range and are numbers."""
    images, prompts = _pictures_of(subject)
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, images.shape, np.uint8)
    low, high = subject.reward.range
    for name, some in {"pictures": images, "black": images * 0, "white": images * 0 + 255, "noise": noise}.items():
        scores, abstained = without_none(_given(subject, some, prompts))
        scores = scores[~abstained]
        if not ((scores >= low) & (scores <= high)).all():
            raise Mismatch(f"scores from {low:g} to {high:g}", f"{scores.min():g} to {scores.max():g} ({name})")


@SUITE.check("pictures-unchanged", "a scorer that normalises in place hands other pictures to the next scorer")
def pictures_unchanged(subject: RewardSubject) -> None:
    """The pictures are the same after scoring."""
    images, prompts = _pictures_of(subject)
    before = images.copy()
    subject.reward(images, [p.text for p in prompts], [p.metadata for p in prompts])
    if not np.array_equal(images, before):
        raise Mismatch("pictures as they were before scoring", f"{int((images != before).sum())} other values")


@SUITE.check("repeatable", "a score with chance or memory in it cannot be compared between methods")
def repeatable(subject: RewardSubject) -> None:
    """The same pictures score the same again, to the last bit."""
    images, prompts = _pictures_of(subject)
    first, second = _scores(subject, images, prompts), _scores(subject, images, prompts)
    if not np.array_equal(first, second, equal_nan=True):
        raise Mismatch("the same scores of the same pictures", f"a difference of {np.abs(first - second).max():.2g}")


@SUITE.check("trl", "a reward that only one trainer can call is written again for the next, and differs")
def trl_convention(subject: RewardSubject) -> None:
    """Called as trl calls its reward functions, it gives a list of the same scores."""
    if subject.reward.groupwise:
        raise NotApplicable("the reward scores whole groups, and trl's calls are batches")
    images, prompts = _pictures_of(subject)
    names = {name for prompt in prompts for name in prompt.metadata}
    columns = {name: [prompt.metadata.get(name) for prompt in prompts] for name in sorted(names)}
    given = reward_function(subject.reward)(
        prompts=[prompt.text for prompt in prompts], completions=list(images),
        completion_ids=[[0]] * len(prompts), trainer_state=None, log_metric=print, **columns,
    )  # fmt: skip
    if not all(isinstance(score, float) for score in given):
        raise Mismatch("a number for every prompt that the reward applies to", f"{given}")
    scores = _scores(subject, images, prompts) * (1 if subject.reward.higher_is_better else -1)
    _require_equal(subject, np.array(given), scores, "the scores of a direct call")


@SUITE.check("gradient", "the gradient of another score than the one that is reported trains what nobody measures")
def gradient(subject: RewardSubject) -> None:
    """A differentiable reward gives the scores of a call, but for the filter of a resize, with a gradient."""
    if not subject.reward.differentiable:
        raise NotApplicable("the reward is not differentiable")
    images, prompts = _pictures_of(subject)
    x = torch.from_numpy(images).to(present_device()).permute(0, 3, 1, 2) / 255
    texts, metadata = [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
    scores = subject.reward.scores(x.requires_grad_(), texts, metadata)
    expected = _scores(subject, images, prompts)
    _require_equal(subject, scores.detach().cpu().numpy(), expected, "the scores of a call", GRADIENT_TOLERANCE)
    found = torch.autograd.grad(scores.sum(), x, allow_unused=True)[0] if scores.requires_grad else None
    if found is None or not bool(found.isfinite().all() and found.any()):
        raise Mismatch("a finite gradient to the pictures, not 0 everywhere", "none" if found is None else "another")


def _pictures_of(subject: RewardSubject) -> tuple[np.ndarray, Sequence[Prompt]]:
    found = subject.pictures
    if len(found.prompts) < 2:
        raise Mismatch(
            "a prompt of the world that the reward applies to", f"{len(found.prompts)} of 128: look at `applies`"
        )
    return np.array(found.images), found.prompts


def _scores(subject: RewardSubject, images: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    """Scores, NaN where the reward abstains."""
    return without_none(_given(subject, images, prompts))[0]


def _given(subject: RewardSubject, images: np.ndarray, prompts: Sequence[Prompt]) -> Any:
    texts, metadata = [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
    return subject.reward(images.copy(), texts, metadata)


def _require_equal(
    subject: RewardSubject, scores: np.ndarray, others: np.ndarray, what: str, share: float = TOLERANCE
) -> None:
    if scores.shape != others.shape:
        raise Mismatch(f"{what}, as many", f"shapes {scores.shape} and {others.shape}")
    low, high = subject.reward.range
    width = high - low if np.isfinite(high - low) else max(1.0, float(np.nanmax(np.abs(scores), initial=0.0)))
    tolerance = share * width
    if not np.allclose(scores, others, rtol=0, atol=tolerance, equal_nan=True):
        raise Mismatch(f"{what}, to {tolerance:.1g}", f"a difference of {np.abs(scores - others).max():.2g}")
