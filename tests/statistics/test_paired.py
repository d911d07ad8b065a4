"""Paired tests over users against literal ones: drawing users one by one, and all signs."""

import itertools

import numpy as np
import pytest

from pmm.statistics.paired import bootstrap, signed_ranks, wilcoxon
from pmm.statistics.values import gains, hits

RNG = np.random.default_rng(5)
FIRST_U, SECOND_U = RNG.integers(1, 60, 300), RNG.integers(1, 50, 300)


def test_values_are_those_of_the_definitions() -> None:
    for rank, hit, gain in zip(FIRST_U, hits(FIRST_U, 20), gains(FIRST_U, 20), strict=True):
        assert hit == (1 if rank <= 20 else 0)
        assert gain == pytest.approx(1 / np.log2(rank + 1) if rank <= 20 else 0)
    assert gains(np.array([0]), 10) == 0


def test_the_bootstrap_is_that_of_drawing_users_one_by_one() -> None:
    first_U, second_U = hits(FIRST_U, 10), hits(SECOND_U, 10)
    found = bootstrap(first_U, second_U, samples=20_000, seed=1)
    difference_U = second_U - first_U
    drawn = difference_U[RNG.integers(0, 300, (20_000, 300))].mean(1)
    assert found.difference == pytest.approx(difference_U.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1 / 299)
    literal = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert 0.001 < literal < 0.9  # or the next line would show nothing
    assert found.p == pytest.approx(literal, rel=0.15)
    assert found.users == 300


def test_p_is_that_of_both_sides_and_never_zero() -> None:
    low_U, high_U = np.zeros(50), np.ones(50)
    assert bootstrap(low_U, high_U, samples=99).p == 1 / 100
    assert bootstrap(high_U, low_U, samples=99).p == 1 / 100
    assert bootstrap(low_U, low_U, samples=99).p == 1
    one, other = hits(FIRST_U, 10), hits(SECOND_U, 10)
    assert bootstrap(one, other).p == pytest.approx(bootstrap(other, one).p, rel=0.2)


@pytest.mark.parametrize("test", [bootstrap, wilcoxon])
def test_chance_alone_is_found_as_rarely_as_p_says(test: object) -> None:
    rng, found = np.random.default_rng(2), []
    for _ in range(400):
        rank_2U = rng.integers(1, 40, (2, 200))
        how = {"samples": 500} if test is bootstrap else {}
        found.append(test(*gains(rank_2U, 20), **how).p)  # type: ignore[operator]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.08)


def all_signs(difference_U: np.ndarray) -> np.ndarray:
    """The sums of positive ranks of all assignments of signs, each as likely under chance."""
    size = np.abs(difference_U[difference_U != 0])
    rank = np.array([(size < each).sum() + ((size == each).sum() + 1) / 2 for each in size])
    signs = np.array(list(itertools.product([0, 1], repeat=len(size))))
    return signs @ rank


@pytest.mark.parametrize(
    "difference_U",
    [[1, -2, 3, 4, -5, 6], [1, 1, 1, -1, 2, 2], [0, 0, 3, -1], [0.5] * 8, [-1, 0, 0]],
)
def test_ranks_under_chance_are_those_of_all_signs(difference_U: list[float]) -> None:
    difference = np.array(difference_U, dtype=float)
    positive, expected, variance = signed_ranks(difference)
    every = all_signs(difference)
    assert positive in every
    assert (expected, variance) == pytest.approx((every.mean(), every.var()))


@pytest.mark.parametrize("seed", range(4))
def test_p_of_wilcoxon_is_near_that_of_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    second_U = rng.normal(0.4, 1, 14).round(1)
    every = all_signs(second_U)
    positive, expected, _ = signed_ranks(second_U)
    exact = np.mean(np.abs(every - expected) >= abs(positive - expected) - 1e-9)
    assert wilcoxon(np.zeros(14), second_U).p == pytest.approx(exact, abs=0.03)


def test_p_of_wilcoxon_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    first_U, second_U = gains(FIRST_U, 50), gains(SECOND_U, 50)
    expected = stats.wilcoxon(second_U - first_U, method="asymptotic", correction=False).pvalue
    assert wilcoxon(first_U, second_U).p == pytest.approx(expected, rel=1e-9)
    assert wilcoxon(first_U, first_U).p == 1


@pytest.mark.parametrize("test", [bootstrap, wilcoxon])
def test_other_users_are_refused(test: object) -> None:
    with pytest.raises(ValueError, match="3 users are paired with 2"):
        test(np.zeros(3), np.zeros(2))  # type: ignore[operator]
