"""The k best items by the defining score, against sorting all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.recommend.top_k import defined_scores, top_k, top_of_scores


def sorted_all(user, items, allowed, k, added) -> tuple[list[int], list[float]]:
    """By Python, one product after the other in fp64."""
    scores = []
    for row, item in enumerate(items):
        total = sum(float(a) * float(b) for a, b in zip(user, item, strict=True))
        scores.append(np.float32(total + (0.0 if added is None else float(added[row]))))
    order = [row for row in range(len(items)) if allowed[row]]
    order.sort(key=lambda row: (-scores[row], row))
    return order[:k], [float(scores[row]) for row in order[:k]]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_the_best_are_those_of_a_sort(seed: int, n: int, k: int, mixed: bool) -> None:
    draw = np.random.default_rng(seed)
    user = draw.integers(-3, 4, 5).astype(np.float32)
    items = draw.integers(-2, 3, (n, 5)).astype(np.float32)  # many ties
    allowed = draw.random(n) < 0.7
    added = draw.integers(-1, 2, n).astype(np.float32) if mixed else None
    longest = float(np.linalg.norm(items, axis=1).max())
    rows, scores = top_k(user, items, allowed, k, longest=longest, added_N=added)
    assert (rows.tolist(), scores.tolist()) == sorted_all(user, items, allowed, k, added)


def test_items_that_the_fast_product_cannot_tell_apart_come_in_their_true_order() -> None:
    draw = np.random.default_rng(1)
    user = draw.standard_normal(256).astype(np.float32) * 100
    base = draw.standard_normal(256).astype(np.float32)
    items = np.repeat(base[None], 500, axis=0)
    steps = draw.permutation(500)
    for row, step in enumerate(steps):
        items[row, step % 256] = np.nextafter(items[row, step % 256], np.float32(9), dtype="f4")
    allowed = np.ones(500, dtype=bool)
    longest = float(np.linalg.norm(items, axis=1).max())
    rows, scores = top_k(user, items, allowed, 20, longest=longest)
    exact = defined_scores(user, items)
    assert rows.tolist() == np.lexsort((np.arange(500), -exact))[:20].tolist()
    assert scores.tolist() == exact[rows].tolist()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_fewer_come_only_where_fewer_are_allowed(k: int) -> None:
    items, allowed = np.eye(4, dtype=np.float32), np.array([True, False, True, True])
    rows, _ = top_k(np.ones(4, np.float32), items, allowed, k, longest=1.0)
    assert rows.tolist() == [0, 2, 3][:k]
    rows, scores = top_of_scores(np.float32([1, 9, 2, 2]), allowed, k)
    assert rows.tolist() == [2, 3, 0][:k]
    assert scores.tolist() == [2.0, 2.0, 1.0][:k]
    nothing, _ = top_k(np.ones(4, np.float32), items, allowed & False, k, longest=1.0)
    assert not len(nothing)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 70))
def test_the_best_of_scores_are_those_of_a_sort(seed: int, n: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    scores, allowed = draw.integers(-3, 4, n).astype(np.float32), draw.random(n) < 0.7
    order = [row for row in range(n) if allowed[row]]
    order.sort(key=lambda row: (-scores[row], row))
    rows, best = top_of_scores(scores, allowed, k)
    assert rows.tolist() == order[:k]
    assert best.tolist() == scores[rows].tolist()
