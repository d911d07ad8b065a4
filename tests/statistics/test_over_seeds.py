"""Mean and interval over seeds against tables of Student's t."""

import math
import random
import statistics

import pytest

from pmm.statistics.over_seeds import over_seeds, t_quantile

TABLE = {
    (0.95, 1): 12.706,
    (0.95, 2): 4.303,
    (0.95, 3): 3.182,
    (0.95, 4): 2.776,
    (0.95, 9): 2.262,
    (0.95, 30): 2.042,
    (0.95, 120): 1.980,
    (0.90, 5): 2.015,
    (0.99, 2): 9.925,
    (0.99, 7): 3.499,
}
"""As printed in books."""


@pytest.mark.parametrize(("level", "freedom"), TABLE)
def test_quantiles_are_those_of_the_printed_table(level: float, freedom: int) -> None:
    assert t_quantile(level, freedom) == pytest.approx(TABLE[level, freedom], abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 29, 1000, 20_001])
def test_quantiles_are_those_of_scipy(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for level in (0.5, 0.95, 0.999):
        expected = stats.t.ppf((1 + level) / 2, freedom)
        assert t_quantile(level, freedom) == pytest.approx(expected, rel=1e-8)


def test_a_single_seed_has_no_interval_and_none_has_no_mean() -> None:
    assert (over_seeds([0.5]).mean, over_seeds([0.5]).half) == (0.5, None)
    assert math.isnan(over_seeds([]).mean)
    assert over_seeds([0.1, 0.1, 0.1]).half == 0


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    rng, held, n = random.Random(0), 0, 2_000
    for _ in range(n):
        values = [rng.gauss(1.0, 0.3) for _ in range(3)]
        found = over_seeds(values)
        assert found.mean == pytest.approx(statistics.mean(values))
        held += abs(found.mean - 1.0) <= (found.half or 0)
    assert held / n == pytest.approx(0.95, abs=0.015)  # three deviations


@pytest.mark.parametrize(("level", "freedom"), [(0.0, 2), (1.0, 2), (0.95, 0)])
def test_what_has_no_quantile_is_refused(level: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(level, freedom)
