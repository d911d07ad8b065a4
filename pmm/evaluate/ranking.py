"""The rank of each user's true next item among the whole catalogue, by counting, never by sorting.

Shape legend: U users of a chunk, N items of the catalogue, T tiles of M items, D embedding width, P
(user, item) pairs. Items are 1..N; row i - 1 of a matrix belongs to item i.

The score of a pair is *defined* as the inner product accumulated in fp64 and rounded to fp32. The
fast fp32 product decides every pair whose distance from the target's score exceeds the product's
rounding bound; only the few others are computed again by the definition. So a rank depends neither
on the chunk sizes nor on the order in which a BLAS sums, and equal items tie exactly.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.arrays import Int32s
from pmm.errors import PmmError
from pmm.shards.sequence_shards import Lists, Prefixes

TILES = 16
"""Tiles whose doubtful pairs are decided together."""
PAIRS_AT_ONCE = 8_192
"""Doubtful or history pairs computed together: 2 x 8,192 x 768 fp64 values are 100 MB."""
HISTORY_AT_ONCE = 2_000_000
"""Items of histories that are held together: a few arrays of 16 MB. (The cold cuts of one user who
did 30,000 things have 450 million.)"""


class Scratch:
    """Memory for scores, used again from call to call: a CPU's first touch of new memory costs as
    much as the product."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """Values of this shape, of any content, which the next call takes again."""
        size = math.prod(shape)
        if len(self._values) < size or self._values.device != like.device:
            with torch.inference_mode(False):  # else nobody outside of that mode could write here
                self._values = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._values[:size].view(shape)


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Which user is asked for which item, after which history (ragged rows, as in CSR)."""

    user_U: Int32s
    """User numbers, as the targets' sequence table has them."""
    target_U: Int32s
    """The true next item, 1..N."""
    history: Lists | Prefixes
    """Items each user has had before, oldest first."""

    def __len__(self) -> int:
        return len(self.user_U)

    def rows(self, start: int, stop: int) -> "Queries":
        """The queries start..stop-1 (stop may lie beyond the end)."""
        return self.take(np.arange(start, min(stop, len(self))))

    def take(self, rows: NDArray[np.int64]) -> "Queries":
        """The queries of these rows, in their order, with their histories written out."""
        return Queries(
            user_U=self.user_U[rows],
            target_U=self.target_U[rows],
            history=self.history.take(rows),
        )

    def pieces(self, most: int | None = None) -> Iterator["Queries"]:
        """All queries in order, few enough at a time to hold their histories; at least one piece.

        Args:
            most: queries of a piece.
        """
        for start, stop in spans(self.history.lengths, HISTORY_AT_ONCE, most) or [(0, 0)]:
            yield self.rows(start, stop)

    def masked_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, item) of every distinct history item that is not the row's own target."""
        row, item = self._pairs()
        base = int(item.max(initial=0)) + 1
        codes = distinct(row * base + item)
        codes = codes[codes % base != self.target_U[codes // base]]
        return codes // base, codes % base

    def repeated(self) -> NDArray[np.bool_]:
        """Whether the target already stands in its user's history. [U]"""
        found = []
        for part in self.pieces():
            row, item = part._pairs()
            hits = row[item == part.target_U[row]]
            found.append(np.bincount(hits, minlength=len(part)) > 0)
        return np.concatenate(found)

    def _pairs(self) -> tuple[NDArray[np.int64], Int32s]:
        """(row, item) of every history item."""
        every = np.arange(len(self))
        return np.repeat(every, self.history.lengths), self.history.take(every).values


def distinct(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct values of codes from 0 on, ascending.

    By sorting: NumPy's `unique` hashes, which takes thirty times as long where most are distinct.

    >>> distinct(np.array([3, 0, 3, 1])).tolist()
    [0, 1, 3]
    """
    ordered = np.sort(codes)
    found: NDArray[np.int64] = ordered[np.diff(ordered, prepend=-1) != 0]
    return found


def spans(sizes: NDArray[np.int64], most: int, rows: int | None = None) -> list[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to `most` at the most, or of a single one.

    >>> spans(np.array([3, 3, 9, 1, 1, 1]), 6), spans(np.array([3, 3, 9, 1, 1, 1]), 6, rows=2)
    ([(0, 2), (2, 3), (3, 6)], [(0, 2), (2, 3), (3, 5), (5, 6)])

    Args:
        sizes: of each.
        most: that a range adds up to.
        rows: that a range has at most.
    """
    ends = np.cumsum(sizes)
    found, start = [], 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + most, side="right"))
        stop = max(start + 1, stop if rows is None else min(stop, start + rows))
        found.append((start, stop))
        start = stop
    return found


def count_candidates(queries: Queries, n_items: int, *, keep_history: bool = False) -> Int32s:
    """Items that compete for each query: all, less the masked history, the target included. [U]"""
    if keep_history:
        return np.full(len(queries), n_items, dtype=np.int32)
    masked = [np.bincount(part.masked_pairs()[0], minlength=len(part)) for part in queries.pieces()]
    return (n_items - np.concatenate(masked)).astype(np.int32)


def rank_users(
    user_UD: Tensor,
    item_ND: Tensor,
    queries: Queries,
    *,
    keep_history: bool = False,
    tile: int = 256,
    scratch: Scratch | None = None,
) -> Int32s:
    """Rank of each target: 1 + the number of other candidates that score higher or equal. [U]

    Ties count against the model, so that one which gives every item the same vector ranks last.
    History items are no candidates (unless keep_history); the target always is. Scores are counted
    in tiles of U x `tile`, and those of sixteen are held, in `scratch` where given. Callers bound U
    by ranking chunks of users. Vectors with NaN or infinite values are refused.

    >>> two = Queries(
    ...     user_U=np.array([0, 1], np.int32), target_U=np.array([1, 3], np.int32),
    ...     history=Lists(offsets=np.array([0, 1, 1]), values=np.array([2], np.int32)))
    >>> items = torch.tensor([[1.0], [2.0], [1.0]])
    >>> rank_users(torch.ones(2, 1), items, two).tolist()  # item 2 masked for user 0; 1 and 3 tie
    [2, 3]
    """
    if item_ND.device.type == "mps":  # which has no fp64
        user_UD, item_ND = user_UD.cpu(), item_ND.cpu()
    user_UD, item_ND = user_UD.detach().float(), item_ND.detach().float()
    length_U, longest_item = _lengths(user_UD, "user"), float(_lengths(item_ND, "item").max())
    if not len(queries):
        return np.zeros(0, np.int32)
    if float(length_U.max()) * longest_item > torch.finfo(torch.float32).max:
        raise PmmError("scores overflow: the vectors of users and items are too long")
    device = item_ND.device
    row_U = torch.arange(len(queries), device=device)
    target_U = torch.from_numpy(queries.target_U.astype(np.int64)).to(device)
    threshold_U = score_pairs(user_UD, item_ND, row_U, target_U - 1)
    slack_U = _rounding_bound(length_U, longest_item, item_ND.shape[1])
    # Counting needs no order. The published evaluation sorts each user's scores and takes 21 times
    # as long (benchmarks/results.md, rank_catalogue); the product alone takes two thirds of ours.
    above_U = torch.zeros(len(queries), dtype=torch.int64, device=device)
    scratch = scratch or Scratch()
    for tile_TMD in _tiles(item_ND, tile):
        above_U += _count_at_least(user_UD, tile_TMD, threshold_U, slack_U, scratch)
    if not keep_history:
        row, item = (torch.from_numpy(part).to(device) for part in queries.masked_pairs())
        # By the same definition as the threshold: a masked item must be taken out again exactly if
        # it was counted, and the fast product's rounding would now and then say otherwise.
        hit = score_pairs(user_UD, item_ND, row, item - 1) >= threshold_U[row]
        above_U -= torch.bincount(row[hit], minlength=len(queries))
    # the target itself is counted exactly once, which is the 1 of "1 + others"
    ranks: Int32s = above_U.cpu().numpy().astype(np.int32)
    return ranks


def rank_scores(score_UN: Tensor, queries: Queries, *, keep_history: bool = False) -> Int32s:
    """The same from scores that are there, of models whose scores are no inner products. [U]

    Raises:
        PmmError: some are not a number.
    """
    missing = int((~torch.isfinite(score_UN)).sum())
    if missing:
        raise PmmError(f"{missing} of {score_UN.numel()} scores are not a number")
    device = score_UN.device
    target_U1 = torch.from_numpy(queries.target_U.astype(np.int64)).to(device)[:, None]
    threshold_U1 = score_UN.gather(1, target_U1 - 1)
    above_U = _count(torch.ge, score_UN, threshold_U1)
    if not keep_history:
        row, item = (torch.from_numpy(part).to(device) for part in queries.masked_pairs())
        hit = score_UN[row, item - 1] >= threshold_U1[row, 0]
        above_U -= torch.bincount(row[hit], minlength=len(queries))
    ranks: Int32s = above_U.cpu().numpy().astype(np.int32)
    return ranks


def rank_by_item_score(
    score_N: NDArray[np.float32] | NDArray[np.int64],
    queries: Queries,
    *,
    keep_history: bool = False,
) -> Int32s:
    """Ranks where an item scores the same for every user (popularity): one sort, look-ups. [U]"""
    missing = int(np.isnan(score_N).sum())
    if missing:
        raise PmmError(f"{missing} of {len(score_N)} item scores are not a number")
    ordered_N = np.sort(score_N)
    threshold_U = score_N[queries.target_U - 1]
    above_U = len(score_N) - np.searchsorted(ordered_N, threshold_U, side="left")
    if not keep_history:
        masked = []
        for part in queries.pieces():
            row, item = part.masked_pairs()
            hit = score_N[item - 1] >= score_N[part.target_U - 1][row]
            masked.append(np.bincount(row[hit], minlength=len(part)))
        above_U = above_U - np.concatenate(masked)
    ranks: Int32s = above_U.astype(np.int32)
    return ranks


def top_items(
    score_UN: Tensor, queries: Queries, *, k: int, keep_history: bool = False
) -> NDArray[np.int64]:
    """The k best items of each query, best first, history left out; 0 where fewer are left. [U, k]

    For a few users at a time: scores are dense.
    """
    score_UN = score_UN.float().cpu().clone()
    if not keep_history:
        row, item = queries.masked_pairs()
        score_UN[torch.from_numpy(row), torch.from_numpy(item) - 1] = -torch.inf
    best_UK = score_UN.topk(min(k, score_UN.shape[1]), dim=1)
    found_UK = torch.where(best_UK.values > -torch.inf, best_UK.indices + 1, 0)
    padded: NDArray[np.int64] = torch.nn.functional.pad(
        found_UK, (0, k - found_UK.shape[1])
    ).numpy()
    return padded


def score_pairs(user_UD: Tensor, item_ND: Tensor, row_P: Tensor, column_P: Tensor) -> Tensor:
    """The defining score of single pairs: fp64 inner product, rounded to fp32. [P]"""
    score_P = user_UD.new_empty(len(row_P))
    for start in range(0, len(row_P), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        product = user_UD[row_P[part]].double() * item_ND[column_P[part]].double()
        score_P[part] = product.sum(1)
    return score_P


def _tiles(item_ND: Tensor, width: int) -> Iterator[Tensor]:
    """All items as tiles of so many, up to TILES at a time: [T, M, D]; what is left is smaller."""
    whole = len(item_ND) // width * width
    if whole:
        yield from torch.split(item_ND[:whole].view(-1, width, item_ND.shape[1]), TILES)
    if whole < len(item_ND):
        yield item_ND[None, whole:]


def _count_at_least(
    user_UD: Tensor, tile_TMD: Tensor, threshold_U: Tensor, slack_U: Tensor, scratch: Scratch
) -> Tensor:
    """Items of the tiles whose score is at least the threshold. [U]

    Rounding of threshold +- slack is within the slack's own reserve (`_rounding_bound`).
    """
    low_U1, high_U1 = (threshold_U - slack_U)[:, None], (threshold_U + slack_U)[:, None]
    tiles, width = tile_TMD.shape[:2]
    score_TUM = scratch.take(user_UD, tiles + 1, len(user_UD), width)
    flag_UM = score_TUM[tiles]
    sure, near = [], []
    # A tile's scores are counted while they are in the cache; all of a user's at once would go to
    # memory and back.
    for tile_MD, score_UM in zip(tile_TMD, score_TUM[:tiles], strict=True):
        torch.mm(user_UD, tile_MD.T, out=score_UM)
        sure.append(_count(torch.gt, score_UM, high_U1, flag_UM))
        near.append(_count(torch.ge, score_UM, low_U1, flag_UM))
    sure_TU = torch.stack(sure)
    doubtful_TU = torch.stack(near) - sure_TU
    crowded_TU = doubtful_TU > max(64, width // 16)
    if bool(crowded_TU.any()):  # items nearly equal, as early in training: one fp64 product is less
        for tile_MD, crowded_U, sure_U in zip(tile_TMD, crowded_TU, sure_TU, strict=True):
            exact_UM = (user_UD[crowded_U].double() @ tile_MD.double().T).float()
            sure_U[crowded_U] = _count(torch.ge, exact_UM, threshold_U[crowded_U, None])
    above_U = sure_TU.sum(0)
    tile_R, row_R = ((doubtful_TU > 0) & ~crowded_TU).nonzero(as_tuple=True)
    if len(row_R):
        some_RM = score_TUM[tile_R, row_R]
        near_RM = (some_RM >= low_U1[row_R]) & (some_RM <= high_U1[row_R])
        among_P, column_P = near_RM.nonzero(as_tuple=True)
        row_P, item_P = row_R[among_P], tile_R[among_P] * width + column_P
        score_P = score_pairs(user_UD, tile_TMD.flatten(0, 1), row_P, item_P)
        above_U += torch.bincount(row_P[score_P >= threshold_U[row_P]], minlength=len(user_UD))
    return above_U


def _count(
    compare: Callable[..., Tensor],
    score_UN: Tensor,
    bound_U1: Tensor,
    flag_UN: Tensor | None = None,
) -> Tensor:
    """How many scores of each row compare so with its bound, int64 [U]; exact up to 2^24 a row.

    Flags are floats, since a CPU writes and sums those with its vector units, but not bools: half
    the time. They go to `flag_UN`, where given.
    """
    if flag_UN is None:
        flag_UN = torch.empty_like(score_UN, dtype=torch.float32)
    return compare(score_UN, bound_U1, out=flag_UN).sum(1).long()


def _lengths(vectors: Tensor, whose: str) -> Tensor:
    """Euclidean lengths, after refusing values that are no numbers."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    bad = int((~torch.isfinite(length)).sum())
    if bad:
        raise PmmError(
            f"{bad} of {len(vectors)} {whose} vectors hold NaN or infinite values: the model has "
            "diverged or its checkpoint is damaged. Train again with a lower learning rate or "
            "in fp32"
        )
    return length


def _rounding_bound(length_U: Tensor, longest_item: float, width: int) -> Tensor:
    """How far an fp32 product may lie from the fp64 one, whatever the order of its sum. [U]

    The classic bound gamma_D |u| |i| with gamma_D = D eps / (1 - D eps); the D + 8 leaves room for
    the rounding of both scores, of their difference and of the lengths.
    """
    eps = (width + 8) * 2.0**-24
    return length_U * (longest_item * eps / (1 - eps)) + 1e-38
