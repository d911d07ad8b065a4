"""Baselines' own losses: full softmax, one sampled negative, cosine softmax over sequences.

Pure functions of tensors, as in `next_item.py`.

Shape suffixes: B users, S = L + 1 slots, L inputs (slots 0..L-1; input l predicts slot l+1), N
prediction rows (the valid (user, input) pairs), I items that are given, D width; n: rows that are
computed together.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pmm.model.losses.next_item import Similarity, at_least_float32, predicted, similarities

SameTarget = Literal["masked", "official"]

LOGITS_AT_ONCE = 2**25
"""Logits of the full softmax that are held together (128 MB)."""


@dataclass(frozen=True)
class PredictionRows:
    """What is predicted, row by row."""

    user_ND: Tensor
    """The hidden state that predicts."""
    target_N: Tensor
    """int64: the item's row among those given, from 0."""
    owner_N: Tensor
    """int64: whose state it is, 0..B-1, ascending."""


def prediction_rows(user_BLD: Tensor, slot_BS: Tensor) -> PredictionRows:
    """The rows where an input and the slot behind it are both items.

    Args:
        user_BLD: hidden state at each input.
        slot_BS: 0 padding (on the left), k > 0 stands for item k - 1.
    """
    row_BL = predicted(slot_BS)
    return PredictionRows(user_BLD[row_BL], slot_BS[:, 1:][row_BL] - 1, row_BL.nonzero()[:, 0])


