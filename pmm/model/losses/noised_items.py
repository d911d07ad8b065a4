"""Corrupted sequences, and the task to find what was corrupted in them (paper III-D).

Shape suffixes: B users, S = L + 1 slots (left-padded), L inputs, D width.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from pmm.model.losses.next_item import at_least_float32, own_columns

UNCHANGED, SHUFFLED, REPLACED = range(3)
PADDING = -100
"""Labels of inputs; padding is ignored by the loss."""


@dataclass(frozen=True, kw_only=True)
class CorruptionOptions:
    """Shares of a sequence's inputs (paper III-D: 15 % shuffled, 5 % more replaced)."""

    shuffle: float = 0.15
    replace: float = 0.05
    last_item: bool = False
    """Whether a user's last item is read too, as Eq. 10 and 11 run over all of them: the window is
    then the last L slots, not the L inputs, whose next item is predicted (R49)."""

    def __post_init__(self) -> None:
        if not (self.shuffle >= 0 and self.replace >= 0 and self.shuffle + self.replace <= 1):
            raise ValueError("shuffle and replace must be shares, together at most 1")


@dataclass(frozen=True)
class Corrupted:
    """Corrupted inputs of a batch: which item now stands where, and what was done there."""

    slot_BL: Tensor
    """int64, as the batch's slots: 0 padding, k > 0 stands for item k - 1."""
    label_BL: Tensor
    """int64: UNCHANGED, SHUFFLED, REPLACED, or PADDING."""


def corrupt(
    slot_BS: Tensor, n_items: int, options: CorruptionOptions, generator: Generator
) -> Corrupted:
    """Shuffle and replace items of each sequence (R28, R29 of docs/paper.md).

    Numbers of items are rounded up or down at random so that their mean is the share, from two
    inputs on. One item cannot be shuffled: it becomes two or none with even chances. The shuffled
    ones are rotated along a random cycle, so each leaves its place; where an equal item takes it,
    the input counts as unchanged. A replacement comes from the other users' slots, uniformly, and
    is no item of the user's own; where there is none, nothing is replaced.

    Args:
        slot_BS: the batch's slots; which of them are inputs here, `window` says.
        n_items: distinct items of the batch.
        options: the shares.
        generator: all chance comes from it; on the device of the slots.
    """
    slot_BL = window(slot_BS, options)
    valid_BL = slot_BL > 0
    n_valid_B = valid_BL.sum(1)
    shuffled_B, replaced_B = _counts(n_valid_B, options, generator)
    # One random order of a user's items serves both: the first of it are shuffled, the next ones
    # replaced, so no input is both.
    noise_BL = torch.rand(slot_BL.shape, generator=generator, device=slot_BL.device)
    order_BL = noise_BL.masked_fill(~valid_BL, 2.0).argsort(1)  # padding last: draws are below 1
    place_L = torch.arange(slot_BL.shape[1], device=slot_BL.device)
    # A cycle, not a random permutation: that would leave an item in its place every so often, and
    # its label would be wrong (one such item a sequence on average).
    in_cycle_BL = place_L < shuffled_B[:, None]
    following_BL = torch.where(place_L + 1 < shuffled_B[:, None], place_L + 1, 0)
    source_BL = order_BL.gather(1, torch.where(in_cycle_BL, following_BL, place_L))
    # The item at place source_BL[b, j] goes to place order_BL[b, j].
    rotated_BL = torch.empty_like(slot_BL).scatter(1, order_BL, slot_BL.gather(1, source_BL))
    to_replace_BL = ~in_cycle_BL & (place_L < (shuffled_B + replaced_B)[:, None])
    chosen_BL = torch.zeros_like(valid_BL).scatter(1, order_BL, to_replace_BL)
    foreign_BL = _foreign_items(slot_BS, n_items, generator)
    taken_BL = chosen_BL & (foreign_BL > 0)
    new_BL = torch.where(taken_BL, foreign_BL, rotated_BL)
    # By what stands there now, not by what was meant: an equal item may have come, and a detector
    # cannot tell what has not changed.
    label_BL = torch.where(new_BL != slot_BL, SHUFFLED, UNCHANGED)
    label_BL = torch.where(taken_BL, REPLACED, label_BL).masked_fill(~valid_BL, PADDING)
    return Corrupted(new_BL, label_BL)


