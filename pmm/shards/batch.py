"""The one seam between data and model: a frozen batch of user sequences over distinct items.

Shape legend: B users, S = L + 1 slots a user (left-padded), I distinct items of the batch,
T text tokens (padded to the longest of the batch), H = W = 224 picture side.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional


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


def concatenate(parts: Sequence[Items], numbers: npt.NDArray[np.int64], pad: int) -> Items:
    """The items of several catalogues behind one another, under new numbers.

    Args:
        parts: their contents.
        numbers: of all of them together, ascending.
        pad: the tokenizer's padding id.
    """
    longest = max(part.token_IT.shape[1] for part in parts)

    def widened(name: str, value: int) -> Tensor:
        rows = [getattr(part, name) for part in parts]
        return torch.cat([functional.pad(r, (0, longest - r.shape[1]), value=value) for r in rows])

    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("picture_I3HW", "has_text_I", "has_picture_I")
    }
    return Items(
        item_I=torch.from_numpy(numbers.copy()),
        token_IT=widened("token_IT", pad),
        token_mask_IT=widened("token_mask_IT", 0),
        **joined,
    )


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
