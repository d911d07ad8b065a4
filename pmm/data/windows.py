"""Which of a user's training items stand in a row of a batch: the last ones, some in a row, or all.

A window is `length` consecutive items, L inputs and the one after them (fewer where a user has
fewer). Everything that depends on what training reads is told by `Windows`: the rows, where each
ends, how often an item is met.

Shape legend: U users of a part, R rows of an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pmm.arrays import Int64s
from pmm.data.order import drawn_below
from pmm.shards.sequence_shards import Lists

WindowRule = Literal["last", "random", "all"]
"""Of each user's training items: the last window, a random one in each epoch, or all of them."""

MAX_LENGTH = 20
"""Input positions of the user encoder (docs/paper.md R32); a training row has one slot more."""
_VALUES_A_PIECE = 1 << 22
_WITH = {"user": "users who have", "sequence": "sequences that have"}


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The training rows of one part: of each user with two items or more, by a rule.

    "all": windows of a user overlap by one item, so that every item but the first is the next item
    of exactly one input. They are laid from the end, so the latest is that of "last", and the
    earliest may be shorter.
    """

    rule: WindowRule
    length: int
    """Slots of a row, L + 1."""
    items_U: Int64s
    """How many training items each user has."""
    part: int = 0
    """Which part of a training set it is, so that parts draw different windows."""

    @cached_property
    def users(self) -> Int64s:
        """The users whose training part has a next item to learn: at least two items."""
        return np.flatnonzero(self.items_U >= 2)

    @cached_property
    def _last_row(self) -> Int64s:
        """[users] how many rows the users up to each one have."""
        if self.rule != "all":
            return np.arange(1, len(self.users) + 1)
        return np.cumsum(-((1 - self.items_U[self.users]) // (self.length - 1)))

    def __len__(self) -> int:
        """R."""
        return int(self._last_row[-1]) if len(self.users) else 0

    def at(self, rows: Int64s, *, seed: int, epoch: int) -> tuple[Int64s, Int64s]:
        """The user of some rows, and how many of the user's items lie before the window's end.

        Args:
            rows: 0..R-1; rows of a user stand together, the latest window first.
            seed: of the run.
            epoch: or the pass through the part, where that is another one ("random" alone asks).

        >>> windows = Windows(rule="all", length=4, items_U=np.array([1, 8, 2]))
        >>> user, end = windows.at(np.arange(len(windows)), seed=0, epoch=0)
        >>> user.tolist(), end.tolist()
        ([1, 1, 1, 2], [8, 5, 2, 2])
        """
        place = np.searchsorted(self._last_row, rows, side="right")
        user = self.users[place]
        end = self.items_U[user]
        match self.rule:
            case "last":
                pass
            case "random":
                ways = np.maximum(end - self.length, 0) + 1
                end = end - drawn_below(
                    ways, user, seed=seed, epoch=epoch, what=f"window {self.part}"
                )
            case "all":
                before = np.concatenate([[0], self._last_row])[place]
                end = end - (rows - before) * (self.length - 1)
        return user, end

    @property
    def items_read(self) -> int:
        """How many of the training items stand in a row of an epoch, each counted once."""
        held = self.items_U[self.users]
        return int((held if self.rule == "all" else np.minimum(held, self.length)).sum())

    def item_counts(self, train: Lists, n_items: int) -> npt.NDArray[np.float64]:
        """How often an epoch's rows hold each item; of random windows the expected number.

        Args:
            train: the training items of the users.
            n_items: items are 1..n_items.

        Returns:
            float64 [n_items + 1]; 0 for padding.
        """
        found = np.zeros(n_items + 1)
        for first, last in _pieces(train.offsets):
            start, stop = train.offsets[first], train.offsets[last]
            held = self.items_U[first:last]
            n = np.repeat(held, held)
            k = np.arange(start, stop) - np.repeat(train.offsets[first:last], held)
            weight = np.where(n >= 2, self._times_met(n, k), 0)
            found += np.bincount(train.values[start:stop], weight, minlength=n_items + 1)
        return found

    def _times_met(self, n: Int64s, k: Int64s) -> npt.NDArray[np.float64]:
        """In how many rows of its user the item at place k of n is; for "random" the mean."""
        behind = n - 1 - k
        match self.rule:
            case "last":
                found = (behind < self.length).astype(np.float64)
            case "random":
                spare = np.maximum(n - self.length, 0)
                first, last = np.maximum(k - self.length + 1, 0), np.minimum(k, spare)
                found = (last - first + 1) / (spare + 1)
            case "all":  # twice where one window ends and the next begins
                found = 1.0 + ((behind % (self.length - 1) == 0) & (behind > 0) & (k > 0))
        return found


def _pieces(offsets: Int64s) -> Iterator[tuple[int, int]]:
    """Users from and to, with some millions of items at a time (or one user's)."""
    first, users = 0, len(offsets) - 1
    while first < users:
        reach = int(np.searchsorted(offsets, offsets[first] + _VALUES_A_PIECE, side="right")) - 1
        last = min(max(reach, first + 1), users)
        yield first, last
        first = last


def told(windows: list[Windows], of: str = "user") -> str:
    """How much of the training interactions a training reads, as a sentence.

    Args:
        windows: of each part.
        of: what a row is cut out of: a user's items, or a sequence of some of them.

    >>> told([Windows(rule="last", length=21, items_U=np.array([100, 10]))])
    'training reads 28% of the training interactions: the last 21 of each user; \
--set train.windows=all reads all of them'
    """
    read, whole = sum(w.items_read for w in windows), sum(int(w.items_U.sum()) for w in windows)
    rule, length = windows[0].rule, windows[0].length
    if read == whole:
        return f"training reads all {whole:,} training interactions"
    share = f"training reads {_per_cent(read, whole)} of the training interactions"
    if rule == "all" or not any((w.items_U > length).any() for w in windows):
        return f"{share}: all but those of {_WITH[of]} a single one"
    how = {"last": f"the last {length} of each {of}"}
    which = how.get(rule, f"{length} in a row of each {of}, in each epoch others")
    every = all((w.items_U != 1).all() for w in windows)
    return f"{share}: {which}; --set train.windows=all reads {'all of them' if every else 'more'}"


def _per_cent(part: int, whole: int) -> str:
    """Never 0% or 100% of what is more or less than that."""
    share = 100 * part / whole
    return (
        f"{share:.0f}%" if 0.5 <= share < 99.5 else f"{share:.2g}%" if share < 0.5 else "over 99%"
    )
