import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.errors import InputError
from pmm.ingest.targets.k_core import find_core, propose_cores, require_core

ROWS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60)


def codes(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(rows, np.int32).reshape(-1, 2)
    return array[:, 0].copy(), array[:, 1].copy()


def slow_core(rows: list[tuple[int, int]], user_core: int, item_core: int) -> list[int]:
    """The definition: while a user or an item has too few rows, drop one such row."""
    left = list(range(len(rows)))
    while True:
        for position in left:
            user = sum(rows[other][0] == rows[position][0] for other in left)
            item = sum(rows[other][1] == rows[position][1] for other in left)
            if user < user_core or item < item_core:
                left.remove(position)
                break
        else:
            return left


@settings(max_examples=100)
@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_the_core_is_that_of_the_definition(rows, user_core, item_core):
    core = find_core(*codes(rows), user_core, item_core)
    assert core.rows.tolist() == slow_core(rows, user_core, item_core)


@settings(max_examples=50)
@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_rounds_add_up_to_the_rows_that_went(rows, user_core, item_core):
    core = find_core(*codes(rows), user_core, item_core)
    assert sum(each.dropped for each in core.rounds) == len(rows) - len(core.rows)
    assert all(each.dropped > 0 for each in core.rounds)


def test_an_empty_core_shows_its_rounds_and_what_would_leave_something():
    # A chain: every user has two items and every item two users, at most.
    rows = [(user, item) for user in range(4) for item in (user, user + 1)]
    with pytest.raises(InputError) as error:
        require_core(*codes(rows), 3, 2)
    message = str(error.value)
    assert "began with 8 interactions" in message
    assert "after round 1: 0 interactions, 0 users, 0 items" in message
    assert "--user-core 2 --item-core 1  leaves 8 interactions" in message


@settings(max_examples=40)
@given(ROWS.filter(bool), st.integers(1, 6), st.integers(1, 6))
def test_proposed_cores_leave_something_and_one_more_leaves_nothing(rows, user_core, item_core):
    if len(slow_core(rows, user_core, item_core)):
        return
    found = propose_cores(*codes(rows), user_core, item_core)
    assert found
    for user, item, left in found:
        assert left == len(slow_core(rows, user, item)) > 0
        step = (min(user + 1, user_core), min(item + 1, item_core))
        assert not slow_core(rows, *step)
