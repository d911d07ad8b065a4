"""The items that answers are made of: rows that grow, and which of them may still come.

A state never changes once it is handed out: who answers keeps the one that he began with, while
others add and withdraw. Vectors lie in arrays with room at the end, so that an addition copies
nothing but its own rows.

Shape suffixes: N items of the state, R rows that are added, W what the user encoder is given of an
item, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int64s

ROOM = 1_024
"""Rows that are kept free at least, when the arrays have to grow."""


@dataclass(frozen=True, kw_only=True)
class CatalogueState:
    """Items by row."""

    ids: Sequence[str]
    """Of all rows that there ever were, which may be more than N."""
    rows_of: Mapping[str, tuple[int, ...]]
    """An item's rows, the newest last; of rows from N on this state knows nothing."""
    input_NW: Float32s
    score_ND: Float32s
    count_N: Int64s
    """Training occurrences."""
    offered_N: NDArray[np.bool_]
    """Whether an item may be recommended: it is not withdrawn, and no newer row has its id."""
    trained: int
    """Rows of the catalogue that was trained on; those behind them were added."""
    longest: float
    """Length of the longest vector in score_ND."""

    def __len__(self) -> int:
        return len(self.offered_N)

    def find(self, item_id: str) -> int | None:
        """The row of an item, None where there is none."""
        rows = self.rows_of.get(item_id, ())
        return next((row for row in reversed(rows) if row < len(self)), None)


class GrowingCatalogue:
    """The newest state, and what makes the next one. One thread at a time may change it."""

    def __init__(
        self, ids: Sequence[str], input_NW: Float32s, score_ND: Float32s, count_N: Int64s
    ) -> None:
        """Take what a model made of the items that it was trained on."""
        self._ids = list(ids)
        self._rows_of = {item_id: (row,) for row, item_id in enumerate(self._ids)}
        self._input, self._score = np.ascontiguousarray(input_NW), np.ascontiguousarray(score_ND)
        self.state = CatalogueState(
            ids=self._ids,
            rows_of=self._rows_of,
            input_NW=self._input,
            score_ND=self._score,
            count_N=count_N.astype(np.int64),
            offered_N=np.ones(len(self._ids), dtype=np.bool_),
            trained=len(self._ids),
            longest=_longest(self._score),
        )

    def add(self, ids: Sequence[str], input_RW: Float32s, score_RD: Float32s) -> CatalogueState:
        """Put new items behind the others; one with an id that is there already takes its place.

        Its past occurrences stay with it.
        """
        before, rows = self.state, len(self.state)
        self._input = _grown(self._input, rows, input_RW)
        self._score = _grown(self._score, rows, score_RD)
        offered_N = np.concatenate([before.offered_N, np.ones(len(ids), np.bool_)])
        count_N = np.concatenate([before.count_N, np.zeros(len(ids), np.int64)])
        self._ids.extend(ids)
        for row, item_id in enumerate(ids, rows):
            known = self._rows_of.get(item_id, ())
            if known:
                offered_N[known[-1]] = False
                count_N[row] = count_N[known[-1]]
            self._rows_of[item_id] = (*known, row)
        self.state = replace(
            before,
            input_NW=self._input[: len(offered_N)],
            score_ND=self._score[: len(offered_N)],
            count_N=count_N,
            offered_N=offered_N,
            longest=max(before.longest, _longest(score_RD)),
        )
        return self.state

    def withdraw(self, rows: Sequence[int]) -> CatalogueState:
        """Recommend some items no more."""
        offered_N = self.state.offered_N.copy()
        offered_N[list(rows)] = False
        self.state = replace(self.state, offered_N=offered_N)
        return self.state


def _longest(score_ND: Float32s) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", score_ND, score_ND).max(initial=0.0)))


def _grown(array: Float32s, used: int, rows: Float32s) -> Float32s:
    """An array whose rows behind the used ones begin with these; the same one where it has room."""
    needed = used + len(rows)
    if needed > len(array):
        larger = np.empty((max(needed, used + used // 8 + ROOM), array.shape[1]), np.float32)
        larger[:used] = array[:used]
        array = larger
    array[used:needed] = rows
    return array
