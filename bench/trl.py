"""Rewards in trl's calling convention, both ways: ours as one of trl's functions, and trl's functions as ours."""

from __future__ import annotations

from bench.scoring.trl import reward_function
from bench.trl_functions import reward_class

__all__ = ["reward_class", "reward_function"]