def full_softmax(
    user_BLD: Tensor,
    item_ID: Tensor,
    slot_BS: Tensor,
    *,
    similarity: Similarity = "dot",
    tau: float | Tensor = 1.0,
    prior_I: Tensor | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Softmax of each row's target over all items of the catalogue.

    The memory is that of so many logits and a few tensors of their size: where there are more, rows
    are taken in groups, and the backward pass computes each group's logits again.

    Args:
        user_BLD: hidden state at each input.
        item_ID: vectors of all items; row i - 1 belongs to item i.
        slot_BS: 0 padding (on the left), else items of the catalogue, from 1. What a batch calls
            slots are numbers within the batch: `functional.pad(item_I, (1, 0))[slot_BS]`.
        similarity: raw dot product, or cosine.
        tau: logits are divided by it; a tensor [] may learn.
        prior_I: what is added to the logits of each item, divided by no temperature; None: nothing.
        logits_at_once: a group has at least one row all the same.

    Returns:
        Mean over the N rows, scalar of float32 or more. Where N = 0 it is 0, with zero gradients.
    """
    rows = prediction_rows(user_BLD, slot_BS)
    step = max(1, logits_at_once // max(1, len(item_ID)))

    def cross_entropy(user_nD: Tensor, item_ID: Tensor, target_n: Tensor) -> Tensor:
        z_nI = similarities(user_nD, item_ID, similarity) / tau
        if prior_I is not None:
            z_nI = z_nI + prior_I
        return functional.cross_entropy(z_nI, target_n, reduction="sum")

    if len(rows.target_N) <= step:
        total = cross_entropy(rows.user_ND, item_ID, rows.target_N)
    else:
        groups = zip(torch.split(rows.user_ND, step), torch.split(rows.target_N, step), strict=True)
        total = torch.stack(
            [
                checkpoint(
                    cross_entropy,
                    user_nD,
                    item_ID,
                    target_n,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for user_nD, target_n in groups
            ]
        ).sum()
    return total / max(1, len(rows.target_N))


def binary_cross_entropy(
    user_BLD: Tensor, item_ID: Tensor, slot_BS: Tensor, negative_BL: Tensor
) -> Tensor:
    """The target against one sampled negative at each position, as SASRec was published.

    Args:
        user_BLD: hidden state at each input.
        item_ID: vectors of the items that slots and negatives name.
        slot_BS: 0 padding (on the left), k > 0 stands for item k - 1.
        negative_BL: the same for the negatives (`draw_negatives`); read at prediction rows only.

    Returns:
        Mean over the N rows of softplus(-s_target) + softplus(s_negative), scalar of float32 or
        more. Where N = 0 it is 0, with zero gradients.
    """
    positive_N, negative_N, _ = _pair_scores(user_BLD, item_ID, slot_BS, negative_BL)
    loss_N = functional.softplus(-positive_N) + functional.softplus(negative_N)
    return loss_N.sum() / max(1, len(loss_N))


def bpr(user_BLD: Tensor, item_ID: Tensor, slot_BS: Tensor, negative_BL: Tensor) -> Tensor:
    """The target above one sampled negative at each position (Bayesian personalised ranking).

    Args:
        user_BLD, item_ID, slot_BS, negative_BL: as of `binary_cross_entropy`.

    Returns:
        -ln sigmoid(s_target - s_negative), summed over a user's rows, then the mean over the users
        that have a row (as PixelRec has it: long sequences weigh more); scalar of float32 or more.
        Where there is none it is 0, with zero gradients.
    """
    positive_N, negative_N, owner_N = _pair_scores(user_BLD, item_ID, slot_BS, negative_BL)
    users = (torch.bincount(owner_N) > 0).sum().clamp(min=1)
    return functional.softplus(negative_N - positive_N).sum() / users


def _pair_scores(
    user_BLD: Tensor, item_ID: Tensor, slot_BS: Tensor, negative_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of targets and of negatives, and the owners; all [N]."""
    rows = prediction_rows(user_BLD, slot_BS)
    named_N = negative_BL[(slot_BS[:, :-1] > 0) & (slot_BS[:, 1:] > 0)] - 1
    positive_N, negative_N = (
        _dots(rows.user_ND, item_ID[each_N]) for each_N in (rows.target_N, named_N)
    )
    return positive_N, negative_N, rows.owner_N


def _dots(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """Dot products row by row, [N], in float32 or more."""
    return (at_least_float32(left_ND) * at_least_float32(right_ND)).sum(1)


def draw_negatives(item_BS: Tensor, n_items: int, generator: Generator) -> Tensor:
    """For each input an item of the catalogue outside the user's S slots, int64 [B, L].

    All items outside are equally likely (up to n_items in 2^62). Nothing is drawn again: a number r
    is drawn, and the r-th item outside is found with the user's sorted ones. Inputs draw
    independently, those at padding too.

    Args:
        item_BS: the users' items, of the catalogue, from 1; 0 padding.
        n_items: of the catalogue.
        generator: all chance comes from it; on any device.

    Raises:
        ValueError: a user has all the items.

    >>> draw = torch.Generator().manual_seed(0)
    >>> draw_negatives(torch.tensor([[0, 1, 2, 4], [3, 3, 1, 2]]), 4, draw).tolist()
    [[3, 3, 3], [4, 4, 4]]
    """
    beyond = n_items + item_BS.shape[1] + 1
    sorted_BS = item_BS.masked_fill(item_BS == 0, beyond).sort(1).values
    again_BS = functional.pad(sorted_BS[:, 1:] == sorted_BS[:, :-1], (1, 0))
    sorted_BS = sorted_BS.masked_fill(again_BS, beyond).sort(1).values
    free_B1 = n_items - (sorted_BS < beyond).sum(1, keepdim=True)
    if n_items <= item_BS.shape[1] and bool((free_B1 < 1).any()):
        raise ValueError(f"a user has all {n_items} items: there is no negative to draw")
    shape = (len(item_BS), item_BS.shape[1] - 1)
    chance_BL = torch.randint(2**62, shape, generator=generator, device=generator.device)
    rank_BL = chance_BL.to(item_BS.device) % free_B1  # from 0, among the items outside
    # Below the j-th own item i (both from 0 and 1) are i - 1 - j items outside.
    outside_BS = sorted_BS - 1 - torch.arange(item_BS.shape[1], device=item_BS.device)
    passed_BL = torch.searchsorted(outside_BS.contiguous(), rank_BL.contiguous(), right=True)
    return rank_BL + 1 + passed_BL


def cosine_softmax(
    user_ND: Tensor,
    item_ID: Tensor,
    target_N: Tensor,
    *,
    tau: float = 0.07,
    same_target: SameTarget = "masked",
    barred_NI: Tensor | None = None,
    synthetic_ND: Tensor | None = None,
) -> Tensor:
    """UniSRec's and VQ-Rec's contrast of sequences with the rows' targets, by cosine.

    The columns are the targets of all N rows. Each distinct item stands once, with the log of its
    number of columns added to its logit: the same sum, in memory N x I.

    Args:
        user_ND: a state a row (`prediction_rows`).
        item_ID: vectors of items; those that are no row's target are no columns.
        target_N: each row's item, from 0.
        tau: cosines are divided by it.
        same_target: what becomes of other rows' columns of a row's own target. "masked": they are
            left out. "official": each stays with logit 0, as published, so it adds e^0.
        barred_NI: bool, items whose columns are left out of a row, as the user's other items where
            every position is a row. A row's own target is a column all the same.
        synthetic_ND: one more negative a row, as VQ-Rec's items of partly random codes.

    Returns:
        Mean over the N rows, scalar of float32 or more. Where N = 0 it is 0, with zero gradients.
    """
    z_NI = similarities(user_ND, item_ID, "cosine") / tau
    target_N1 = target_N[:, None]
    count_I = torch.bincount(target_N, minlength=len(item_ID)).to(z_NI.dtype)
    column_NI = count_I.expand_as(z_NI)
    if barred_NI is not None:
        column_NI = column_NI.masked_fill(barred_NI, 0.0)
    column_NI = column_NI.scatter(1, target_N1, 1.0)
    parts = [z_NI + column_NI.log()]
    if same_target == "official":
        parts.append((count_I[target_N1] - 1).log())
    if synthetic_ND is not None:
        unit_ND, other_ND = (
            functional.normalize(at_least_float32(each), dim=1) for each in (user_ND, synthetic_ND)
        )
        parts.append(_dots(unit_ND, other_ND)[:, None] / tau)
    loss_N = torch.cat(parts, dim=1).logsumexp(1) - z_NI.gather(1, target_N1)[:, 0]
    return loss_N.sum() / max(1, len(loss_N))


def sequence_softmax(
    user_ND: Tensor,
    augmented_ND: Tensor,
    target_N: Tensor,
    *,
    tau: float = 0.07,
    same_target: SameTarget = "masked",
) -> Tensor:
    """UniSRec's contrast of sequences with their augmented forms; the other rows' are negatives.

    Args:
        user_ND: states of the sequences.
        augmented_ND: states of the same with items or words dropped.
        target_N: each row's next item, any numbers: rows of the same one are no negatives.
        tau, same_target: as of `cosine_softmax`.

    Returns:
        Mean over the N rows, scalar of float32 or more. Where N = 0 it is 0, with zero gradients.
    """
    z_NN = similarities(user_ND, augmented_ND, "cosine") / tau
    same_NN = target_N[:, None] == target_N
    same_NN = same_NN & ~torch.eye(len(target_N), dtype=torch.bool, device=target_N.device)
    instead = 0.0 if same_target == "official" else -torch.inf
    loss_N = z_NN.masked_fill(same_NN, instead).logsumexp(1) - z_NN.diagonal()
    return loss_N.sum() / max(1, len(loss_N))
