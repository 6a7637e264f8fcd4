"""Groups of samples of one prompt each: drawn, and scored whole or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.api import Condition, Env, Prompt


@dataclass(frozen=True)
class Groups:
    """What a rollout phase samples, of this process, the samples of a group in a row.

    Attributes:
        prompts: one a group; `prompt_index` (groups,) are their global numbers.
        index: the global number of each sample (n,).
        owner: the place of each sample's prompt (n,).
        cond: each sample's conditioning (n).
    """

    prompts: Sequence[Prompt]
    prompt_index: np.ndarray
    index: np.ndarray
    owner: np.ndarray
    cond: Condition

    @classmethod
    def drawn(cls, env: Env, count: int, size: int) -> Groups:
        """This process's share of `count` groups of `size` samples."""
        prompts, prompt_index = env.draw.prompts(count)
        index, owner = members(prompt_index, size)
        cond = env.model.encode([p.text for p in prompts])[torch.from_numpy(owner)]
        return cls(prompts, prompt_index, index, owner, cond)

    def scored(self, env: Env, sample: Callable[[slice], Tensor]) -> Tensor:
        """Rewards (groups of all processes, size), NaN where a scorer abstains.

        `sample` makes the clean latents (b, *S) of some rows.
        """
        scores, unscored = [], []
        for first in range(0, len(self.index), env.micro_batch):
            rows = slice(first, first + env.micro_batch)
            pictures, requested = env.model.decode(sample(rows)), [self.prompts[i] for i in self.owner[rows]]
            if env.scores_groups:
                unscored.append(pictures)
                continue
            # A reward in another process scores these while the next ones are sampled
            scores.append(env.submit(pictures, [p.text for p in requested], [p.metadata for p in requested]))
        size = len(self.index) // len(self.prompts)
        if env.scores_groups:
            groups = np.concatenate(unscored).reshape(len(self.prompts), size, *unscored[0].shape[1:])
            for prompt, some in zip(self.prompts, groups, strict=True):
                scores.append(env.submit(some, [prompt.text] * size, [prompt.metadata] * size))
        rewards = np.concatenate([result() for result in scores])
        return env.gather(torch.from_numpy(rewards).to(env.model.device).reshape(len(self.prompts), size))


def members(prompt_index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Global sample index and place of the prompt (groups * size,), the samples of a group in a row.

    Source: the order of trl's RepeatSampler with mini_repeat_count = `size`.
    """
    index = (prompt_index[:, None] * size + np.arange(size)).reshape(-1)
    return index, np.repeat(np.arange(len(prompt_index)), size)
