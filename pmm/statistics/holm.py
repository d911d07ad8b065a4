"""Holm's correction: several tests at once, and the chance of one false alarm among them."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1 and so on; none is less than one before
    it, nor more than 1. Where those below a level are called found, the chance that any of them is
    a false alarm is at most the level, whatever the tests have to do with each other.

    Args:
        p_values: of all tests that are shown together.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    m, adjusted, most = len(p_values), [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(m), key=lambda k: p_values[k])):
        most = max(most, min(1.0, (m - place) * p_values[index]))
        adjusted[index] = most
    return adjusted
