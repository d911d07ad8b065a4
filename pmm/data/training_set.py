"""What a model is trained on: the users of one target, or of several sources mixed in every batch.

Items of all parts share one table: item k of a part has the number k + the items of the parts
before it. With one part everything is as in its shards.
"""

import copy
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmm.arrays import Float64s, Int64s
from pmm.data.batch import Batch
from pmm.data.order import Mixing, shuffled
from pmm.errors import InputError
from pmm.shards.items import Items, concatenate
from pmm.shards.kinds import Reads
from pmm.shards.read import Shards
from pmm.storage.schemas import PAD

_USERS_AT_ONCE = 1 << 16
"""Whose items are counted together: bounds the memory of a count."""


class TrainingSet:
    """Training rows and item contents of one or several shards.

    Args:
        parts: opened shards.
        mixing: how users of several parts come into an epoch and its batches. "proportional": each
            trainable user once, all shuffled together, so a batch has users of a part in
            proportion to its size. "equal": the rows go round the parts, so a batch has equally
            many of each; an epoch has as many rows as there are users, and each part goes through
            its own users again and again, in a new order each time.
        read: which modalities are read; those that are not are absent from every item.

    Raises:
        InputError: fewer than two users can be trained on, or the parts' tokens or pictures were
            not made alike.
    """

    def __init__(
        self,
        parts: Sequence[Shards],
        *,
        mixing: Mixing = "proportional",
        read: Reads = "both",
    ) -> None:
        self.parts, self.mixing, self.read = tuple(parts), mixing, read
        _require_alike(self.parts, read)
        self.target = " + ".join(part.target for part in self.parts)
        sizes = [part.n_items for part in self.parts]
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        """int64 [parts + 1]: item k of part p has the number first[p] + k."""
        self.n_items = int(self.first[-1])
        self._users = [trainable_users(part) for part in self.parts]
        self._starts = np.concatenate([[0], np.cumsum([len(each) for each in self._users])])
        if len(self) < 2:
            raise InputError(
                f"training on {self.target} needs at least 2 users, for each other's negatives: "
                f"found {len(self):,} users with two training items or more"
            )
        # By the length of rows, of which a run has one; kept, as every batch asks.
        self._log_shares = lru_cache(maxsize=4)(self._count_log_shares)

    def __len__(self) -> int:
        """Rows of an epoch: the trainable users."""
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        """Of what the shards were made from; of one part alone its own."""
        marks = [part.fingerprint for part in self.parts]
        if len(marks) == 1:
            return marks[0]
        return hashlib.sha256("\n".join([self.mixing, *marks]).encode()).hexdigest()

    def with_parts(self, parts: Sequence[Shards]) -> "TrainingSet":
        """The same users and items, read from these: the same shards, with activations."""
        view = copy.copy(self)
        view.parts = tuple(parts)
        return view

    def rows(self, positions: Int64s, *, seed: int, epoch: int, length: int) -> Int64s:
        """The rows at some positions of an epoch's order, int64 [rows, length], 0 for padding.

        A row holds the most recent items of a user's training part. It is a pure function of
        (seed, epoch, position).
        """
        part, user = self._drawn(positions, seed, epoch)
        found = np.full((len(positions), length), PAD, dtype=np.int64)
        for k, shards in enumerate(self.parts):
            own = part == k
            if own.any():
                items = shards.sequences().train.recent(user[own], length)
                found[own] = np.where(items != PAD, items + self.first[k], PAD)
        return found

    def collate(self, item_BS: Int64s) -> Batch:
        """Rows of items (0: padding) as a batch over their distinct items.

        Their `log_p_I` is of `occurrences` in rows of this width.
        """
        distinct = np.unique(item_BS[item_BS != PAD])
        slot_BS = np.where(item_BS != PAD, np.searchsorted(distinct, item_BS) + 1, 0)
        return Batch(
            items=self.items(distinct),
            slot_BS=torch.from_numpy(slot_BS.astype(np.int64)),
            log_p_I=torch.from_numpy(self._log_shares(item_BS.shape[1])[distinct - 1]),
        )

    def occurrences(self, length: int) -> list[Float64s]:
        """How often the rows of an epoch hold each item, by part; float64 [items of the part].

        It is what batches meet, not how often an item occurs in the training parts: a row has its
        user's last `length` items alone, and a user with a single one has no row. With the mixing
        "equal" it is of an epoch in which each part is gone through once.

        Args:
            length: slots of a row, as in `rows`.
        """
        found = [np.zeros(shards.n_items + 1) for shards in self.parts]
        for shards, users, count in zip(self.parts, self._users, found, strict=True):
            for some in np.split(users, range(_USERS_AT_ONCE, len(users), _USERS_AT_ONCE)):
                own = shards.sequences().train.take(some)
                visits = expected_visits(own.lengths, length)
                count += np.bincount(own.values, visits, minlength=len(count))
        return [count[1:] for count in found]

    def items(self, numbers: Int64s) -> Items:
        """The content of distinct items, whose numbers must ascend."""
        found = []
        for k, shards in enumerate(self.parts):
            own = numbers[(numbers > self.first[k]) & (numbers <= self.first[k + 1])]
            if len(own) or len(self.parts) == 1:
                found.append(shards.items(own - self.first[k], read=self.read))
        pad = int(self.parts[0].tokenizer["pad"])
        return concatenate(found, numbers, pad) if len(self.parts) > 1 else found[0]

    def record(self, item: int) -> dict[str, Any]:
        """What is known of an item, as `Shards.record`."""
        part, number = self._found(item)
        return part.record(number)

    def picture(self, item: int) -> npt.NDArray[np.uint8]:
        """An item's picture, as `Shards.picture`."""
        part, number = self._found(item)
        return part.picture(number)

    def _found(self, item: int) -> tuple[Shards, int]:
        """The part that an item belongs to, and its number there."""
        part = int(np.searchsorted(self.first, item)) - 1
        return self.parts[part], item - int(self.first[part])

    def _drawn(self, positions: Int64s, seed: int, epoch: int) -> tuple[Int64s, Int64s]:
        """Part and user of some positions of an epoch's order."""
        match self.mixing:
            case "proportional":
                at = shuffled(positions, len(self), seed=seed, epoch=epoch)
                part = np.searchsorted(self._starts, at, side="right") - 1
                inside = at - self._starts[part]
            case "equal":
                count = len(self.parts)
                turn, part = np.divmod(epoch * len(self) + positions, count)
                inside = np.empty_like(turn)
                for k, users in enumerate(self._users):
                    for lap in np.unique(turn[part == k] // len(users)).tolist():
                        own = (part == k) & (turn // len(users) == lap)
                        # Each part and lap has an order of its own.
                        order = lap * count + k
                        inside[own] = shuffled(
                            turn[own] % len(users), len(users), seed=seed, epoch=order
                        )
        user = np.empty_like(inside)
        for k, users in enumerate(self._users):
            user[part == k] = users[inside[part == k]]
        return part, user

    def _count_log_shares(self, length: int) -> npt.NDArray[np.float32]:
        """log of each item's share of what batches meet, [n_items]; of one that they never meet it
        is low and finite."""
        counts = self.occurrences(length)
        if self.mixing == "equal":  # as many rows of each part, but not as many items in them
            pairs = zip(counts, self._users, strict=True)
            counts = [count / len(users) for count, users in pairs]
        count_N = np.concatenate(counts)
        share_N = np.maximum(count_N / count_N.sum(), 1e-30)
        log_share_N: npt.NDArray[np.float32] = np.log(share_N).astype(np.float32)
        return log_share_N


def expected_visits(lengths_U: Int64s, length: int, windows_U: Int64s | None = None) -> Float64s:
    """How often a row of each user is expected to hold each of his items, oldest first.

    A user's row is a window of `length` items of his, drawn evenly from his last `windows_U`
    windows; a user with `length` items or fewer has one window, with all that he has.

    Args:
        lengths_U: how many items each user has.
        length: slots of a row.
        windows_U: from how many windows, each shifted by one item, the row is drawn; no more than
            there are. None: from the last alone, so it is 1 for the last items and 0 for others.

    Returns:
        float64, a value for each item of each user.

    >>> expected_visits(np.array([4, 2]), 3).tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> expected_visits(np.array([4, 2]), 3, np.array([2, 1])).tolist()
    [0.5, 1.0, 1.0, 0.5, 1.0, 1.0]
    """
    if windows_U is None:
        windows_U = np.ones_like(lengths_U)
    ends = np.cumsum(lengths_U)
    # From the end: an item with `back` later ones is in the windows that end behind it (at most
    # `back` items before the user's end) and begin at or before it.
    back = np.repeat(ends, lengths_U) - np.arange(1, int(lengths_U.sum()) + 1)
    choices = np.repeat(windows_U, lengths_U)
    held = np.minimum(back, choices - 1) - np.maximum(back - length + 1, 0) + 1
    share: Float64s = np.maximum(held, 0) / choices
    return share


def trainable_users(shards: Shards) -> Int64s:
    """The users whose training part has a next item to learn: at least two items."""
    return np.flatnonzero(shards.sequences().train.lengths >= 2)


def _require_alike(parts: Sequence[Shards], read: Reads) -> None:
    """Refuse parts whose tokens or pictures do not fit into one batch."""
    first = parts[0]
    for part in parts[1:]:
        if read in ("both", "text") and part.tokenizer["sha256"] != first.tokenizer["sha256"]:
            raise InputError(
                f"the shards of {first.target} hold tokens of {first.tokenizer['name']!r}, those "
                f"of {part.target} of {part.tokenizer['name']!r}. Make them alike: "
                f'pmm shard --target "{part.target}" --text-encoder {first.tokenizer["name"]}'
            )
        if read in ("both", "vision") and part.picture_size != first.picture_size:
            raise InputError(
                f"the pictures of {first.target} are {first.picture_size} wide, those of "
                f"{part.target} {part.picture_size}: make their shards alike"
            )
