"""Validation inside categories, for a training whose sequences hold items of one category each.

Such a model has never read a whole sequence of several categories, nor told items of two apart, so
what it makes of them does not say how well it learns. It is asked what it learns: the next item
among those of its category, after the user's items of that category.

Shape legend: N items of a target, M shares of popularity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pmm.arrays import Int64s
from pmm.evaluate.catalogue import Catalogue, rank_mixes
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import questions
from pmm.evaluate.popularity_and_chance import rank_by_popularity
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.evaluate.ranking import Queries, count_candidates
from pmm.model.protocol import Recommender
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What is asked of one category."""

    item_C: Int64s
    """Its items as indices of the target's, ascending; item k of the queries is item_C[k - 1]."""
    queries: Queries
    """By the category's own numbers, 1..C."""


def inside(asked: Queries, of_N: Int64s) -> Iterator[Inside]:
    """The questions of each category: those whose user has an item of it in his history.

    Args:
        asked: of all items.
        of_N: category of item k at k - 1.
    """
    category_U = of_N[asked.target_U - 1]
    for category in np.unique(category_U).tolist():
        item_C = np.flatnonzero(of_N == category)
        number_N = np.zeros(len(of_N) + 1, dtype=np.int32)
        number_N[item_C + 1] = np.arange(1, len(item_C) + 1)
        row_U = np.flatnonzero(category_U == category)
        history = _only(asked.history.take(row_U), number_N)
        some = np.flatnonzero(history.lengths)
        if len(some):
            queries = Queries(
                user_U=asked.user_U[row_U[some]],
                target_U=number_N[asked.target_U[row_U[some]]],
                history=history.take(some),
            )
            yield Inside(item_C=item_C, queries=queries)


def _only(history: Lists, number_N: NDArray[np.int32]) -> Lists:
    """The items that have a number, by it, in their order."""
    number_V = number_N[history.values]
    list_V = np.repeat(np.arange(len(history)), history.lengths)
    lengths = np.bincount(list_V[number_V > 0], minlength=len(history))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lists(offsets=offsets, values=number_V[number_V > 0])


def rank_inside(
    model: Recommender,
    shards: Shards,
    of_N: Int64s,
    options: EvaluateOptions,
    mixes: Sequence[PopularityMix],
    *,
    dtype: torch.dtype,
    catalogue: Catalogue,
) -> list[pa.Table]:
    """The ranks of each share of popularity, as `pmm.evaluate.evaluation.evaluate_mixes`; targets
    have their category's numbers. [M]"""
    tables: list[list[pa.Table]] = [[] for _ in mixes]
    for each in inside(questions(shards, options.split), of_N):
        at_C = torch.from_numpy(each.item_C).to(catalogue.input_ND.device)
        own = Catalogue(
            input_ND=catalogue.input_ND[at_C],
            score_ND=catalogue.score_ND[at_C],
            count_N=catalogue.count_N[each.item_C],
        )
        rank_MU = rank_mixes(
            model,
            own,
            each.queries,
            mixes,
            keep_history=options.keep_history,
            users_per_chunk=options.users_per_chunk,
            dtype=dtype,
        )
        for found, rank_U in zip(tables, rank_MU, strict=True):
            found.append(_table(each, rank_U, own.count_N, options))
    return [pa.concat_tables(found) for found in tables]


def popularity_inside(shards: Shards, of_N: Int64s, options: EvaluateOptions) -> pa.Table:
    """The ranks of the same questions by the items' occurrences in training."""
    found = []
    for each in inside(questions(shards, options.split), of_N):
        count_C = shards.train_count[1:][each.item_C]
        rank_U = rank_by_popularity(count_C, each.queries, keep_history=options.keep_history)
        found.append(_table(each, rank_U, count_C, options))
    return pa.concat_tables(found)


def _table(
    asked: Inside, rank_U: NDArray[np.int32], count_C: Int64s, options: EvaluateOptions
) -> pa.Table:
    queries, keep = asked.queries, options.keep_history
    columns = {
        "user": queries.user_U,
        "target": queries.target_U,
        "rank": rank_U,
        "candidates": count_candidates(queries, len(asked.item_C), keep_history=keep),
        "train_count": count_C[queries.target_U - 1],
    }
    return pa.table({name: pa.array(each, pa.int32()) for name, each in columns.items()})
