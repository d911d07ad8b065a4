"""Rankers without training: items that share users, and items whose content is near.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width of a
vector, P (user, item) pairs. Items are 1..N; row i - 1 of a matrix belongs to item i.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.arrays import Float64s, Int32s, Int64s
from pmm.errors import InputError
from pmm.evaluate.ranking import Queries, distinct, rank_users, spans
from pmm.machine import free_bytes
from pmm.progress import progress
from pmm.shards.sequence_shards import Lists, Prefixes
from pmm.storage.schemas import PAD

PAIRS_AT_ONCE = 4_000_000
"""Pairs or scores that are held together: a few arrays of 32 MB."""
_BYTES_A_PAIR = 100
"""What a pair takes while the similarities are sorted."""


@dataclass(frozen=True, kw_only=True)
class ItemNeighbours:
    """What each item is similar to, sparse: row i - 1 of item i holds its neighbours.

    Neighbours of item i are `item[offsets[i - 1]:offsets[i]]`, ascending; never i itself.
    """

    offsets: Int64s
    item: Int32s
    similarity: Float64s
    """Above 0."""

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.offsets) - 1


def item_neighbours(
    train: Lists, n_items: int, *, shrinkage: float = 0.0, neighbours: int | None = None
) -> ItemNeighbours:
    """Cosine of the items' users: n_ij / (sqrt(n_i n_j) + shrinkage).

    n_i counts the sequences that have item i, n_ij those that have both; how often or in which
    order does not count. Only pairs that some sequence has are held, never N x N.

    Args:
        train: the training sequences.
        n_items: of the catalogue.
        shrinkage: pulls similarities that few users speak for towards 0.
        neighbours: keep of each item only so many, the most similar, of equal ones those with the
            lower number; None = all. Being one of an item's most similar is not mutual.

    Raises:
        InputError: a shrinkage below 0, fewer than one neighbour, or pairs that fill the memory.

    >>> train = Lists(offsets=np.array([0, 2, 5]), values=np.array([1, 2, 2, 3, 2], np.int32))
    >>> found = item_neighbours(train, 3)
    >>> found.offsets.tolist(), found.item.tolist(), found.similarity.round(4).tolist()
    ([0, 1, 3, 4], [2, 1, 3, 2], [0.7071, 0.7071, 0.7071, 0.7071])
    """
    if not shrinkage >= 0 or (neighbours is not None and neighbours < 1):
        raise InputError("shrinkage must be at least 0, and neighbours at least 1")
    user, item = _distinct(train, n_items)
    count_N = np.bincount(item, minlength=n_items + 1)[1:]
    code, together = _co_occurrence(user, item, n_items)
    low, high = code // (n_items + 1), code % (n_items + 1)
    # One float64 root: sqrt(a) * sqrt(b) of equal counts would not be exact.
    length = np.sqrt((count_N[low - 1] * count_N[high - 1]).astype(np.float64))
    similarity = together / (length + shrinkage)
    row, column = np.concatenate([low, high]), np.concatenate([high, low])
    value = np.concatenate([similarity, similarity])
    if neighbours is not None:
        kept = _nearest(row, column, value, neighbours)
        row, column, value = row[kept], column[kept], value[kept]
    order = np.lexsort((column, row))
    lengths = np.bincount(row, minlength=n_items + 1)[1:]
    return ItemNeighbours(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item=column[order].astype(np.int32),
        similarity=value[order],
    )


def rank_by_neighbours(
    near: ItemNeighbours, queries: Queries, *, window: int = 20, keep_history: bool = False
) -> Int32s:
    """Ranks where an item scores the sum of its similarities to the user's recent items. [U]

    A recent item that occurs twice counts twice; what is not among the neighbours adds 0. Sums are
    of fp64, the oldest item first, and rounded to fp32 before they are compared. Ties count against
    the target, so that one without any neighbour in the window ranks behind all that have a score
    of 0 too. The history is masked as in `rank_users`. Memory is that of `PAIRS_AT_ONCE` scores,
    or of one user's.

    Args:
        near: of the training sequences.
        queries: who is asked for what.
        window: how many of the most recent items count.
        keep_history: rank the items that a user has had already, too.

    Raises:
        InputError: a window below 1.
    """
    _require_window(window)
    ranks = [np.zeros(0, np.int32)]
    with progress(len(queries), "Ranking", "users") as bar:
        for part in _chunks(near, queries, window):
            score_UN = _scores(near, part.history, window).astype(np.float32)
            ranks.append(_rank_scores(score_UN, part, keep_history=keep_history))
            bar.advance(len(part))
    return np.concatenate(ranks)


def rank_by_content(
    vector_ND: Tensor,
    queries: Queries,
    *,
    recent: Literal["mean", "last"] = "mean",
    window: int = 20,
    keep_history: bool = False,
    users_per_chunk: int = 1_024,
) -> Int32s:
    """Ranks by the cosine of the items' vectors to that of the user's recent items. [U]

    A user's vector is the mean of the unit vectors of these items. An item without a vector (zeros)
    adds nothing to it and scores 0 itself. Of a user without any vector all items score 0, and
    their ties put the target last.

    Args:
        vector_ND: a vector of each item; several of them are joined as
            `torch.cat([unit(text_ND), unit(picture_ND)], 1)`, which adds up their cosines.
        queries: who is asked for what.
        recent: the mean of the window, or the last item alone.
        window: how many of the most recent items count.
        keep_history: rank the items that a user has had already, too.
        users_per_chunk: ranked together.

    Raises:
        InputError: a window below 1.
        PmmError: vectors that are no numbers.
    """
    _require_window(window)
    length = 1 if recent == "last" else window
    unit_ND = unit(vector_ND.float())
    ranks = [np.zeros(0, np.int32)]
    with progress(len(queries), "Ranking", "users") as bar:
        for part in queries.pieces(users_per_chunk):
            window_UL = part.history.recent(np.arange(len(part)), length)
            user_UD = _mean_of(unit_ND, torch.from_numpy(window_UL).to(unit_ND.device))
            ranks.append(rank_users(user_UD, unit_ND, part, keep_history=keep_history))
            bar.advance(len(part))
    return np.concatenate(ranks)


def unit(vector_ND: Tensor) -> Tensor:
    """The vectors at length 1; zeros stay zeros. [N, D]

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length_N1 = torch.linalg.vector_norm(vector_ND, dim=1, keepdim=True)
    return vector_ND / torch.where(length_N1 > 0, length_N1, 1.0)


