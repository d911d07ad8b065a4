"""How much popularity a ranking holds, chosen when ranking: logit + alpha * log of an item's share.

A model that was trained without the correction of popularity (docs/paper.md R14) ranks by what fits
the user. A share of popularity added to its logits lifts the hit ratio where few items are had by
many, at the cost of items that nobody has had; one model serves both.

Shape suffixes: N items of the catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KAPPA = 5.0
"""Occurrences added to those of each item: a new item is rare, not impossible."""
ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""Shares that are tried on the validation items."""
WITHIN = 0.02
"""What of the hit ratio a "balanced" ranking may give up."""


@dataclass(frozen=True, kw_only=True)
class PopularityMix:
    """How much popularity a ranking holds."""

    alpha: float = 0.0
    """What the log of an item's share is multiplied by; negative: rare items are preferred."""
    kappa: float = KAPPA
    """Occurrences added to those of each item."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.alpha):
            raise ValueError(f"popularity_alpha = {self.alpha} is no number")
        if not (np.isfinite(self.kappa) and self.kappa > 0):
            raise ValueError(f"popularity_kappa = {self.kappa} must be above 0")

    def log_share(self, count_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """log((count + kappa) / sum(count + kappa)) of each item, float32 [N].

        >>> PopularityMix(kappa=1.0).log_share(np.array([0, 2])).round(3).tolist()
        [-1.3860000371932983, -0.2879999876022339]
        """
        smoothed_N = count_N.astype(np.float64) + self.kappa
        log_N: NDArray[np.float32] = np.log(smoothed_N / smoothed_N.sum()).astype(np.float32)
        return log_N


NO_POPULARITY = PopularityMix()


@dataclass(frozen=True, kw_only=True)
class ChosenMix:
    """What the validation items say."""

    chosen: float
    """The alpha of the highest hit ratio; of several the one nearest to 0."""
    balanced: float
    """The alpha nearest to 0 whose hit ratio is within two points of the highest."""


def choose(hit_rate_of: Mapping[float, float]) -> ChosenMix:
    """The alphas that the hit ratios on the validation items speak for.

    >>> choose({-0.5: 0.10, 0.0: 0.30, 0.25: 0.315, 0.75: 0.33})
    ChosenMix(chosen=0.75, balanced=0.25)
    """
    best = max(hit_rate_of.values())
    # 1e-9: two points less are two points less however the fractions are rounded.
    near = [alpha for alpha, value in hit_rate_of.items() if value >= best - WITHIN - 1e-9]
    top = [alpha for alpha, value in hit_rate_of.items() if value == best]
    return ChosenMix(chosen=min(top, key=_nearest), balanced=min(near, key=_nearest))


def _nearest(alpha: float) -> tuple[float, float]:
    """By size; of two of one size the positive one first."""
    return abs(alpha), -alpha
