"""Mean and interval of the same training with several seeds: Student's t."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What several seeds measured of one thing."""

    mean: float
    """Of the seeds; NaN of none."""
    half: float | None
    """Half the width of the interval of the mean; None of a single seed, which says nothing of
    others."""
    n: int
    """How many there are."""


def interval_text(mean: float, half: float | None, *, times: float = 1) -> str:
    """A mean and half its interval, both multiplied, with two places.

    >>> interval_text(0.2, 0.01, times=100), interval_text(2.0, None)
    ('20.00 ± 1.00', '2.00')
    """
    return f"{times * mean:.2f}" + ("" if half is None else f" ± {times * half:.2f}")


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Spread:
    """Mean of independent seeds and half the width of Student's interval for it.

    Args:
        values: one a seed.
        level: how often such an interval holds the mean of all seeds.

    >>> found = over_seeds([0.2, 0.3, 0.4])
    >>> round(found.mean, 4), round(found.half or 0, 4), found.n
    (0.3, 0.2484, 3)
    >>> over_seeds([0.2]).half is None
    True
    """
    n = len(values)
    if n < 2:
        return Spread(mean=values[0] if n else math.nan, half=None, n=n)
    error = statistics.stdev(values) / math.sqrt(n)
    return Spread(mean=statistics.mean(values), half=t_quantile(level, n - 1) * error, n=n)


def t_quantile(level: float, freedom: int) -> float:
    """The t with `level` of Student's distribution between -t and t.

    Args:
        level: above 0 and below 1.
        freedom: degrees of freedom, at least 1.

    >>> round(t_quantile(0.95, 2), 3)
    4.303
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"no quantile of Student's t: level {level}, {freedom} degrees of freedom")
    low, high = 0.0, math.pi / 2  # of the angle, so that no bound on t has to be known
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _between(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _between(angle: float, freedom: int) -> float:
    """Share of Student's distribution between -t and t, t = tan(angle) * sqrt(freedom).

    The finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4).
    """
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= square * (k - 1) / k
        total += term
        if term < 1e-18:
            break
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
