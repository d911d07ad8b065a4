"""Item-kNN and content-kNN, against the slowest possible loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.errors import InputError, PmmError
from pmm.evaluate import neighbours
from pmm.evaluate.evaluation import questions
from pmm.evaluate.neighbours import item_neighbours, rank_by_content, rank_by_neighbours, unit
from pmm.evaluate.ranking import Queries
from pmm.shards.sequence_shards import Lists

Similarities = dict[int, dict[int, float]]


def lists(rows: list[list[int]]) -> Lists:
    return Lists(
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        values=np.array([item for each in rows for item in each], dtype=np.int32),
    )


def queries(targets: list[int], histories: list[list[int]]) -> Queries:
    return Queries(
        user_U=np.arange(len(targets), dtype=np.int32),
        target_U=np.array(targets, dtype=np.int32),
        history=lists(histories),
    )


def slow_similarities(
    train: list[list[int]], n: int, shrinkage: float, most: int | None
) -> Similarities:
    """The definition: for each pair of items, count users by looking at all of them."""
    found: Similarities = {}
    for i in range(1, n + 1):
        row = {}
        for j in range(1, n + 1):
            both = sum(i in each and j in each for each in train)
            if i != j and both:
                one, other = (sum(k in each for each in train) for k in (i, j))
                row[j] = both / (math.sqrt(one * other) + shrinkage)
        best = sorted(row, key=lambda j: (-row[j], j))[:most]
        found[i] = {j: row[j] for j in best}
    return found


def slow_ranks(score: list[list[float]], asked: Queries, keep: bool) -> list[int]:
    """1 + the others that score as high or higher, user by user and item by item."""
    ranks = []
    for row, target in enumerate(asked.target_U.tolist()):
        history = asked.history[row].tolist()
        others = [
            item
            for item in range(1, len(score[row]) + 1)
            if item != target and (keep or item not in history)
        ]
        ranks.append(1 + sum(score[row][i - 1] >= score[row][target - 1] for i in others))
    return ranks


def slow_scores(near: Similarities, asked: Queries, window: int) -> list[list[float]]:
    found = []
    for history in (asked.history[row].tolist() for row in range(len(asked))):
        recent = history[-window:]
        sums = [sum(near[i].get(j, 0.0) for i in recent) for j in range(1, len(near) + 1)]
        found.append(np.array(sums, np.float32).tolist())
    return found


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[int, list[list[int]], Queries]:
    """Training sequences with repeats, and queries with other histories."""
    n = draw(st.integers(1, 9))
    sequences = st.lists(st.lists(st.integers(1, n), max_size=7), min_size=1, max_size=7)
    train, histories = draw(sequences), draw(sequences)
    targets = st.lists(st.integers(1, n), min_size=len(histories), max_size=len(histories))
    return n, train, queries(draw(targets), histories)


@settings(max_examples=150, deadline=None)
@given(
    small_worlds(),
    st.sampled_from([0.0, 1.5]),
    st.sampled_from([None, 1, 2]),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([1, 10, 4_000_000]),
)
def test_item_knn_equals_the_slow_definition_for_any_chunk(
    world: tuple[int, list[list[int]], Queries],
    shrinkage: float,
    most: int | None,
    window: int,
    keep: bool,
    at_once: int,
) -> None:
    n, train, asked = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "PAIRS_AT_ONCE", at_once)
        near = item_neighbours(lists(train), n, shrinkage=shrinkage, neighbours=most)
        found = rank_by_neighbours(near, asked, window=window, keep_history=keep)
    slow = slow_similarities(train, n, shrinkage, most)
    for i in range(1, n + 1):
        part = slice(near.offsets[i - 1], near.offsets[i])
        row = dict(zip(near.item[part].tolist(), near.similarity[part].tolist(), strict=True))
        assert row == slow[i]
        assert list(row) == sorted(row)
    assert found.tolist() == slow_ranks(slow_scores(slow, asked, window), asked, keep)


def test_hand_similarities_and_ranks() -> None:
    near = item_neighbours(lists([[1, 2], [1, 2, 3], [3, 4], [1, 1]]), 5)
    rows = [near.item[near.offsets[i] : near.offsets[i + 1]].tolist() for i in range(5)]
    assert rows == [[2, 3], [1, 3], [1, 2, 4], [3], []]
    expected = [2 / 6**0.5, 1 / 6**0.5, 2 / 6**0.5, 0.5, 1 / 6**0.5, 0.5, 2**-0.5, 2**-0.5]
    assert near.similarity.tolist() == pytest.approx(expected)
    # scores after [1]: 2 -> .82, 3 -> .41, 4 and 5 tie at 0, 1 itself is masked
    asked = queries([2, 3, 4, 5], [[1]] * 4)
    assert rank_by_neighbours(near, asked).tolist() == [1, 2, 4, 4]
    # kept, item 1 scores 0 too and counts against 4
    assert rank_by_neighbours(near, asked, keep_history=True).tolist() == [1, 2, 5, 5]
    # only the last item counts: after 3 come 4, then 2, then 1
    last = queries([4, 2, 1], [[1, 3], [1, 1, 3], [3]])
    assert rank_by_neighbours(near, last, window=1).tolist() == [1, 2, 3]


def test_a_user_without_history_or_a_target_without_neighbours_ranks_last() -> None:
    near = item_neighbours(lists([[1, 2], [2, 3]]), 6)
    asked = queries([1, 6], [[], [1, 2]])
    assert rank_by_neighbours(near, asked).tolist() == [6, 4]
    empty = item_neighbours(lists([[], [4]]), 6)
    assert rank_by_neighbours(empty, asked).tolist() == [6, 4]


def test_shrinkage_prefers_the_pair_that_more_users_share() -> None:
    train = lists([[1, 2]] + [[1, 3]] * 4 + [[3]] * 13)
    asked = queries([2, 3], [[1], [1]])
    plain = rank_by_neighbours(item_neighbours(train, 3), asked)
    shrunk = rank_by_neighbours(item_neighbours(train, 3, shrinkage=5.0), asked)
    assert plain.tolist() == [1, 2]  # 1 / sqrt(5) to 4 / sqrt(85)
    assert shrunk.tolist() == [2, 1]


def slow_content(vector: list[list[float]], asked: Queries, window: int) -> list[list[float]]:
    """Cosines to the mean of the window's unit vectors, times that mean's length."""

    def one(values: list[float]) -> list[float]:
        length = math.sqrt(sum(v * v for v in values))
        return [v / length if length else 0.0 for v in values]

    units, found = [one(each) for each in vector], []
    for row in range(len(asked)):
        recent = [units[item - 1] for item in asked.history[row].tolist()[-window:]]
        user = [sum(each[d] for each in recent) for d in range(len(vector[0]))]
        found.append([sum(a * b for a, b in zip(user, each, strict=True)) for each in units])
    return found


@pytest.mark.parametrize(("recent", "length"), [("mean", 4), ("last", 1)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("users_per_chunk", [1, 5, 100])
def test_content_knn_equals_the_slow_definition(
    recent: Any, length: int, keep: bool, users_per_chunk: int
) -> None:
    generator = torch.Generator().manual_seed(4)
    vector = torch.randn(40, 6, generator=generator) * torch.arange(1, 41)[:, None]
    vector[[3, 17]] = 0
    draw = np.random.default_rng(4)
    histories = [draw.integers(1, 41, draw.integers(1, 9)).tolist() for _ in range(30)]
    # items of no vector tie at 0 exactly; of all others no two scores are near one another
    asked = queries(draw.integers(1, 41, 30).tolist(), histories)
    slow = slow_ranks(slow_content(vector.tolist(), asked, length), asked, keep)
    found = rank_by_content(
        vector,
        asked,
        recent=recent,
        window=4,
        keep_history=keep,
        users_per_chunk=users_per_chunk,
    )
    assert found.tolist() == slow


def test_equal_content_ties_and_content_of_nothing_ranks_last() -> None:
    vector = torch.tensor([[1.0, 2.0], [2.0, 4.0], [1.0, 2.0], [0.0, 0.0], [-1.0, 1.0]])
    # after item 1: 2 and 3 have its direction and tie; 5 scores .32, item 4 has no vector
    asked = queries([2, 5, 4, 5], [[1], [1], [1], [4]])
    assert rank_by_content(vector, asked).tolist() == [2, 3, 4, 4]


def test_joined_unit_vectors_add_their_cosines_up() -> None:
    generator = torch.Generator().manual_seed(5)
    text, picture = torch.randn(20, 3, generator=generator), torch.randn(20, 5, generator=generator)
    joined = unit(torch.cat([unit(text), unit(picture)], 1))
    cosines = (unit(text) @ unit(text).T + unit(picture) @ unit(picture).T) / 2
    torch.testing.assert_close(joined @ joined.T, cosines)


def test_options_out_of_range_and_vectors_that_are_no_numbers_are_refused() -> None:
    train, asked = lists([[1, 2]]), queries([1], [[2]])
    for wrong in ({"shrinkage": -1.0}, {"shrinkage": math.nan}, {"neighbours": 0}):
        with pytest.raises(InputError, match="shrinkage must be at least 0"):
            item_neighbours(train, 2, **wrong)
    for rank in (
        lambda: rank_by_neighbours(item_neighbours(train, 2), asked, window=0),
        lambda: rank_by_content(torch.ones(2, 2), asked, window=0),
    ):
        with pytest.raises(InputError, match="window must be at least 1, found 0"):
            rank()
    with pytest.raises(PmmError, match="hold NaN"):
        rank_by_content(torch.tensor([[1.0], [math.nan]]), asked)


def test_nobody_is_ranked_without_an_error() -> None:
    near, nobody = item_neighbours(lists([[1, 2]]), 2), queries([], [])
    assert rank_by_neighbours(near, nobody).tolist() == []
    assert rank_by_content(torch.ones(2, 2), nobody).tolist() == []


def test_in_a_shop_of_chains_the_neighbours_of_the_last_item_hold_the_next(shop: Any) -> None:
    shards = shop.shards()
    asked = questions(shards, "test")
    near = item_neighbours(shards.sequences().train, shards.n_items)
    found = rank_by_neighbours(near, asked, window=2)
    # after item k comes k + 1; by chance a third of the 24 users would have it among ten
    assert (found <= 10).mean() > 0.7


def test_more_pairs_than_there_is_memory_are_refused_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "PAIRS_AT_ONCE", 1000)
    monkeypatch.setattr(neighbours, "free_bytes", lambda: 100 * 5000)
    with pytest.raises(InputError, match="Leave --neighbours"):
        item_neighbours(lists([list(range(1, 301))]), 300)  # 44,850 pairs
    assert item_neighbours(lists([list(range(1, 91))]), 300).n_items == 300  # 4,005
