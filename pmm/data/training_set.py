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
from pmm.data.categories import (
    Categories,
    Groups,
    Negatives,
    SequenceRule,
    split_lists,
    without_categories,
)
from pmm.data.category_tables import WITHOUT_THEM, read_categories
from pmm.data.order import Mixing, shuffled
from pmm.data.windows import MAX_LENGTH, WindowRule, Windows
from pmm.data.windows import told as windows_told
from pmm.errors import InputError
from pmm.shards.items import Items, concatenate
from pmm.shards.kinds import Reads
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.storage.schemas import PAD


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
        windows: which of a user's training items stand in rows (`pmm.data.windows`).
        max_length: input positions L; rows have L + 1 slots.
        negatives: what batches say of the items' groups (`Batch.group_I`): nothing, of which part
            each item is, or of which category of its part. A part without categories is a group.
        sequences: "by category" makes as many sequences of a user's training items as they have
            categories; one of a single item is left out.

    Raises:
        InputError: fewer than two users can be trained on, the parts' tokens or pictures were not
            made alike, or categories are asked for where no part has any.
        ArtefactError: as `pmm.data.categories.read_categories`.
    """

    def __init__(
        self,
        parts: Sequence[Shards],
        *,
        mixing: Mixing = "proportional",
        read: Reads = "both",
        windows: WindowRule = "last",
        max_length: int = MAX_LENGTH,
        negatives: Negatives = "batch",
        sequences: SequenceRule = "whole",
    ) -> None:
        self.parts, self.mixing, self.read = tuple(parts), mixing, read
        _require_alike(self.parts, read)
        self.target = " + ".join(part.target for part in self.parts)
        sizes = [part.n_items for part in self.parts]
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        """int64 [parts + 1]: item k of part p has the number first[p] + k."""
        self.n_items = int(self.first[-1])
        asked = negatives == "category" or sequences == "by category"
        categories = self._categories() if asked else []
        self.groups = self._groups(negatives, categories)
        """None: an item's negatives may be all of a batch."""
        self.sequences = sequences
        self.split_by = categories if sequences == "by category" else []
        """The categories of each part's items, where its sequences are split by them."""
        self._train = self._sequences(self.split_by)
        self.rule, self.length = windows, max_length + 1
        self.windows = self._windows(self.length)
        """The rows of each part."""
        self._starts = np.concatenate([[0], np.cumsum([len(each) for each in self.windows])])
        users = sum(len(each.users) for each in self.windows)
        if users < 2:
            raise InputError(
                f"training on {self.target} needs at least 2 users, for each other's negatives: "
                f"found {users:,} {_rows_of(sequences)} with two training items or more"
            )
        # By the length of rows, of which a run has one; kept, as every batch asks.
        self._log_shares = lru_cache(maxsize=4)(self._count_log_shares)

    def __len__(self) -> int:
        """Rows of an epoch: the trainable users; with windows "all" all their windows."""
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

        A row holds consecutive items of a user's training part. It is a pure function of
        (seed, epoch, position).

        Raises:
            ValueError: another length than the training set's, on which all windows depend.
        """
        if self.rule == "all" and length != self.length:
            raise ValueError(f"the rows are windows of {self.length} items, not of {length}")
        windows = self.windows if length == self.length else self._windows(length)
        part, row, lap = self._drawn(positions, seed, epoch)
        found = np.full((len(positions), length), PAD, dtype=np.int64)
        for k, train in enumerate(self._train):
            for turn in np.unique(lap[part == k]).tolist():
                own = (part == k) & (lap == turn)
                user, end = windows[k].at(row[own], seed=seed, epoch=turn)
                items = train.before(user, end, length)
                found[own] = np.where(items != PAD, items + self.first[k], PAD)
        return found

    def _windows(self, length: int) -> list[Windows]:
        """The windows of each part, with rows of so many slots."""
        return [
            Windows(rule=self.rule, length=length, items_U=each.lengths, part=k)
            for k, each in enumerate(self._train)
        ]

    def _categories(self) -> list[Categories]:
        """The categories of each part's items; errors as of the class."""
        found = [read_categories(part) for part in self.parts]
        if not any(each.some for each in found):
            raise InputError(
                f"no item of {self.target} is in a category. Train without: {WITHOUT_THEM}"
            )
        return found

    def _groups(self, negatives: Negatives, categories: list[Categories]) -> Groups | None:
        match negatives:
            case "batch":
                return None
            case "source":
                categories = [without_categories(part.n_items) for part in self.parts]
            case "category":
                pass
        return Groups.of([part.target for part in self.parts], categories)

    def _sequences(self, categories: list[Categories]) -> tuple[Lists, ...]:
        """The training sequences of each part, split by the categories where there are some."""
        whole = [part.sequences().train for part in self.parts]
        if not categories:
            return tuple(whole)
        return tuple(
            split_lists(train, each.of_N) if each.some else train
            for train, each in zip(whole, categories, strict=True)
        )

    def told(self, batch_users: int) -> list[str]:
        """What is read of the training interactions and how negatives were chosen, as sentences."""
        split = self.sequences == "by category"
        said = [windows_told(self.windows, of="sequence" if split else "user")]
        if split:
            lengths = np.concatenate([each.lengths for each in self._train])
            whole = sum(len(part.sequences().train) for part in self.parts)
            said.append(
                f"sequences by category: those of {whole:,} users are {len(lengths):,}, each of "
                f"one category; {int((lengths == 1).sum()):,} of a single item are left out"
            )
        if self.groups is not None:
            count_N = np.concatenate(self.occurrences(self.length))
            said.append(self.groups.told(count_N, len(self), min(batch_users, len(self))))
        return said

    def reads(self) -> dict[str, Any]:
        """How many of the training interactions a pass reads, for a run's record."""
        return {
            "windows": self.rule,
            "interactions": sum(each.items_read for each in self.windows),
            "of": sum(int(each.items_U.sum()) for each in self.windows),
        }

    def collate(self, item_BS: Int64s) -> Batch:
        """Rows of items (0: padding) as a batch over their distinct items.

        Their `log_p_I` is of `occurrences` in rows of this width.
        """
        distinct = np.unique(item_BS[item_BS != PAD])
        groups = self.groups
        slot_BS = np.where(item_BS != PAD, np.searchsorted(distinct, item_BS) + 1, 0)
        return Batch(
            items=self.items(distinct),
            slot_BS=torch.from_numpy(slot_BS.astype(np.int64)),
            log_p_I=torch.from_numpy(self._log_shares(item_BS.shape[1])[distinct - 1]),
            group_I=None if groups is None else torch.from_numpy(groups.of_N[distinct - 1]),
        )

    def occurrences(self, length: int) -> list[Float64s]:
        """How often the rows of an epoch hold each item, by part; float64 [items of the part].

        It is what batches meet, not how often an item occurs in the training parts: under the rule
        "last" a row has its user's last `length` items alone, and a user with a single one has no
        row. Of random windows it is the expected number. With the mixing "equal" it is of an epoch
        in which each part is gone through once.

        Args:
            length: slots of a row, as in `rows`.
        """
        windows = self.windows if length == self.length else self._windows(length)
        return [
            each.item_counts(train, shards.n_items)[1:]
            for each, train, shards in zip(windows, self._train, self.parts, strict=True)
        ]

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

    def _drawn(self, positions: Int64s, seed: int, epoch: int) -> tuple[Int64s, Int64s, Int64s]:
        """Part, row there and the how manieth pass through it, of positions of an epoch's order."""
        match self.mixing:
            case "proportional":
                at = shuffled(positions, len(self), seed=seed, epoch=epoch)
                part = np.searchsorted(self._starts, at, side="right") - 1
                inside, lap = at - self._starts[part], np.full_like(at, epoch)
            case "equal":
                count = len(self.parts)
                turn, part = np.divmod(epoch * len(self) + positions, count)
                inside, lap = np.empty_like(turn), np.empty_like(turn)
                for k, rows in enumerate(map(len, self.windows)):
                    for now in np.unique(turn[part == k] // rows).tolist():
                        own = (part == k) & (turn // rows == now)
                        # Each part and lap has an order of its own.
                        order = now * count + k
                        inside[own] = shuffled(turn[own] % rows, rows, seed=seed, epoch=order)
                        lap[own] = now
        return part, inside, lap

    def _count_log_shares(self, length: int) -> npt.NDArray[np.float32]:
        """log of each item's share of what batches meet, [n_items]; of one that they never meet it
        is low and finite."""
        counts = self.occurrences(length)
        if self.mixing == "equal":  # as many rows of each part, but not as many items in them
            pairs = zip(counts, self.windows, strict=True)
            counts = [count / len(rows) for count, rows in pairs]
        count_N = np.concatenate(counts)
        share_N = np.maximum(count_N / count_N.sum(), 1e-30)
        log_share_N: npt.NDArray[np.float32] = np.log(share_N).astype(np.float32)
        return log_share_N


def _rows_of(sequences: SequenceRule) -> str:
    return "users" if sequences == "whole" else "sequences of one category"


def _require_alike(parts: Sequence[Shards], read: Reads) -> None:
    """Refuse parts whose tokens or pictures do not fit into one batch."""
    first = parts[0]
    for part in parts[1:]:
        if read in ("both", "text") and part.tokenizer["sha256"] != first.tokenizer["sha256"]:
            raise InputError(
                f"the shards of {first.target} hold tokens of {first.tokenizer['name']!r}, those "
                f"of {part.target} of {part.tokenizer['name']!r}. Make them alike: "
                + part.command_to_make(text_encoder=first.text_encoder)
            )
        prefixes = [each.tokenizer.get("prefix", "") for each in (first, part)]
        if read in ("both", "text") and prefixes[0] != prefixes[1]:
            raise InputError(
                f"the texts of {first.target} have the prefix {prefixes[0]!r}, those of "
                f"{part.target} {prefixes[1]!r}. Make them alike: "
                + part.command_to_make(text_prefix=prefixes[0])
            )
        if read in ("both", "vision") and part.picture_size != first.picture_size:
            raise InputError(
                f"the pictures of {first.target} are {first.picture_size} wide, those of "
                f"{part.target} {part.picture_size}: make their shards alike"
            )
