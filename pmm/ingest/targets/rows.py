"""Interactions as integer arrays, and what is done to all of them: keep, order, find repeats."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class InteractionRows:
    """R interactions; `timestamp` (UTC seconds) is None where the source has no times."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | None
    nanoseconds: NDArray[np.int32] | None = None
    """Above `timestamp`; None where all times are whole seconds."""

    def at(self, positions: NDArray[np.int64] | NDArray[np.bool_]) -> "InteractionRows":
        """The rows at some positions (or where a mask is True), in that order."""
        return InteractionRows(
            user=self.user[positions],
            item=self.item[positions],
            timestamp=None if self.timestamp is None else self.timestamp[positions],
            nanoseconds=None if self.nanoseconds is None else self.nanoseconds[positions],
        )

    def keep(
        self, mask: NDArray[np.bool_], reason: str, drop_counts: dict[str, int]
    ) -> "InteractionRows":
        """The rows where a mask is True; the others are counted under a reason."""
        dropped = len(mask) - int(np.count_nonzero(mask))
        drop_counts[reason] = drop_counts.get(reason, 0) + dropped
        return self.at(mask) if dropped else self

    def ordered(self) -> "InteractionRows":
        """By user, then time; rows with the same time stay in the order of the file.

        >>> rows = InteractionRows(user=np.array([1, 0, 1, 1]), item=np.array([5, 6, 7, 8]),
        ...             timestamp=np.array([9, 9, 3, 9]))
        >>> rows.ordered().item.tolist()
        [6, 7, 5, 8]
        """
        if self.timestamp is not None and self.nanoseconds is not None:
            return self.at(np.lexsort((self.nanoseconds, self.timestamp, self.user)))
        if self.timestamp is None or bool(np.all(self.timestamp[1:] >= self.timestamp[:-1])):
            order = pl.arg_sort_by("user", maintain_order=True)
            return self.at(pl.DataFrame({"user": self.user}).select(order)["user"].to_numpy())
        return self.at(np.lexsort((self.timestamp, self.user)))

    def first_of_pairs(self) -> NDArray[np.bool_]:
        """[R] True at the first row of each (user, item); rows must be in order."""
        return pl.Series(self._pairs()).is_first_distinct().to_numpy()

    def distinct_pairs(self) -> int:
        """Number of distinct (user, item)."""
        pairs = self._pairs()
        pairs.sort()
        return int(np.count_nonzero(pairs[1:] != pairs[:-1])) + bool(len(pairs))

    def _pairs(self) -> NDArray[np.int64]:
        return self.user.astype(np.int64) * (int(self.item.max(initial=0)) + 1) + self.item

    def share_of_ties(self) -> float | None:
        """Share of rows whose user has another row at the same time; rows must be in order."""
        if self.timestamp is None or not len(self.user):
            return None
        same = (np.diff(self.user) == 0) & (np.diff(self.timestamp) == 0)
        if self.nanoseconds is not None:
            same &= np.diff(self.nanoseconds) == 0
        tied = np.zeros(len(self.user), bool)
        tied[1:] |= same
        tied[:-1] |= same
        return round(float(tied.mean()), 6)
