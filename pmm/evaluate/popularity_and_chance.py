"""What a model must beat: popularity, and chance."""

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int32s
from pmm.evaluate.ranking import Queries, count_candidates, rank_by_item_score


def rank_by_popularity(
    train_count_N: NDArray[np.int64], queries: Queries, *, keep_history: bool = False
) -> Int32s:
    """Ranks by the items' occurrences in the training part; equal counts count against it. [U]"""
    return rank_by_item_score(train_count_N, queries, keep_history=keep_history)


def rank_by_chance(
    queries: Queries, n_items: int, *, seed: int = 0, keep_history: bool = False
) -> Int32s:
    """Ranks of independent random scores: uniform on 1..candidates, so drawn as such. [U]

    A user's draw depends on the seed and the user's number alone, not on who else is ranked.
    Expected HR@k is k / candidates.
    """
    candidates_U = count_candidates(queries, n_items, keep_history=keep_history)
    uniform_U = _uniform(queries.user_U, seed)
    ranks: Int32s = (1 + np.floor(uniform_U * candidates_U)).astype(np.int32)
    return ranks


def _uniform(number_U: Int32s, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each integer: the finaliser of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        state = number_U.astype(np.uint64) + np.uint64(1)
        state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**32) * np.uint64(
            0xD1B54A32D192ED03
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
