"""Holm's correction against an example by hand and its definition step by step."""

import numpy as np
import pytest

from pmm.statistics.holm import holm


def test_an_example_by_hand() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not be less than the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def rejected_step_down(p_values: list[float], level: float) -> set[int]:
    """As Holm wrote it: from the smallest on, as long as it is below level / (tests left)."""
    order, found = sorted(range(len(p_values)), key=lambda k: p_values[k]), set[int]()
    for place, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - place):
            break
        found.add(index)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_adjusted_values_reject_what_the_step_down_rejects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_values = (rng.random(12) ** 4).tolist()
    adjusted = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.2):
        below = {k for k, p in enumerate(adjusted) if p <= level}
        assert below == rejected_step_down(p_values, level)


def test_false_alarms_stay_as_rare_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    tables = rng.random((4_000, 20))
    any_found = np.mean([min(holm(row.tolist())) <= 0.05 for row in tables])
    assert any_found == pytest.approx(0.05, abs=0.012)
    assert np.mean((tables <= 0.05).any(1)) > 0.5  # without it more than half of the tables alarm
