"""Later training, past popularity and drawn orders of ties, each against the slowest loop."""

import itertools
from collections import Counter

import numpy as np
import pytest

from pmm.audit.concentration import concentration
from pmm.audit.split_questions import SplitQuestions, asked_of, floor_ranks
from pmm.audit.tie_order import tie_order
from pmm.audit.time_leak import rank_by_past_popularity, time_leak
from pmm.audit.timed_rows import TimedRows
from pmm.evaluate.metrics import measure
from pmm.ingest.targets.split import LEFT_OUT, TEST, TRAIN, VALID, leave_one_out

N_ITEMS = 9
Seen = list[tuple[int, int, int]]
"""(user, item, moment) of each row."""


def draw(seed: int, users: int = 25, moments: int = 12) -> tuple[TimedRows, SplitQuestions]:
    """Histories of 3 to 8 rows with ties in time and repeats."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users, dtype=np.int32), rng.integers(3, 9, users))
    moment = rng.integers(0, moments, len(user))
    moment = moment[np.lexsort((moment, user))]
    item = rng.integers(1, N_ITEMS + 1, len(user)).astype(np.int32)
    rows = TimedRows(user=user, item=item, parts=leave_one_out(user), moment=moment)
    return rows, asked_of(user, item, rows.parts, N_ITEMS)


def part_of(rows: TimedRows, part: int) -> Seen:
    assert rows.moment is not None
    columns = (rows.user, rows.item, rows.moment)
    chosen = [column[rows.parts == part].tolist() for column in columns]
    return list(zip(*chosen, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_later_training_is_that_of_the_slowest_loop(seed: int) -> None:
    rows, asked = draw(seed)
    found = time_leak(rows, asked, floor_ranks(asked)["popularity"], seed=0)
    train, tests = part_of(rows, TRAIN), part_of(rows, TEST)
    seen = [
        any(other != user and i == item and when > moment for other, i, when in train)
        for user, item, moment in tests
    ]
    assert found.later_targets == pytest.approx(np.mean(seen))
    assert (0 < np.mean(seen) < 1) == (seed != 4)  # in which no test item was seen later
    later = [np.mean([when > moment for *_, when in train]) for *_, moment in tests]
    assert found.later_rows == pytest.approx(np.mean(later))


@pytest.mark.parametrize("seed", range(6))
def test_past_popularity_counts_what_training_had_before_each_test(seed: int) -> None:
    rows, asked = draw(seed)
    train, valid = part_of(rows, TRAIN), part_of(rows, VALID)
    expected = []
    for user, target, moment in part_of(rows, TEST):
        count = Counter(item for _, item, when in train if when < moment)
        had = {item for who, item, _ in train + valid if who == user} - {target}
        better = [
            item
            for item in range(1, N_ITEMS + 1)
            if item not in had and item != target and count[item] >= count[target]
        ]
        expected.append(1 + len(better))
    assert rank_by_past_popularity(rows, asked).tolist() == expected


def test_past_popularity_is_popularity_where_all_tests_are_last() -> None:
    rows, asked = draw(3)
    assert rows.moment is not None
    rows.moment[rows.parts == TEST] += 100
    popular = floor_ranks(asked)["popularity"]
    assert rank_by_past_popularity(rows, asked).tolist() == popular.tolist()
    assert time_leak(rows, asked, popular, seed=0).gain == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_who_is_decided_by_a_tie_is_that_of_the_slowest_loop(seed: int) -> None:
    rows, asked = draw(seed)
    floors = {name: measure(rank_U) for name, rank_U in floor_ranks(asked).items()}
    found = tie_order(rows, N_ITEMS, floors, draws=1, seed=0)
    every = [row for part in (TRAIN, VALID, TEST) for row in part_of(rows, part)]
    decided = [
        any(who == user and when == moment and i != item for who, i, when in every)
        for user, item, moment in part_of(rows, TEST)
    ]
    assert found.decided_users == pytest.approx(np.mean(decided))
    assert 0 < found.decided_users < 1
    tied = [sum(who == user and when == moment for who, _, when in every) > 1
            for user, _, moment in every]  # fmt: skip
    assert found.tied_rows == pytest.approx(np.mean(tied))


def all_orders(rows: TimedRows) -> set[float]:
    """HR@10's like of popularity, over every order of the tied rows: the hits at rank 1."""
    assert rows.moment is not None
    keys = list(zip(rows.user.tolist(), rows.moment.tolist(), strict=True))
    groups = [list(group) for _, group in itertools.groupby(range(len(keys)), keys.__getitem__)]
    found = set()
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        order = [place for group in orders for place in group]
        asked = asked_of(rows.user, rows.item[order], rows.parts, 60)
        found.add(measure(floor_ranks(asked)["popularity"])["hr@10"])
    return found


