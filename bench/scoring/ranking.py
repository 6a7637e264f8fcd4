"""The best of what was scored: its order, and the share of it that is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def top_share(scores: np.ndarray, categories: Sequence[str], share: float) -> np.ndarray:
    """Row numbers, rising, of the highest `share` (0, 1] of `scores` (N,) within each category, rounded up.

    Ties go to the earlier row.
    """
    names = np.array(categories)
    kept = []
    for name in sorted(set(categories)):
        rows = np.flatnonzero(names == name)
        order = np.argsort(-scores[rows], kind="stable")
        kept.append(rows[order[: int(np.ceil(share * len(rows)))]])
    return np.sort(np.concatenate(kept))


def ranking(scores: np.ndarray, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """The places of the M scores that are no NaN, best first, and their ranks from 1, both int (M,).

    Equal scores share a rank and keep their order: 0.9, 0.9, 0.5 rank 1, 1, 3.
    """
    judged = np.flatnonzero(~np.isnan(scores))
    keys = -scores[judged] if higher_is_better else scores[judged]
    ordered = np.sort(keys)
    return judged[np.argsort(keys, kind="stable")], 1 + np.searchsorted(ordered, ordered)
