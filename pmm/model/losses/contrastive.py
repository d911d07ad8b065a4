"""Contrastive objectives of pre-training: text against picture, and a user against his noise.

Shape suffixes: B users, S = L + 1 slots, N anchors (the valid (user, slot) pairs whose next slot is
valid too), I distinct items of the batch, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pmm.model.losses.next_item import (
    at_least_float32,
    negative_columns,
    other_groups,
    own_columns,
    similarities,
)

Family = Literal["none", "vcl", "icl", "ncl", "nicl"]
ContrastForm = Literal["sum", "mean"]
Denominator = Literal["eq8", "all"]


@dataclass(frozen=True, kw_only=True)
class ContrastOptions:
    """The choices R19 to R25 of docs/paper.md."""

    family: Family = "nicl"
    """"vcl" aligns an item's text and picture (Eq. 6); "icl" adds negatives of the same modality
    (Eq. 7); "nicl" adds the next item's text and picture as positives (Eq. 8); "ncl" is VCL with
    the next item as positives; "none" is no objective."""
    form: ContrastForm = "sum"
    """Positives summed inside the logarithm, as printed; or the mean of one logarithm each."""
    tau: float = 1.0
    """The cosine is divided by it; none is printed."""
    denominator: Denominator = "eq8"
    """The own pair and the negatives, as printed; or the next item's pairs too, where they are
    positives. As printed it is unbounded below for a small tau: below 0.3 take "all" (R20)."""
    reject: Literal["same_ids", "own_columns"] = "same_ids"
    """Columns that are no negatives, as in `pmm.model.losses.next_item.in_batch_softmax`."""

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError("tau must be above 0")


def cross_modal_contrast(
    text_ID: Tensor,
    picture_ID: Tensor,
    slot_BS: Tensor,
    has_text_I: Tensor,
    has_picture_I: Tensor,
    options: ContrastOptions,
    *,
    group_I: Tensor | None = None,
) -> Tensor:
    """Next-item enhanced cross-modal contrastive learning and its family (paper Eq. 6 to 9).

    Negatives are the columns of other users' slots; an item that stands in several counts as often
    (R22). An anchor needs its own text and picture; a positive or negative that lacks the modality
    is left out.

    Args:
        text_ID: vectors of the distinct items' texts; any number where there is none.
        picture_ID: the same of their pictures.
        slot_BS: 0 padding, k > 0 stands for item k - 1.
        has_text_I: bool, whether the item has a text.
        has_picture_I: bool, whether it has a picture.
        options: which member of the family.
        group_I: int64, as of `pmm.model.losses.next_item.in_batch_softmax`: only items of the
            anchor's group are negatives.

    Returns:
        Mean over the N anchors and both directions, a scalar of float32 or more; 0 without anchors.
    """
    if options.family == "none":
        return (text_ID[:0].sum() + picture_ID[:0].sum()).float()
    with_both = functional.pad(has_text_I & has_picture_I, (1, 0))
    anchor_BK = with_both[slot_BS[:, :-1]]  # padding stands on the left, so the next is real
    user_N = anchor_BK.nonzero()[:, 0]
    anchor_N = slot_BS[:, :-1][anchor_BK] - 1
    next_N = slot_BS[:, 1:][anchor_BK] - 1
    own_BI = own_columns(slot_BS, len(text_ID))
    negative_NI = negative_columns(own_BI[user_N], own_BI.sum(0), anchor_N[:, None], options.reject)
    other_NI = other_groups(group_I, anchor_N[:, None])
    if other_NI is not None:
        negative_NI = negative_NI.masked_fill(other_NI, 0.0)
    # All pairs of distinct items once, then rows of anchors: an item that stands in several slots
    # is not multiplied again, and how often it is a negative enters as the log of a count.
    tv_II = similarities(text_ID, picture_ID, "cosine") / options.tau
    texts = _Side(text_ID, has_text_I, (negative_NI * has_text_I).log())
    pictures = _Side(picture_ID, has_picture_I, (negative_NI * has_picture_I).log())
    total = tv_II.new_zeros(())
    for cross_II, own, other in ((tv_II, texts, pictures), (tv_II.T, pictures, texts)):
        within = None
        if options.family != "vcl":
            within_II = similarities(own.vector_ID, own.vector_ID, "cosine") / options.tau
            within = _Logits(within_II[anchor_N], own)
        cross = _Logits(cross_II[anchor_N], other)
        total = total + _one_direction(cross, within, anchor_N, next_N, options).sum() / 2
    return total / max(1, len(anchor_N))


@dataclass(frozen=True)
class _Side:
    """One modality: its vectors, which items have it, log of the number of negative columns."""

    vector_ID: Tensor
    has_I: Tensor
    log_count_NI: Tensor


@dataclass(frozen=True)
class _Logits:
    """Logits [N, I] of the anchors against one modality."""

    z_NI: Tensor
    side: _Side

    def at(self, item_N: Tensor) -> Tensor:
        """Logit of one item for each anchor, -inf where it lacks the modality [N, 1]."""
        z_N1 = self.z_NI.gather(1, item_N[:, None])
        return z_N1.masked_fill(~self.side.has_I[item_N][:, None], -torch.inf)

    def negatives(self) -> Tensor:
        """Logits with the log of the number of columns added, -inf where there is none [N, I]."""
        return self.z_NI + self.side.log_count_NI


def _one_direction(
    cross: _Logits,
    within: _Logits | None,
    anchor_N: Tensor,
    next_N: Tensor,
    options: ContrastOptions,
) -> Tensor:
    """Loss of each anchor in one direction, [N]."""
    own_N1 = cross.at(anchor_N)
    positives, negatives = own_N1, [cross.negatives()]
    if within is not None and options.family in ("ncl", "nicl"):
        positives = torch.cat([own_N1, cross.at(next_N), within.at(next_N)], 1)
    if within is not None and options.family in ("icl", "nicl"):
        negatives.append(within.negatives())
    counted = positives if options.denominator == "all" else own_N1
    below_N = torch.cat([counted, *negatives], 1).logsumexp(1)
    if options.form == "sum":
        return below_N - positives.logsumexp(1)
    real_NP = positives.isfinite()
    each_NP = torch.where(real_NP, below_N[:, None] - positives, 0.0)
    return each_NP.sum(1) / real_NP.sum(1)


@dataclass(frozen=True, kw_only=True)
class RobustOptions:
    """The choices R30 and R31 of docs/paper.md."""

    pool: Literal["mean", "last"] = "mean"
    similarity: Literal["cosine", "dot"] = "cosine"
    """As printed it is the raw dot product, of which the norms of 28 make logits of hundreds."""
    tau: float = 0.1

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError("tau must be above 0")


def robust_contrast(
    hidden_BLD: Tensor, corrupted_BLD: Tensor, valid_BL: Tensor, options: RobustOptions
) -> Tensor:
    """Robustness-aware contrastive learning (paper Eq. 11).

    A user's pooled hidden states against his own corrupted sequence; the other users' corrupted
    sequences are the negatives.

    Args:
        hidden_BLD: hidden states of the sequences, left-padded.
        corrupted_BLD: those of the corrupted sequences, padded alike.
        valid_BL: bool, True at real items.
        options: pooling, similarity and temperature.

    Returns:
        Mean over the users that have an item, scalar of float32 or more; 0 where there is none.
    """
    some_B = valid_BL.any(1)
    plain = _pooled(hidden_BLD, valid_BL, options.pool)[some_B]
    noisy = _pooled(corrupted_BLD, valid_BL, options.pool)[some_B]
    z_UU = similarities(plain, noisy, options.similarity) / options.tau
    loss_U = z_UU.logsumexp(1) - z_UU.diagonal()
    return loss_U.sum() / max(1, len(loss_U))


def _pooled(hidden_BLD: Tensor, valid_BL: Tensor, pool: Literal["mean", "last"]) -> Tensor:
    if pool == "last":
        return hidden_BLD[:, -1]
    weight_BL1 = valid_BL[:, :, None].float()
    return (at_least_float32(hidden_BLD) * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)
