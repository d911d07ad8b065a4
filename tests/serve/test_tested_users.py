"""Test users: found by id, and a model held against the ranks that they were given."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from pmm.recommend.answers import TestUser
from pmm.serve.tested_users import RankCheck, TestedUsers, check_ranks


@pytest.fixture(scope="module")
def served(loaded: Callable[[str], Any]) -> Any:
    return loaded("first")


def one_by_one(users: TestedUsers, shift: int = 0) -> list[TestUser]:
    """The same users as bundles give them."""
    all_of_them = users.spread(len(users))
    return [dataclasses.replace(each, rank=(each.rank or 0) + shift) for each in all_of_them]


def test_users_that_are_given_one_by_one_are_the_same(served: Any) -> None:
    given = one_by_one(served.users)
    again = TestedUsers.of(given)
    assert one_by_one(again) == given
    assert [again.find(each.user_id) for each in given] == list(range(len(given)))
    assert again.find("nobody") is None
    assert len(TestedUsers.of([])) == len(TestedUsers.none()) == 0


def test_a_model_is_held_against_the_ranks_of_its_evaluation(served: Any) -> None:
    users = served.users
    assert check_ranks(served.model, users) == RankCheck(users=24, same=24)
    assert check_ranks(served.model, TestedUsers.none()) == RankCheck(users=0, same=0)
    wrong = check_ranks(served.model, TestedUsers.of(one_by_one(users, shift=2)))
    assert wrong == RankCheck(users=24, same=0)
    half = [*one_by_one(users)[:12], *one_by_one(users, shift=2)[12:]]
    assert dataclasses.astuple(check_ranks(served.model, TestedUsers.of(half))) == (24, 12)
