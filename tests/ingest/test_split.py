import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.errors import InputError
from pmm.ingest.targets.split import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALID,
    cold_cuts,
    leave_one_out,
    temporal,
)

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def users(lengths: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


@given(LENGTHS)
def test_leave_one_out_takes_the_last_two_of_those_with_three(lengths):
    expected: list[int] = []
    for length in lengths:
        long = [TRAIN] * (length - 2) + [VALID, TEST]
        expected += long if length >= 3 else [LEFT_OUT] * length
    assert leave_one_out(users(lengths)).tolist() == expected


def slow_temporal(user: list[int], time: list[int]) -> list[int]:
    ordered = sorted(time)
    points = ordered[int(0.8 * len(time))], ordered[int(0.9 * len(time))]
    spans = [sum(moment >= point for point in points) for moment in time]
    parts = []
    for position, span in enumerate(spans):
        before = [user[p] == user[position] and spans[p] == span for p in range(position)]
        parts.append(LEFT_OUT if span != TRAIN and any(before) else span)
    parts_of = {u: [p for v, p in zip(user, parts, strict=True) if v == u] for u in user}
    whole = {u for u in user if {0, 1, 2} <= set(parts_of[u])}
    return [part if u in whole else LEFT_OUT for u, part in zip(user, parts, strict=True)]


@settings(max_examples=60)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_temporal_parts_are_those_of_the_definition(lengths, random):
    user = users(lengths).tolist()
    time = [t for n in lengths for t in sorted(random.randrange(30) for _ in range(n))]
    expected = slow_temporal(user, time)
    if TEST not in expected:
        with pytest.raises(InputError, match="leaves no user"):
            temporal(np.array(user, np.int32), np.array(time))
        return
    parts = temporal(np.array(user, np.int32), np.array(time))
    assert parts.tolist() == expected
    latest = {
        part: [t for t, p in zip(time, expected, strict=True) if p == part] for part in range(3)
    }
    assert max(latest[TRAIN]) < min(latest[VALID]) <= max(latest[VALID]) < min(latest[TEST])


def test_temporal_needs_times():
    with pytest.raises(InputError, match="needs times"):
        temporal(np.zeros(3, np.int32), None)


@settings(max_examples=60)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_cold_cuts_end_on_every_cold_item_that_has_a_history(lengths, random):
    user = users(lengths)
    item = np.array([random.randrange(1, 7) for _ in user], np.int32)
    cold = np.array([random.random() < 0.4 for _ in range(7)])
    found = list(zip(*(each.tolist() for each in cold_cuts(user, item, cold)), strict=True))
    expected = []
    for u, length in enumerate(lengths):
        sequence = item[user == u].tolist()
        expected += [(u, p, sequence[p]) for p in range(1, length) if cold[sequence[p]]]
    assert found == expected


def test_the_cuts_of_a_user_of_a_hundred_thousand_actions_are_as_long_as_the_actions():
    actions = 100_000
    user, item = np.zeros(actions, np.int32), np.arange(1, actions + 1, dtype=np.int32)
    found = cold_cuts(user, item, np.ones(actions + 1, bool))
    assert sum(each.nbytes for each in found) == 3 * 4 * (actions - 1)
