"""The best items of many users at once: what `pmm.recommend.top_k` finds, several times as fast.

The products of some users with all items lie in a matrix. As it is made, tile by tile, the largest
score of each block of a few items is noted. The k-th largest of these is a score that k items reach
at least, so only blocks that reach it hold any of the k best. What they hold is scored again by the
definition (`defined_scores`), as for one user.

Shape suffixes: B users, L positions of a window, W what the user encoder is given of an item, N
items, D width, G blocks of an equal number of items, P pairs of a user and an item, H items of a
history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int64s
from pmm.recommend.catalogue_state import CatalogueState
from pmm.recommend.encoder import Encoder
from pmm.recommend.item_index import ItemIndex
from pmm.recommend.top_k import rounding_slack, scores_of_pairs, top_k, top_of_scores

ENCODED_USERS = 256
"""Histories that are encoded together, at most."""
SCORE_BYTES = 128 << 20
"""Of the scores that are held at a time."""
TILE = 2_048
"""Items of a tile: its scores for 256 users, 2 MiB, are looked at while they are in the cache."""
BLOCK, SMALLEST_BLOCK = 64, 8
"""Items of a block: so many, or fewer where k is large beside the catalogue."""
BLOCKS_A_PLACE = 4
"""Blocks there are for each of the k places, at least; else each user is ranked alone."""
CROWDED = 16
"""Candidates for each of the k places from which on a user is ranked alone: items that score nearly
alike, as after no training at all."""


@dataclass(frozen=True)
class Ranked:
    """The best items of some users."""

    row_P: Int64s
    """Rows of the catalogue, best first, one user after the other."""
    score_P: Float32s
    count_B: Int64s
    """How many of them each user has."""

    def each(self) -> list[tuple[Int64s, Float32s]]:
        """Of each user, rows and scores."""
        if not len(self.count_B):  # a split makes one piece at least
            return []
        cuts = np.cumsum(self.count_B)[:-1]
        return list(zip(np.split(self.row_P, cuts), np.split(self.score_P, cuts), strict=True))


@dataclass(frozen=True, kw_only=True)
class HistoryRanker:
    """Ranks users by one state of the catalogue; what all users share is made once."""

    encoder: Encoder
    state: CatalogueState
    allowed_N: NDArray[np.bool_]
    """Items that may come."""
    added_N: Float32s | None
    """Added to all scores, as of popularity."""
    k: int
    keep_history: bool
    index: ItemIndex | None = None
    """What proposes items; None: all are looked at."""
    factor: float = 0.0
    """Of the log share of popularity, in what is added."""
    hidden: int = 0
    """How many of the best may not come for anybody."""

    def rank(self, histories: Sequence[Int64s]) -> Ranked:
        """The best items for each history of rows, oldest first; the popular ones for an empty one.

        Users are encoded `ENCODED_USERS` at a time, or fewer where the catalogue is large.
        """
        most = ENCODED_USERS
        if not self.encoder.by_product:  # these come with all their scores
            most = self._scored_at_once()
        memory = _Memory()
        parts = [
            self._some(histories[start : start + most], memory)
            for start in range(0, len(histories), most)
        ]
        if not parts:
            return Ranked(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return Ranked(
            np.concatenate([each.row_P for each in parts]),
            np.concatenate([each.score_P for each in parts]),
            np.concatenate([each.count_B for each in parts]),
        )

    def _scored_at_once(self) -> int:
        return int(np.clip(SCORE_BYTES // (4 * max(1, len(self.state))), 1, ENCODED_USERS))

    def _some(self, histories: Sequence[Int64s], memory: "_Memory") -> Ranked:
        known_B = np.array([len(each) > 0 for each in histories])
        found: list[tuple[Int64s, Float32s]] = []
        with_history = [each for each in histories if len(each)]
        if with_history:
            windows = windows_of(self.state, with_history, self.encoder.max_length)
            if self.encoder.by_product:
                found = self._by_product(self.encoder.users(*windows), with_history, memory)
            else:
                score_BN = self.encoder.scores(*windows, self.state.score_ND)
                if self.added_N is not None:
                    score_BN = score_BN + self.added_N
                found = [
                    top_of_scores(score_N, self._mine(each), self.k)
                    for score_N, each in zip(score_BN, with_history, strict=True)
                ]
        if not known_B.all():
            count_N = self.state.count_N.astype(np.float32)
            popular = top_of_scores(count_N, self.allowed_N, self.k)
            given = iter(found)
            found = [next(given) if known else popular for known in known_B]
        return Ranked(
            np.concatenate([rows for rows, _ in found]),
            np.concatenate([scores for _, scores in found]),
            np.array([len(rows) for rows, _ in found], np.int64),
        )

    def _mine(self, history_H: Int64s) -> NDArray[np.bool_]:
        """What may come for one user."""
        if self.keep_history:
            return self.allowed_N
        mine_N = self.allowed_N.copy()
        mine_N[history_H] = False
        return mine_N

    def _by_product(
        self, user_BD: Float32s, histories: Sequence[Int64s], memory: "_Memory"
    ) -> list[tuple[Int64s, Float32s]]:
        block = BLOCK
        while block >= SMALLEST_BLOCK and len(self.state) < block * BLOCKS_A_PLACE * self.k:
            block //= 2
        if self.index is not None or len(user_BD) == 1 or block < SMALLEST_BLOCK:
            both = zip(user_BD, histories, strict=True)
            return [self._alone(user_D, history_H) for user_D, history_H in both]
        found: list[tuple[Int64s, Float32s]] = []
        most = self._scored_at_once()
        for start in range(0, len(user_BD), most):
            part = slice(start, start + most)
            blocks = -(-len(self.state) // block)
            score_BN = memory.take(len(user_BD[part]), blocks * block)
            largest_BG = self._fill(score_BN, user_BD[part], histories[part], block)
            found += self._together(user_BD[part], histories[part], score_BN, largest_BG)
        return found

    def _alone(self, user_D: Float32s, history_H: Int64s) -> tuple[Int64s, Float32s]:
        state, mine_N = self.state, self._mine(history_H)
        if self.index is not None:
            return self.index.best(
                state,
                user_D,
                mine_N,
                self.k,
                hidden=self.hidden + (0 if self.keep_history else len(history_H)),
                factor=self.factor,
                added_N=self.added_N,
            )
        return top_k(
            user_D, state.score_ND, mine_N, self.k, longest=state.longest, added_N=self.added_N
        )

    def _together(
        self,
        user_BD: Float32s,
        histories: Sequence[Int64s],
        score_BN: Float32s,
        largest_BG: Float32s,
    ) -> list[tuple[Int64s, Float32s]]:
        block = score_BN.shape[1] // largest_BG.shape[1]
        size_B = np.linalg.norm(user_BD, axis=1) * self.state.longest
        if self.added_N is not None:
            size_B = size_B + float(np.abs(self.added_N).max(initial=0))
        at = largest_BG.shape[1] - self.k
        least_B = np.partition(largest_BG, at, axis=1)[:, at].astype(np.float64)
        least_B = (least_B - rounding_slack(size_B, user_BD.shape[1])).astype(np.float32)
        of_user_P, block_P = (largest_BG >= least_B[:, None]).nonzero()
        inside_Pb = score_BN.reshape(len(user_BD), -1, block)[of_user_P, block_P]
        # Where fewer than k blocks have any item that may come, the least is minus infinity.
        enough_Pb = (inside_Pb >= least_B[of_user_P, None]) & (inside_Pb > -np.inf)
        pair, place = enough_Pb.nonzero()
        user_P, row_P = of_user_P[pair], block_P[pair] * block + place
        count_B = np.bincount(user_P, minlength=len(user_BD))
        crowded_B = count_B > CROWDED * self.k
        if crowded_B.any():
            few_P = ~crowded_B[user_P]
            user_P, row_P = user_P[few_P], row_P[few_P]
            count_B[crowded_B] = 0
        added_P = None if self.added_N is None else self.added_N[row_P]
        score_P = scores_of_pairs(user_BD, user_P, self.state.score_ND, row_P, added_P)
        order_P = np.lexsort((row_P, -score_P, user_P))
        row_P, score_P = row_P[order_P], score_P[order_P]
        start_B = np.cumsum(count_B) - count_B
        found = []
        for b, (start, count) in enumerate(zip(start_B.tolist(), count_B.tolist(), strict=True)):
            if crowded_B[b]:
                found.append(self._alone(user_BD[b], histories[b]))
            else:
                best = slice(start, start + min(self.k, count))
                found.append((row_P[best], score_P[best]))
        return found

    def _fill(
        self, score_BN: Float32s, user_BD: Float32s, histories: Sequence[Int64s], block: int
    ) -> Float32s:
        """Write fp32 products, minus infinity where an item may not come; the largest a block.

        Behind the last item are columns of no item, up to a whole block.
        """
        item_ND, users = self.state.score_ND, len(user_BD)
        score_BN[:, len(item_ND) :] = -np.inf
        largest_BG = np.empty((users, score_BN.shape[1] // block), np.float32)
        shared_N = self._shared()
        user_P, row_P, cuts = self._left_out(histories)
        for tile, start in enumerate(range(0, len(item_ND), TILE)):
            stop = min(start + TILE, len(item_ND))
            score_BM = score_BN[:, start:stop]
            np.matmul(user_BD, item_ND[start:stop].T, out=score_BM)
            if shared_N is not None:
                score_BM += shared_N[start:stop]
            out = slice(cuts[tile], cuts[tile + 1])
            score_BN[user_P[out], row_P[out]] = -np.inf
            low, high = start // block, -(-stop // block)
            whole = score_BN[:, low * block : high * block].reshape(users, high - low, block)
            whole.max(axis=2, out=largest_BG[:, low:high])
        return largest_BG

    def _shared(self) -> Float32s | None:
        """What is added to each user's scores: popularity, minus infinity for what may not come."""
        if self.allowed_N.all():
            return self.added_N
        zero = np.float32(0) if self.added_N is None else self.added_N
        return np.where(self.allowed_N, zero, np.float32(-np.inf)).astype(np.float32)

    def _left_out(self, histories: Sequence[Int64s]) -> tuple[Int64s, Int64s, Int64s]:
        """(user, row) of what users have had, by tile, and where each tile begins among them."""
        tiles = -(-len(self.state) // TILE)
        if self.keep_history:
            none = np.zeros(0, np.int64)
            return none, none, np.zeros(tiles + 1, np.int64)
        user_P = np.repeat(np.arange(len(histories)), [len(each) for each in histories])
        row_P = np.concatenate(histories)
        order_P = np.argsort(row_P // TILE, kind="stable")
        user_P, row_P = user_P[order_P], row_P[order_P]
        return user_P, row_P, np.searchsorted(row_P // TILE, np.arange(tiles + 1))


class _Memory:
    """Of scores, used again: a CPU's first touch of new memory costs as much as the product."""

    def __init__(self) -> None:
        self._values = np.zeros(0, np.float32)

    def take(self, rows: int, columns: int) -> Float32s:
        """A matrix of any content, which the next call takes again."""
        if len(self._values) < rows * columns:
            self._values = np.empty(rows * columns, np.float32)
        return self._values[: rows * columns].reshape(rows, columns)


def windows_of(
    state: CatalogueState, histories: Sequence[Int64s], longest: int
) -> tuple[Float32s, NDArray[np.bool_]]:
    """The most recent items of each history, left-padded [B, L, W], and which are real [B, L]."""
    recent = [each[-longest:] for each in histories]
    length = max(1, max((len(each) for each in recent), default=1))
    e_BLW = np.zeros((len(recent), length, state.input_NW.shape[1]), dtype=np.float32)
    valid_BL = np.zeros((len(recent), length), dtype=np.bool_)
    for row, each in enumerate(recent):
        if len(each):
            e_BLW[row, -len(each) :] = state.input_NW[each]
            valid_BL[row, -len(each) :] = True
    return e_BLW, valid_BL
