"""Ranks by counting, against the slowest possible loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.errors import PmmError
from pmm.evaluate import popularity_and_chance as references
from pmm.evaluate.ranking import (
    Queries,
    Scratch,
    count_candidates,
    rank_by_item_score,
    rank_users,
    top_items,
)
from pmm.shards.sequence_shards import Lists


def queries(targets: list[int], histories: list[list[int]]) -> Queries:
    return Queries(
        user_U=np.arange(len(targets), dtype=np.int32),
        target_U=np.array(targets, dtype=np.int32),
        history=Lists(
            offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
            values=np.array([item for each in histories for item in each], dtype=np.int32),
        ),
    )


def slow_ranks(score: list[list[float]], asked: Queries, keep: bool) -> list[int]:
    """The definition: one loop over users, one over items."""
    ranks = []
    for row, target in enumerate(asked.target_U):
        rank, history = 1, asked.history[row].tolist()
        for item in range(1, len(score[row]) + 1):
            if item == target or (item in history and not keep):
                continue
            rank += score[row][item - 1] >= score[row][target - 1]
        ranks.append(rank)
    return ranks


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, Queries, bool]:
    """Vectors of small integers (exact scores, many ties), histories with repeats and targets."""
    n, users, width = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    values = st.integers(-2, 2)
    vectors = st.lists(values, min_size=width, max_size=width)
    item = torch.tensor(draw(st.lists(vectors, min_size=n, max_size=n))).float()
    user = torch.tensor(draw(st.lists(vectors, min_size=users, max_size=users))).float()
    number = st.integers(1, n)
    targets = draw(st.lists(number, min_size=users, max_size=users))
    histories = draw(st.lists(st.lists(number, max_size=8), min_size=users, max_size=users))
    return user, item, queries(targets, histories), draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(small_worlds(), st.integers(1, 13))
def test_ranks_equal_the_slow_definition_for_any_chunk_size(
    world: tuple[torch.Tensor, torch.Tensor, Queries, bool], chunk: int
) -> None:
    user, item, asked, keep = world
    found = rank_users(user, item, asked, keep_history=keep, tile=chunk)
    assert found.tolist() == slow_ranks((user @ item.T).tolist(), asked, keep)
    assert (found <= count_candidates(asked, len(item), keep_history=keep)).all()


@settings(max_examples=100, deadline=None)
@given(small_worlds())
def test_popularity_ranks_equal_the_slow_definition(
    world: tuple[torch.Tensor, torch.Tensor, Queries, bool],
) -> None:
    _, item, asked, keep = world
    score = item[:, 0].numpy()
    slow = slow_ranks([score.tolist()] * len(asked), asked, keep)
    assert rank_by_item_score(score, asked, keep_history=keep).tolist() == slow


def test_hand_ranks_with_ties_history_and_a_repeated_target() -> None:
    score = torch.tensor([[5.0], [4.0], [4.0], [3.0], [9.0]])
    asked = queries([2, 4, 1, 5], [[], [5, 1, 5], [1, 5], [1, 2, 3, 4]])
    # item 2 loses to 5, 1 and its tie 3; item 4 to 2 and 3; item 1 is repeated and kept
    assert rank_users(torch.ones(4, 1), score, asked).tolist() == [4, 3, 1, 1]
    assert rank_users(torch.ones(4, 1), score, asked, keep_history=True).tolist() == [4, 5, 2, 1]
    assert count_candidates(asked, 5).tolist() == [5, 3, 4, 1]
    assert asked.repeated().sum() == 1


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_a_constant_model_ranks_every_target_last(value: float) -> None:
    asked = queries([1, 50, 100], [[2], [], [3, 4]])
    found = rank_users(torch.full((3, 64), 0.3), torch.full((100, 64), value), asked)
    assert found.tolist() == [99, 100, 98]


def test_ranks_do_not_depend_on_chunks_or_on_the_order_of_users() -> None:
    generator = torch.Generator().manual_seed(1)
    user = torch.randn(37, 96, generator=generator)
    item = torch.randn(501, 96, generator=generator)
    item[250:] = item[:251].clone()  # every item has an equal twin in another place
    asked = queries([1 + 13 * u for u in range(37)], [[u + 1, u + 2] for u in range(37)])
    whole = rank_users(user, item, asked)
    for chunk in (1, 7, 64, 500):
        assert (rank_users(user, item, asked, tile=chunk) == whole).all()
    alone = [int(rank_users(user[u : u + 1], item, asked.rows(u, u + 1))[0]) for u in range(37)]
    assert alone == whole.tolist()


def test_nearly_equal_items_are_ranked_as_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(2)
    item = 1 + 1e-6 * torch.randn(300, 128, generator=generator)
    user = torch.randn(20, 128, generator=generator)
    asked = queries(list(range(1, 21)), [[]] * 20)
    exact = (user.double() @ item.double().T).float().tolist()
    assert rank_users(user, item, asked, tile=64).tolist() == slow_ranks(exact, asked, True)


def test_crowded_tiles_beside_others_are_ranked_as_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(4)
    item = torch.randn(700, 32, generator=generator)
    item[130:420] = 1 + 1e-6 * torch.randn(290, 32, generator=generator)  # tiles 2 to 6 of 11
    user = torch.randn(9, 32, generator=generator)
    asked = queries([5, 131, 200, 300, 419, 420, 421, 600, 700], [[]] * 9)
    exact = (user.double() @ item.double().T).float().tolist()
    scratch = Scratch()
    for tile in (64, 200):
        found = rank_users(user, item, asked, tile=tile, scratch=scratch)
        assert found.tolist() == slow_ranks(exact, asked, True)


def test_the_same_memory_serves_inside_and_outside_of_inference_mode() -> None:
    scratch, asked = Scratch(), queries([1, 2], [[], []])
    user, item = torch.randn(2, 4), torch.randn(6, 4)
    with torch.inference_mode():
        inside = rank_users(user, item, asked, scratch=scratch)
    assert (rank_users(user, item, asked, scratch=scratch) == inside).all()
    assert (rank_users(user.requires_grad_(), item, asked) == inside).all()


def test_nobody_is_ranked_without_users() -> None:
    assert rank_users(torch.zeros(0, 4), torch.ones(3, 4), queries([], [])).tolist() == []


def test_a_vector_that_is_no_number_is_refused_with_how_many() -> None:
    item = torch.ones(5, 2)
    item[1, 0], item[3, 1] = torch.nan, torch.inf
    with pytest.raises(PmmError, match="2 of 5 item vectors hold NaN"):
        rank_users(torch.ones(1, 2), item, queries([1], [[]]))
    with pytest.raises(PmmError, match="1 of 1 user vectors hold NaN"):
        rank_users(torch.full((1, 2), torch.nan), torch.ones(5, 2), queries([1], [[]]))
    with pytest.raises(PmmError, match="1 of 2 item scores"):
        rank_by_item_score(np.array([1.0, np.nan], np.float32), queries([1], [[]]))


def test_random_vectors_and_the_chance_reference_hit_ten_of_n() -> None:
    users, n = 4000, 200
    generator = torch.Generator().manual_seed(3)
    asked = queries([1 + u % n for u in range(users)], [[]] * users)
    vectors = torch.randn(users, 16, generator=generator), torch.randn(n, 16, generator=generator)
    # 10/200 with a standard error of 0.0034; five of them
    assert abs(np.mean(rank_users(*vectors, asked) <= 10) - 0.05) < 0.018
    chance = references.rank_by_chance(asked, n, seed=5)
    assert abs(np.mean(chance <= 10) - 0.05) < 0.018
    assert chance.min() == 1
    assert chance.max() == n


def test_the_chance_rank_of_a_user_depends_on_seed_and_user_alone() -> None:
    asked = queries([1, 2, 3, 4], [[], [1], [], [2]])
    whole = references.rank_by_chance(asked, 1000, seed=7)
    assert references.rank_by_chance(asked.rows(2, 4), 1000, seed=7).tolist() == whole[2:].tolist()
    assert references.rank_by_chance(asked, 1000, seed=8).tolist() != whole.tolist()


def test_popularity_counts_equal_items_against_itself() -> None:
    counts = np.array([7, 3, 3, 0, 3], dtype=np.int32)
    asked = queries([2, 4, 3], [[], [], [1, 5]])
    assert references.rank_by_popularity(counts, asked).tolist() == [4, 5, 2]


def test_top_items_leave_the_history_out_and_agree_with_the_rank() -> None:
    item = torch.tensor([[3.0], [9.0], [5.0], [1.0]])
    asked = queries([3, 1], [[2], [1, 2, 3, 4]])
    found = top_items(torch.ones(2, 1) @ item.T, asked, k=3)
    assert found.tolist() == [[3, 1, 4], [1, 0, 0]]
    assert rank_users(torch.ones(2, 1), item, asked).tolist() == [1, 1]
