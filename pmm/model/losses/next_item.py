"""Training losses: pure functions of tensors; no module, no config, no device handling.

Shape suffixes: B users, S = L + 1 slots, L inputs (slots 0..L-1; input l predicts slot l+1), N
prediction rows (the valid (user, input) pairs), I distinct items of the batch, D embedding width.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LogQ = Literal["on", "off", "corrected"]
Reject = Literal["same_ids", "own_columns", "none"]
Similarity = Literal["dot", "cosine"]


def in_batch_softmax(
    user_BLD: Tensor,
    item_ID: Tensor,
    slot_BS: Tensor,
    log_p_I: Tensor,
    *,
    logq: LogQ = "on",
    reject: Reject = "same_ids",
    similarity: Similarity = "dot",
    tau: float | Tensor = 1.0,
    group_I: Tensor | None = None,
) -> Tensor:
    """Dense auto-regressive prediction (paper Eq. 5): softmax over the batch's slots.

    The choices are R13 to R16 of docs/paper.md.

    The columns of the softmax are all non-padded slots, so an item that several users have stands
    there several times. Here each distinct item stands once, with the log of its number of columns
    added to its logit: the same sum, in memory N x I.

    Args:
        user_BLD: hidden state at each input.
        item_ID: vectors of the distinct items; gradients flow to them as columns.
        slot_BS: 0 padding (on the left), k > 0 stands for item k - 1.
        log_p_I: log of each item's share of what batches meet (`pmm.data.batch.Batch`).
        logq: "on" subtracts log p from every logit, the target's too (R14). "off" does not.
            "corrected" is the form of Khrylchenko et al. (RecSys 2025): see `_corrected`.
        reject: columns that are no negatives of a user. "same_ids": every column of an item that
            occurs in the user's own S slots (R13). "own_columns": the user's own slots only, as in
            the paper's Eq. 5. "none": the target's own column only.
        similarity: raw dot product, or cosine.
        tau: logits are divided by it; a tensor [] may learn.
        group_I: int64, which group each item belongs to: then only items of the target's group
            are negatives, in place of all. Negatives of another shop or department are told apart
            by what every item of it has in common, and teach nothing else.

    Returns:
        Mean over the N rows, scalar of float32 or more. Where N = 0 it is 0, with zero gradients.
    """
    z_NI = similarities(user_BLD[predicted(slot_BS)], item_ID, similarity) / tau
    return softmax_over_slots(z_NI, slot_BS, log_p_I, logq=logq, reject=reject, group_I=group_I)


def predicted(slot_BS: Tensor) -> Tensor:
    """bool [B, L]: inputs behind which an item follows."""
    return (slot_BS[:, :-1] > 0) & (slot_BS[:, 1:] > 0)


def softmax_over_slots(
    z_NI: Tensor,
    slot_BS: Tensor,
    log_p_I: Tensor,
    *,
    logq: LogQ = "on",
    reject: Reject = "same_ids",
    group_I: Tensor | None = None,
) -> Tensor:
    """The same of logits that are there already: of the N predicted inputs for the I items."""
    row_BL = predicted(slot_BS)
    user_N = row_BL.nonzero()[:, 0]
    target_N1 = slot_BS[:, 1:][row_BL][:, None] - 1
    own_BI = own_columns(slot_BS, z_NI.shape[1])
    own_NI, all_I = own_BI[user_N], own_BI.sum(0)
    negative_NI = negative_columns(own_NI, all_I, target_N1, reject)
    other_NI = other_groups(group_I, target_N1)
    if other_NI is not None:
        negative_NI = negative_NI.masked_fill(other_NI, 0.0)
    if logq == "corrected":
        barred_NI = torch.zeros_like(own_NI, dtype=torch.bool).scatter(1, target_N1, True)
        if reject == "same_ids":
            barred_NI |= own_NI > 0  # so q is p without all of the user's items, not the target's
        if other_NI is not None:
            barred_NI |= other_NI
        loss_N = _corrected(z_NI, negative_NI, barred_NI, target_N1, log_p_I)
    else:
        if logq == "on":
            z_NI = z_NI - log_p_I
        # The target's own column counts once more, so that it is in its own denominator; items that
        # are no column get log 0 = -inf and drop out of the sum.
        column_NI = negative_NI.scatter_add(1, target_N1, negative_NI.new_ones(target_N1.shape))
        loss_N = (z_NI + column_NI.log()).logsumexp(1) - z_NI.gather(1, target_N1)[:, 0]
    return loss_N.sum() / max(1, len(loss_N))


def similarities(left_ND: Tensor, right_ID: Tensor, similarity: Similarity) -> Tensor:
    """Logits [N, I] in float32 or more, whatever the precision of the vectors and of autocast."""
    # bf16 keeps eight bits: a logit of 100 would be off by 0.5, more than what most items differ
    # by.
    with torch.autocast(left_ND.device.type, enabled=False):
        left_ND, right_ID = at_least_float32(left_ND), at_least_float32(right_ID)
        if similarity == "cosine":
            left_ND = functional.normalize(left_ND, dim=-1)
            right_ID = functional.normalize(right_ID, dim=-1)
        return left_ND @ right_ID.T


def scored_items(e_ID: Tensor, similarity: Similarity) -> Tensor:
    """Item vectors whose dot product with a user's ranks as the loss compares: for the cosine they
    are of length 1. [I, D]
    """
    return functional.normalize(e_ID, dim=-1) if similarity == "cosine" else e_ID


def at_least_float32(x: Tensor) -> Tensor:
    """16-bit numbers as float32; float64 stays, so that gradients can be checked in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def own_columns(slot_BS: Tensor, n_items: int) -> Tensor:
    """How many of a user's slots hold each item, float32 [B, I]."""
    one_BS = torch.ones_like(slot_BS, dtype=torch.float32)
    count_BI = one_BS.new_zeros(len(slot_BS), n_items + 1).scatter_add(1, slot_BS, one_BS)
    return count_BI[:, 1:]


