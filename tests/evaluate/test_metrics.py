"""Metrics from ranks alone."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.evaluate.metrics import BUCKETS, hit_rate, ndcg, summarise


def table(ranks: list[int], counts: list[int]) -> pa.Table:
    return pa.table({"rank": pa.array(ranks, pa.int32()), "train_count": pa.array(counts)})


def test_four_users_by_hand() -> None:
    found = summarise(table([1, 2, 15, 60], [100, 3, 3, 0]))
    assert found["users"] == 4
    assert [found["hr@10"], found["hr@20"], found["hr@50"]] == [2 / 4, 3 / 4, 3 / 4]
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 4)
    assert found["ndcg@20"] == pytest.approx((1 + 1 / math.log2(3) + 1 / 4) / 4)
    assert found["cold"]["users"] == 3
    assert [(b["train_count"], b["users"]) for b in found["buckets"]] == [
        *(("0", 1), ("1-4", 2), ("5-9", 0), ("10-49", 0), ("50+", 1)),
    ]
    assert found["buckets"][1]["hr@10"] == 1 / 2


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_ndcg_grows_within_the_bounds_that_hr_sets(ranks: list[int]) -> None:
    """A bound which a third of the paper's own table violates."""
    rank = np.array(ranks)
    for low, high in ((10, 20), (20, 50), (10, 50)):
        more_hits = hit_rate(rank, high) - hit_rate(rank, low)
        more_gain = ndcg(rank, high) - ndcg(rank, low)
        assert more_gain >= more_hits / math.log2(high + 1) - 1e-12
        assert more_gain <= more_hits / math.log2(low + 2) + 1e-12


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 300)), min_size=1, max_size=40))
def test_buckets_share_out_every_user_once(rows: list[tuple[int, int]]) -> None:
    found = summarise(table([rank for rank, _ in rows], [count for _, count in rows]))
    assert sum(bucket["users"] for bucket in found["buckets"]) == len(rows)
    whole = sum(b["users"] * b.get("hr@10", 0.0) for b in found["buckets"]) / len(rows)
    assert whole == pytest.approx(found["hr@10"])
    assert len(found["buckets"]) == len(BUCKETS)


def test_targets_that_a_user_has_had_before_are_measured_apart() -> None:
    columns = {"rank": [1, 1, 30], "train_count": [5, 5, 5]}
    found = summarise(pa.table(columns), np.array([True, False, False]))
    assert (found["users"], found["new"]["users"]) == (3, 2)
    assert (found["hr@10"], found["new"]["hr@10"]) == (2 / 3, 1 / 2)
