"""Two rankings of the same users: is their difference more than chance?

Shape legend: U users, M metrics.

The bootstrap draws users again with replacement (Efron and Tibshirani 1993, chapter 13). A user
counts only through the sums of what he adds to the metrics, so the draws are multinomial over the
distinct sums: exact, and as fast for a million users as for a thousand.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float64s

DRAWS = 10_000
LEVEL = 0.95
COUNTS_AT_ONCE = 4_000_000
"""Numbers of users that are drawn together: 32 MB of them."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean difference of two metrics of the same users, second minus first."""

    difference: float
    low: float
    """Of the 95 % interval."""
    high: float
    p: float
    """How often chance alone would differ so much or more, on either side."""
    users: int


def bootstrap(
    first_U: NDArray[Any],
    second_U: NDArray[Any],
    *,
    samples: int = DRAWS,
    seed: int = 0,
    user_U: NDArray[Any] | None = None,
) -> Paired:
    """The paired bootstrap over users.

    The interval holds the middle 95 % of the draws. p is twice the share of the draws that lie on
    the other side of 0 or on it; it is at least 1 / (samples + 1), as no finite number of draws
    shows that something never happens.

    Args:
        first_U: what each user adds to the metric by the first ranking.
        second_U: by the second, of the same users in the same order.
        samples: draws of U users each.
        seed: of the draws.
        user_U: who is asked, where the values are of questions and a user may have several: all of
            his are drawn together. None: each is another user's.

    Raises:
        ValueError: not the same number of users, or none.
    """
    difference_U = _differences(first_U, second_U)
    sums_UM = np.stack([np.ones(len(difference_U)), difference_U], 1)
    if user_U is not None:
        _, index = np.unique(user_U, return_inverse=True)
        sums_UM = np.stack([np.bincount(index, weights=each) for each in sums_UM.T], 1)
    drawn_S1 = drawn_means(sums_UM, seed, samples)
    low, high = np.percentile(drawn_S1[:, 0], tails(LEVEL))
    return Paired(
        difference=float(difference_U.mean()),
        low=float(low),
        high=float(high),
        p=two_sided(drawn_S1[:, 0]),
        users=len(sums_UM),
    )


def two_sided(drawn_S: NDArray[Any]) -> float:
    """The p-value of drawn differences: twice the share on the rarer side of 0, 0 on both.

    >>> two_sided(np.array([1.0, 2.0, 3.0])), two_sided(np.array([-1.0, 1.0, 1.0, 1.0]))
    (0.25, 0.5)
    """
    share = min(float(np.mean(drawn_S <= 0)), float(np.mean(drawn_S >= 0)))
    return min(1.0, max(2 * share, 1 / (len(drawn_S) + 1)))


def tails(level: float) -> tuple[float, float]:
    """The percentiles between which `level` of the draws lie."""
    tail = 100 * (1 - level) / 2
    return tail, 100 - tail


def drawn_means(user_UM: NDArray[Any], seed: int, draws: int) -> Float64s:
    """Mean differences of a question in users drawn again, [draws, M].

    Args:
        user_UM: [U, 1 + M], a user's number of questions, then the sums of his M differences.
        seed: of the draws.
        draws: of U users each.
    """
    kinds, counts = np.unique(user_UM, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    found, step = [], max(1, COUNTS_AT_ONCE // len(kinds))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        total = rng.multinomial(len(user_UM), counts / len(user_UM), size=size) @ kinds
        found.append(total[:, 1:] / total[:, :1])
    return np.concatenate(found)


def wilcoxon(first_U: NDArray[Any], second_U: NDArray[Any]) -> Paired:
    """Wilcoxon's signed-rank test over users (1945), by its normal approximation.

    Users without a difference are dropped, ties have their mean rank, and the variance is that of
    the ranks as they are. Of fewer than ten users who differ the approximation is rough. The
    interval is not the test's: it is that of the mean difference, by its standard error.

    Args:
        first_U: what each user adds to the metric by the first ranking.
        second_U: by the second, of the same users in the same order.

    Raises:
        ValueError: not the same number of users, or none.
    """
    difference_U = _differences(first_U, second_U)
    users, mean = len(difference_U), float(difference_U.mean())
    error = float(difference_U.std(ddof=1)) / math.sqrt(users) if users > 1 else 0.0
    half = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    positive, expected, variance = signed_ranks(difference_U)
    z = abs(positive - expected) / math.sqrt(variance) if variance else 0.0
    p = math.erfc(z / math.sqrt(2))
    return Paired(difference=mean, low=mean - half, high=mean + half, p=p, users=users)


def signed_ranks(difference_U: NDArray[Any]) -> tuple[float, float, float]:
    """Sum of the positive differences' ranks by size, its mean and its variance under chance.

    Under chance each user who differs has either sign with 1/2, so that a rank r adds r/2 to the
    mean and r^2/4 to the variance, ties or not.

    >>> signed_ranks(np.array([3.0, -1.0, 0.0, 1.0]))
    (4.5, 3.0, 3.375)
    """
    some = difference_U[difference_U != 0]
    _, index, counts = np.unique(np.abs(some), return_inverse=True, return_counts=True)
    rank_of = np.cumsum(counts) - (counts - 1) / 2
    rank = rank_of[index]
    return float(rank[some > 0].sum()), float(rank.sum() / 2), float((rank**2).sum() / 4)


def _differences(first_U: NDArray[Any], second_U: NDArray[Any]) -> Float64s:
    if len(first_U) != len(second_U) or not len(first_U):
        raise ValueError(f"{len(first_U)} users are paired with {len(second_U)}")
    return second_U.astype(np.float64) - first_U.astype(np.float64)