def negative_columns(own_NI: Tensor, all_I: Tensor, target_N1: Tensor, reject: Reject) -> Tensor:
    """How many columns of each item are negatives of a row, float32 [N, I].

    The target's own column is not one of them.
    """
    match reject:
        case "same_ids":
            return all_I * (own_NI == 0)
        case "own_columns":
            return all_I - own_NI
        case "none":
            one_N1 = own_NI.new_ones(target_N1.shape)
            return all_I.expand_as(own_NI).scatter_add(1, target_N1, -one_N1)


def other_groups(group_I: Tensor | None, anchor_N1: Tensor) -> Tensor | None:
    """bool [N, I]: items of another group than each anchor's item; None: there are no groups.

    >>> other_groups(torch.tensor([5, 5, 7]), torch.tensor([[0], [2]])).int().tolist()
    [[0, 0, 1], [1, 1, 0]]
    """
    return None if group_I is None else group_I != group_I[anchor_N1]


def _corrected(
    z_NI: Tensor, negative_NI: Tensor, barred_NI: Tensor, target_N1: Tensor, log_p_I: Tensor
) -> Tensor:
    """The log-Q correction for a target that is there for sure, not by sampling (arXiv 2507.09331).

    The gradient of the full softmax's -log P(t) is -(1 - P(t)) (grad z_t - E[grad z_d]), with d
    drawn from P without t. The expectation is estimated with the row's negatives; they were drawn
    from q, which is p without the items that are barred (the target, and what `reject` takes
    out). So the loss is -sg(1 - P(t)) (z_t - log mean_d exp(z_d - log q_d)), with P(t) from the
    same mean. Its gradient is the full softmax's; its value is not. A row without negatives gives
    0.
    """
    negative_NI = negative_NI.masked_fill(barred_NI, 0.0)
    count_N = negative_NI.sum(1)
    some_N = count_N > 0
    # Guarded: a user who has nearly all of a tiny catalogue leaves q hardly any mass.
    free_N = (1 - (log_p_I.exp() * barred_NI).sum(1)).clamp(min=1e-6)
    log_weight_NI = negative_NI.log().masked_fill(~some_N[:, None], 0.0)
    sum_N = (z_NI - log_p_I + log_weight_NI).logsumexp(1)
    others_N = sum_N + free_N.log() - count_N.clamp(min=1).log()
    margin_N = others_N - z_NI.gather(1, target_N1)[:, 0]
    return torch.where(some_N, margin_N.sigmoid().detach() * margin_N, 0.0)