def _require_window(window: int) -> None:
    if window < 1:
        raise InputError(f"window must be at least 1, found {window}")


def _mean_of(unit_ND: Tensor, item_UL: Tensor) -> Tensor:
    """The mean of the unit vectors of windows padded with 0; its length says nothing. [U, D]

    Summed one position after the other, so that no [U, L, D] is held.
    """
    user_UD = unit_ND.new_zeros(len(item_UL), unit_ND.shape[1])
    for item_U in item_UL.unbind(1):
        user_UD += unit_ND[(item_U - 1).clamp(min=0)] * (item_U > PAD)[:, None]
    return user_UD / item_UL.shape[1]


def _distinct(train: Lists, n_items: int) -> tuple[Int64s, Int64s]:
    """(user, item) of every distinct pair, by user and then by item."""
    user = np.repeat(np.arange(len(train)), train.lengths)
    code = distinct(user * (n_items + 1) + train.values)
    return code // (n_items + 1), code % (n_items + 1)


def _co_occurrence(user: Int64s, item: Int64s, n_items: int) -> tuple[Int64s, Int64s]:
    """Codes `low * (n_items + 1) + high` of all item pairs that share a user, and how many share.

    Args:
        user, item: distinct pairs, by user and then by item.
    """
    lengths = np.bincount(user)
    first = np.cumsum(lengths) - lengths
    partners = lengths[user] - 1 - (np.arange(len(user)) - first[user])  # behind it in its list
    held, pending = (np.zeros(0, np.int64), np.zeros(0, np.int64)), 0
    parts = [held]
    for start, stop in spans(partners, PAIRS_AT_ONCE):
        many = partners[start:stop]
        low = np.repeat(np.arange(start, stop), many)
        step = np.arange(len(low)) - np.repeat(np.cumsum(many) - many, many)
        found = np.unique(item[low] * (n_items + 1) + item[low + 1 + step], return_counts=True)
        parts.append(found)
        pending += len(found[0])
        if pending > max(PAIRS_AT_ONCE, len(parts[0][0])):  # so each pair is merged a few times
            parts, pending = [_added(parts)], 0
            _require_room(len(parts[0][0]))
    return _added(parts)


