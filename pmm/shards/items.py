"""The content of distinct items, as shards give it and models read it.

Shape legend: I distinct items, T text tokens (padded to the longest among them), P picture tokens,
D width of an encoder, H = W = 224 picture side.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional


class HiddenStates(Protocol):
    """Stored outputs of a frozen trunk (`pmm.shards.activations` has the files of them)."""

    def gather(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Hidden states [I, K, D] of some items, zeros where there is nothing."""
        ...


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
    text_hidden_ITD: Tensor | None = None
    """What the frozen trunk makes of the tokens, where it was stored (`pmm.shards.activations`)."""
    picture_hidden_IPD: Tensor | None = None
    """The same of the pictures, which are then not read: picture_I3HW has no height and width."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Items":
        """The items with every tensor that is there changed, as `lambda rows: rows[[2, 0]]`."""
        here = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        new = {name: change(tensor) for name, tensor in here.items() if tensor is not None}
        return dataclasses.replace(self, **new)

    def to(self, device: torch.device | str) -> "Items":
        """The same items on another device."""
        return self.map(lambda tensor: tensor.to(device))


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
        # The tokens are the second dimension, of two or of three.
        behind = [(0, 0) * (each.dim() - 2) + (0, longest - each.shape[1]) for each in rows]
        padded = [functional.pad(r, b, value=value) for r, b in zip(rows, behind, strict=True)]
        return torch.cat(padded)

    names = ["picture_I3HW", "has_text_I", "has_picture_I"]
    names += ["picture_hidden_IPD"] * (parts[0].picture_hidden_IPD is not None)
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    if parts[0].text_hidden_ITD is not None:
        joined["text_hidden_ITD"] = widened("text_hidden_ITD", 0)
    return Items(
        item_I=torch.from_numpy(numbers.copy()),
        token_IT=widened("token_IT", pad),
        token_mask_IT=widened("token_mask_IT", 0),
        **joined,
    )
