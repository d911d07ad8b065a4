"""What each user adds to a metric, from the rank of his one true next item. U users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float64s


def hits(rank_U: NDArray[Any], k: int) -> Float64s:
    """1 where the true next item ranks among the first k, else 0; their mean is HR@k.

    Args:
        rank_U: 1 is best; 0 stands for no rank and is a miss.
        k: the cut-off.

    >>> hits(np.array([1, 10, 11, 0]), 10).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return ((rank_U >= 1) & (rank_U <= k)).astype(np.float64)


def gains(rank_U: NDArray[Any], k: int) -> Float64s:
    """1 / log2(rank + 1) where the rank is at most k, else 0; their mean is NDCG@k.

    Args:
        rank_U: as of `hits`.
        k: the cut-off.

    >>> gains(np.array([1, 3, 11]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    discount_U: Float64s = np.log2(np.maximum(rank_U, 1) + 1.0)
    return hits(rank_U, k) / discount_U
