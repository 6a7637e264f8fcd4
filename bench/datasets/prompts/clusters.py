"""Which prompts state the same claim in other words: judged as draws, they are one."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import Prompt

__all__ = ["claim_clusters"]


def claim_clusters(prompts: Sequence[Prompt]) -> list[int]:
    """Of each prompt the lowest index of those that state what it does.

    That is the `claim` of its metadata, where its world has one, else its text.
    """
    said = [str(prompt.metadata.get("claim", prompt.text)) for prompt in prompts]
    lowest: dict[str, int] = {}
    for claim, prompt in zip(said, prompts, strict=True):
        lowest[claim] = min(prompt.index, lowest.get(claim, prompt.index))
    return [lowest[claim] for claim in said]
