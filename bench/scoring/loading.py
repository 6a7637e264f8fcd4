"""From the names of rewards to scorers that are loaded and ready."""

from __future__ import annotations

from collections.abc import Callable

from bench import registry
from bench.config.reward_expression import parts_of
from bench.datasets.world import Candidates
from bench.plugin_errors import plugin_errors
from bench.scoring.scorer import Guard, Scorer, unguarded
from bench.scoring.weighted_sum import sums
from bench.scoring.workers.placement import HERE, Placement
from bench.scoring.workers.remote_reward import RemoteReward


def load_scorers(
    names: set[str | None], guard: Guard = unguarded, standard: Callable[[], Candidates] | None = None,
    elsewhere: Placement = HERE,
) -> dict[str, Scorer]:  # fmt: skip
    """The named rewards, loaded and ready; the same scorer serves every role. `guard` surrounds load() and calls.

    A weighted sum comes beside its parts; `standard` gives the pictures by which sums are standardised. What
    `elsewhere` takes apart is not guarded: it ends by itself what hangs.
    """
    scorers = {}
    for name in sorted({part for spec in names for part in parts_of(spec)}):
        cls = registry.load_reward(name)
        with plugin_errors(f"reward {cls.name!r} in __init__()", cls):
            reward = elsewhere.reward(name, cls)
        own = unguarded if isinstance(reward, RemoteReward) else guard
        with own(cls.name, "load()"), plugin_errors(f"reward {cls.name!r} in load()", cls):
            reward.load()
        scorers[name] = Scorer(reward, guard=own)
    elsewhere.require_use(scorer.reward for scorer in scorers.values())
    return scorers | sums(filter(None, names), scorers, standard)
