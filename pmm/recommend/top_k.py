"""The k best items of a user, exactly, among those that are allowed.

The score of an item is *defined* as in `pmm.evaluate.ranking`: the inner product in fp64, rounded
to fp32. The fast fp32 product finds all that can be among the k best; these are computed again by
the definition, so that what is served is what was evaluated.

Shape suffixes: N items, D width, R some items, B users, P pairs of a user and an item.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int64s

_EPS = float(np.finfo(np.float32).eps)
_PAIRS_AT_ONCE = 4_096
"""Pairs scored together: 2 x 4,096 x 768 fp64 values are 50 MB."""


def top_k(
    user_D: Float32s,
    item_ND: Float32s,
    allowed_N: NDArray[np.bool_],
    k: int,
    *,
    longest: float,
    added_N: Float32s | None = None,
) -> tuple[Int64s, Float32s]:
    """Rows of the k best items and their scores, best first; of equal ones the earlier row first.

    Args:
        user_D: a user's vector.
        item_ND: the items' vectors.
        allowed_N: items that may come. Where fewer than k are allowed, so many come.
        k: how many.
        longest: length of the longest of the items' vectors, or more.
        added_N: added to the scores, as of popularity.

    >>> items, all_but_last = np.float32([[1, 0], [3, 0], [2, 0]]), np.array([True, True, False])
    >>> rows, scores = top_k(np.float32([1, 0]), items, all_but_last, 5, longest=3.0)
    >>> rows.tolist(), scores.tolist()
    ([1, 0], [3.0, 1.0])
    """
    k = min(k, int(allowed_N.sum()))
    if k == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    near_N = item_ND @ user_D
    size = np.float64(np.linalg.norm(user_D)) * longest
    if added_N is not None:
        near_N = near_N + added_N
        size += float(np.abs(added_N).max(initial=0))
    near_N = np.where(allowed_N, near_N, np.float32(-np.inf))
    worst = float(np.partition(near_N, len(near_N) - k)[len(near_N) - k])
    low = np.float32(worst - rounding_slack(size, len(user_D)))
    rows_R = np.flatnonzero(allowed_N & (near_N >= low))
    exact_R = defined_scores(user_D, item_ND[rows_R], None if added_N is None else added_N[rows_R])
    order_R = np.argsort(-exact_R, kind="stable")[:k]
    return rows_R[order_R], exact_R[order_R]


def rounding_slack(size: Any, width: int) -> Any:
    """What the fast product may be off by, of the k-th item and of one that is better in truth.

    Args:
        size: length of the user's vector times that of the longest item's, and the largest that is
            added; of one user or of several [B].
        width: D.
    """
    return 2 * (width + 2) * _EPS * size


def defined_scores(
    user_D: Float32s, item_RD: Float32s, added_R: Float32s | None = None
) -> Float32s:
    """The defining scores of some items: fp64 inner products, rounded to fp32.

    Each is summed by itself, so it does not depend on the items that are scored beside it.
    """
    rows_R = np.arange(len(item_RD))
    return scores_of_pairs(user_D[None], np.zeros_like(rows_R), item_RD, rows_R, added_R)


def scores_of_pairs(
    user_BD: Float32s,
    user_P: Int64s,
    item_ND: Float32s,
    row_P: Int64s,
    added_P: Float32s | None = None,
) -> Float32s:
    """The defining scores of single pairs of a user and an item [P]."""
    score_P = np.empty(len(row_P), np.float32)
    for start in range(0, len(row_P), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        product_PD = item_ND[row_P[part]].astype(np.float64)
        product_PD *= user_BD[user_P[part]]
        exact_P = product_PD.sum(axis=1)
        score_P[part] = exact_P if added_P is None else exact_P + added_P[part]
    return score_P


def top_of_scores(
    score_N: Float32s, allowed_N: NDArray[np.bool_], k: int
) -> tuple[Int64s, Float32s]:
    """The same of scores that are there, of models whose scores are no inner products."""
    k = min(k, int(allowed_N.sum()))
    if k == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    masked_N = np.where(allowed_N, score_N, np.float32(-np.inf))
    worst = np.partition(masked_N, len(masked_N) - k)[len(masked_N) - k]
    rows_R = np.flatnonzero(allowed_N & (masked_N >= worst))
    rows_R = rows_R[np.argsort(-masked_N[rows_R], kind="stable")[:k]]
    return rows_R, score_N[rows_R]