def _require_room(pairs: int) -> None:
    """Refuse more pairs than fit: one user who did a hundred thousand things has five billion."""
    needed, free = pairs * _BYTES_A_PAIR, free_bytes()
    if needed > free:
        raise InputError(
            f"item kNN: there are over {pairs:,} pairs of items that share a user, which take "
            f"{needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free. Leave --neighbours "
            "out"
        )


def _added(parts: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    """The counts of equal codes added up; codes ascend."""
    code, count = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(code, kind="stable")
    code, count = code[order], count[order]
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    if not len(starts):
        return code, count
    return code[starts], np.add.reduceat(count, starts)


def _nearest(row: Int64s, column: Int64s, value: Float64s, most: int) -> Int64s:
    """Which entries are among the `most` largest of their row; of equal ones the lower column."""
    order = np.lexsort((column, -value, row))
    lengths = np.bincount(row)
    place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row[order]]
    return order[place < most]


def _chunks(near: ItemNeighbours, queries: Queries, window: int) -> Iterator[Queries]:
    """Users whose scores, and the similarities that they are summed from, fit together."""
    lengths = np.concatenate([[0], np.diff(near.offsets)])
    size_U = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), 65_536):
        rows = np.arange(start, min(start + 65_536, len(queries)))
        size_U[rows] = lengths[queries.history.recent(rows, window)].sum(1)
    held_U = np.maximum(np.maximum(size_U, near.n_items), queries.history.lengths)
    for start, stop in spans(held_U, PAIRS_AT_ONCE):
        yield queries.rows(start, stop)


def _scores(near: ItemNeighbours, history: Lists | Prefixes, window: int) -> Float64s:
    """The sums of similarities, dense for the users of a chunk. [U, N]"""
    users, n = len(history), near.n_items
    item_UL = history.recent(np.arange(users), window)
    row_P, item_P = np.repeat(np.arange(users), item_UL.shape[1]), item_UL.ravel()
    row_P, item_P = row_P[item_P > PAD], item_P[item_P > PAD]
    many_P = np.diff(near.offsets)[item_P - 1]
    ends_P = np.cumsum(many_P)
    shift_P = near.offsets[item_P - 1] - (ends_P - many_P)
    entry = np.arange(int(many_P.sum())) + np.repeat(shift_P, many_P)
    place = np.repeat(row_P * n, many_P) + near.item[entry] - 1
    # bincount adds in the order of its input, whatever users stand beside
    score = np.bincount(place, weights=near.similarity[entry], minlength=users * n)
    return score.astype(np.float64).reshape(users, n)


def _rank_scores(score_UN: NDArray[np.float32], queries: Queries, *, keep_history: bool) -> Int32s:
    """1 + the number of other candidates that score higher or equal. [U]"""
    rows = np.arange(len(queries))
    threshold_U = score_UN[rows, queries.target_U - 1]
    above_U = (score_UN >= threshold_U[:, None]).sum(1)
    if not keep_history:
        row, item = queries.masked_pairs()
        hit = score_UN[row, item - 1] >= threshold_U[row]
        above_U = above_U - np.bincount(row[hit], minlength=len(queries))
    ranks: Int32s = above_U.astype(np.int32)
    return ranks
