"""The one seam between data and model: a frozen batch of user sequences over distinct items.

Shape legend: B users, S = L + 1 slots a user (left-padded), I distinct items of the batch,
T text tokens (padded to the longest of the batch), H = W = 224 picture side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pmm.shards.items import Items


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B user sequences that refer to the I distinct items of the batch."""

    items: Items
    slot_BS: Tensor
    """int64, left-padded: 0 is padding, k > 0 stands for items.item_I[k - 1]."""
    log_p_I: Tensor
    """float32, log of the item's share of what batches meet: of all slots of an epoch's rows that
    hold an item (docs/paper.md, "What is counted"; `TrainingSet.occurrences`)."""
    group_I: Tensor | None = None
    """int64, which group each item belongs to, where its negatives are to be of the own group;
    None where they may be all items of the batch (`pmm.data.categories`)."""

    def __post_init__(self) -> None:
        items = len(self.items.item_I)
        for name in ("log_p_I", "group_I"):
            found = getattr(self, name)
            if found is not None and found.shape != (items,):
                raise ValueError(f"{name} has shape {tuple(found.shape)}, expected ({items},)")

    def numbers(self) -> Tensor:
        """The slots as numbers of the catalogue, int64 [B, S]: 0 padding, else 1..N."""
        return functional.pad(self.items.item_I, (1, 0))[self.slot_BS]

    def split(self, parts: int) -> list["Batch"]:
        """The same users in `parts` parts or fewer, of two or more, each over its own items."""
        count = max(1, min(parts, len(self.slot_BS) // 2))
        return [self] if count == 1 else [self._of(r) for r in self.slot_BS.tensor_split(count)]

    def _of(self, slot_BS: Tensor) -> "Batch":
        """Some of the users, over the items that they have."""
        number, slot = torch.unique(slot_BS, return_inverse=True)
        with_padding = bool(number[0] == 0)
        rows_I = number[int(with_padding) :] - 1
        return Batch(
            items=self.items.map(lambda each: each[rows_I]),
            slot_BS=slot + (not with_padding),
            log_p_I=self.log_p_I[rows_I],
            group_I=None if self.group_I is None else self.group_I[rows_I],
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            items=self.items.to(device),
            slot_BS=self.slot_BS.to(device),
            log_p_I=self.log_p_I.to(device),
            group_I=None if self.group_I is None else self.group_I.to(device),
        )
