"""Prompts that state the same claim share a cluster: the lowest index among them."""

from __future__ import annotations

from bench.api import Prompt
from bench.datasets.prompts.clusters import claim_clusters


def test_prompts_of_one_claim_share_the_lowest_index() -> None:
    prompts = [
        Prompt(7, "a star left of a ring", {"claim": "star left ring"}),
        Prompt(3, "a ring right of a star", {"claim": "star left ring"}),
        Prompt(5, "a ring", {"claim": "ring"}),
        Prompt(2, "a ring right of a star", {}),  # of a world that does not say: its text
        Prompt(9, "a ring right of a star", {"tag": "other"}),
    ]
    assert claim_clusters(prompts) == [3, 3, 5, 2, 2]
    assert claim_clusters([]) == []