def window(slot_BS: Tensor, options: CorruptionOptions) -> Tensor:
    """The slots that are corrupted, and what they are compared with: L of the S. [B, L]

    >>> window(torch.tensor([[0, 1, 2], [3, 4, 5]]), CorruptionOptions(last_item=True)).tolist()
    [[1, 2], [4, 5]]
    """
    return slot_BS[:, 1:] if options.last_item else slot_BS[:, :-1]


def _counts(
    n_valid_B: Tensor, options: CorruptionOptions, generator: Generator
) -> tuple[Tensor, Tensor]:
    """How many items of each user are shuffled and how many replaced; together at most all."""
    # One chance in opposite directions, so that both rarely round up and seldom exceed the whole.
    # Rounded at random, as 15 % of a sequence of five is less than one item and would never happen.
    chance_2B = torch.rand((2, len(n_valid_B)), generator=generator, device=n_valid_B.device)
    shuffled_B = (options.shuffle * n_valid_B + chance_2B[0]).floor().long()
    replaced_B = (options.replace * n_valid_B + 1 - chance_2B[0]).floor().long()
    pair_B = torch.where(chance_2B[1] < 0.5, 2, 0)
    shuffled_B = torch.where(shuffled_B == 1, pair_B, shuffled_B)
    shuffled_B = torch.where(n_valid_B < 2, 0, torch.minimum(shuffled_B, n_valid_B))
    return shuffled_B, torch.minimum(replaced_B, n_valid_B - shuffled_B)


def _foreign_items(slot_BS: Tensor, n_items: int, generator: Generator) -> Tensor:
    """For each input an item of another user, uniform over valid slots; 0 where there is none."""
    own_BI = own_columns(slot_BS, n_items)  # fp32 counts are exact, and an Apple GPU has no fp64
    # Columns of others by item, running total: a uniform number below the total falls upon an item
    # as often as it stands in others' slots. Nothing has to be drawn again.
    free_BI = (own_BI.sum(0) * (own_BI == 0)).cumsum(1)
    shape = (len(slot_BS), slot_BS.shape[1] - 1)
    at_BL = torch.rand(shape, generator=generator, device=slot_BS.device)
    total_B1 = free_BI[:, -1:]
    found_BL = torch.searchsorted(free_BI, at_BL * total_B1, right=True) + 1
    # A draw next to 1 times the total may round up to the total itself, behind the last item.
    return torch.where(total_B1 > 0, found_BL.clamp(max=n_items), 0)


def noised_item_detection(logits_BL3: Tensor, label_BL: Tensor, *, relu: bool = False) -> Tensor:
    """Which inputs were shuffled, which replaced (paper Eq. 10), as a mean over valid inputs.

    Eq. 10 puts a ReLU before the logarithm, which is undefined at 0; a softmax must be meant (R27).

    Args:
        logits_BL3: one logit for each of UNCHANGED, SHUFFLED, REPLACED.
        label_BL: from `corrupt`.
        relu: keep the ReLU in front of the softmax, as printed; it stops gradients.

    Returns:
        Cross-entropy in nats, scalar of float32 or more; 0 where every input is padding.
    """
    logits_BL3 = at_least_float32(logits_BL3)
    if relu:
        logits_BL3 = logits_BL3.relu()
    loss = functional.cross_entropy(
        logits_BL3.flatten(0, 1), label_BL.flatten(), ignore_index=PADDING, reduction="sum"
    )
    return loss / (label_BL != PADDING).sum().clamp(min=1)
