"""Popularity and item kNN on any split of a target's rows.

Shape legend: U users of the split, N items; items are 1..N.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int32s, Int64s
from pmm.evaluate.neighbours import item_neighbours, rank_by_neighbours
from pmm.evaluate.popularity_and_chance import rank_by_popularity
from pmm.evaluate.ranking import Queries
from pmm.ingest.targets.split import LEFT_OUT, TEST, TRAIN, Parts
from pmm.shards.sequence_shards import Lists


@dataclass(frozen=True, kw_only=True)
class SplitQuestions:
    """A split as it is asked for its test items."""

    train: Lists
    queries: Queries
    """The users of the split, 0..U-1, with training and validation items as their histories."""
    n_items: int

    @property
    def count_N(self) -> Int64s:
        """Occurrences in the training part."""
        return np.bincount(self.train.values, minlength=self.n_items + 1)[1:]


def asked_of(user: Int32s, item: Int32s, parts: Parts, n_items: int) -> SplitQuestions:
    """The test questions of R rows by user and time; each user of a part has all three.

    Args:
        user: [R] ascending.
        item: [R] 1..N.
        parts: [R] which are trained on, validated and tested.
        n_items: N.
    """
    stays = parts != LEFT_OUT
    codes, number = np.unique(user[stays], return_inverse=True)
    item, parts = item[stays], parts[stays]
    return SplitQuestions(
        train=_lists(number, item, parts == TRAIN, len(codes)),
        queries=Queries(
            user_U=np.arange(len(codes), dtype=np.int32),
            target_U=item[parts == TEST],
            history=_lists(number, item, parts != TEST, len(codes)),
        ),
        n_items=n_items,
    )


def _lists(user: Int64s, item: Int32s, mask: NDArray[np.bool_], n_users: int) -> Lists:
    lengths = np.bincount(user[mask], minlength=n_users)
    return Lists(offsets=np.concatenate([[0], np.cumsum(lengths)]), values=item[mask])


def floor_ranks(asked: SplitQuestions, *, keep_history: bool = False) -> dict[str, Int32s]:
    """Ranks of the test items by what needs no training, by name. [U]"""
    near = item_neighbours(asked.train, asked.n_items)
    return {
        "popularity": rank_by_popularity(asked.count_N, asked.queries, keep_history=keep_history),
        "item kNN": rank_by_neighbours(near, asked.queries, keep_history=keep_history),
    }