def test_drawn_orders_reach_every_order_of_the_ties_and_none_beyond() -> None:
    # Item 1 is popular, items 20 on are not; of two users the last two rows tie.
    user = np.repeat(np.arange(4, dtype=np.int32), [3, 3, 3, 14])
    item = np.array([1, 20, 30, 21, 1, 31, 22, 1, 32, *range(1, 13), 40, 41], np.int32)
    moment = np.array([0, 1, 2, 0, 7, 7, 0, 7, 7, *range(20, 34)])
    rows = TimedRows(user=user, item=item, parts=leave_one_out(user), moment=moment)
    possible = all_orders(rows)
    assert len(possible) == 3
    asked = asked_of(user, item, rows.parts, 60)
    floors = {name: measure(rank_U) for name, rank_U in floor_ranks(asked).items()}
    spread = tie_order(rows, 60, floors, draws=40, seed=0).spread["popularity"]["hr@10"]
    assert (spread.low, spread.high) == (min(possible), max(possible))
    assert spread.low < spread.mean < spread.high
    assert spread.in_file_order == floors["popularity"]["hr@10"] == min(possible)


def test_a_sort_by_item_puts_the_higher_number_last() -> None:
    user = np.repeat(np.arange(2, dtype=np.int32), 3)
    item = np.array([1, 3, 2, 2, 3, 1], np.int32)
    rows = TimedRows(
        user=user, item=item, parts=leave_one_out(user), moment=np.array([0, 5, 5, 0, 5, 5])
    )
    ordered = asked_of(user, np.array([1, 2, 3, 2, 1, 3], np.int32), rows.parts, 3)
    floors = {n: measure(r) for n, r in floor_ranks(asked_of(user, item, rows.parts, 3)).items()}
    found = tie_order(rows, 3, floors, draws=1, seed=0).spread
    for name, rank_U in floor_ranks(ordered).items():
        assert found[name]["ndcg@10"].by_item_id == measure(rank_U)["ndcg@10"]


def test_users_without_a_part_are_not_asked_and_left_out_rows_are_not_had() -> None:
    user = np.array([0, 0, 0, 3, 3, 3, 3], np.int32)
    item = np.array([1, 2, 3, 4, 5, 6, 7], np.int32)
    parts = np.array([0, 1, 2, 0, 1, LEFT_OUT, 2], np.int8)
    asked = asked_of(user, item, parts, 8)
    assert asked.queries.target_U.tolist() == [3, 7]
    assert [asked.queries.history[k].tolist() for k in range(2)] == [[1, 2], [4, 5]]
    assert asked.count_N.tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_gini_is_half_the_mean_difference_over_the_mean(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 30, 250)
    found, there = concentration(counts), [each for each in counts.tolist() if each]
    apart = np.mean([abs(a - b) for a in there for b in there])
    assert found.gini == pytest.approx(apart / (2 * np.mean(there)), abs=1e-6)
    assert found.top_share == pytest.approx(sum(sorted(there)[-3:]) / sum(there), abs=1e-6)
