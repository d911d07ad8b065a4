"""Whether a few users or items make most of the interactions."""

import math
from dataclasses import dataclass

import numpy as np

from pmm.arrays import Int64s


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """How uneven counts are. Fractions."""

    top_share: float
    """What the busiest 1 % (at least one) have of all."""
    gini: float
    """0: all have the same; towards 1: one has all."""


def concentration(counts: Int64s) -> Concentration:
    """Of the interactions of each user or item that has some.

    >>> concentration(np.array([1, 1, 1, 1])), concentration(np.array([0, 1, 1, 98])).top_share
    (Concentration(top_share=0.25, gini=0.0), 0.98)
    """
    ordered = np.sort(counts[counts > 0])
    total, n = int(ordered.sum()), len(ordered)
    top = ordered[-math.ceil(n / 100) :]
    # Half the mean difference of two drawn ones over the mean, by the places in order.
    places = 2 * np.arange(1, n + 1) - n - 1
    return Concentration(
        top_share=round(float(top.sum() / total), 6),
        gini=round(float((places * ordered).sum() / (n * total)), 6),
    )
