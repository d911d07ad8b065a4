"""The one seam between data and model: a frozen batch of user sequences over distinct items.

Shape legend: B users, S = L + 1 slots a user (left-padded), I distinct items of the batch,
T text tokens (padded to the longest of the batch), H = W = 224 picture side.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Items:
    """The content of I distinct items. Padding is never among them."""

    item_I: Tensor
    """int64, catalogue numbers 1..N, ascending."""
    token_IT: Tensor
    """int64, sub-word ids, right-padded with the tokenizer's padding id."""
    token_mask_IT: Tensor
    """bool, True at real tokens. An item without text has one, the first special one."""
    picture_I3HW: Tensor
    """uint8 RGB 0..255, zeros where there is no picture (see has_picture_I)."""
    has_text_I: Tensor
    """bool."""
    has_picture_I: Tensor
    """bool."""

    def to(self, device: torch.device | str) -> "Items":
        """The same items on another device."""
        fields = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)}
        return Items(**fields)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B user sequences that refer to the I distinct items of the batch."""

    items: Items
    slot_BS: Tensor
    """int64, left-padded: 0 is padding, k > 0 stands for items.item_I[k - 1]."""
    log_p_I: Tensor
    """float32, log of the item's share of all training occurrences (docs/paper.md R13 to R15)."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            items=self.items.to(device),
            slot_BS=self.slot_BS.to(device),
            log_p_I=self.log_p_I.to(device),
        )
