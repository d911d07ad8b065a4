"""CARCA: items mixed of id and features, a user's profile, and a head that scores by attention.

A candidate is scored by cross-attention to the user's profile, so no vector of the user alone
holds what a score needs.

Shape suffixes: B users, L positions of the window, I candidate items, C of them at once, D width,
F width of the features, M last positions, H heads, E width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.encoders.attention_heads import split_heads
from pmm.model.losses.next_item import at_least_float32
from pmm.model.user_encoders.local_convolution import convolved_input
from pmm.model.user_encoders.transformer import causal_mask

SLOPE = 0.2
"""Of every LeakyReLU below zero."""


class ItemMix(nn.Module):
    """An item's id vector and its features -> one vector, by two linear layers in a row.

    The features go to 5D first, then id vector and features together to D. Profile and candidates
    share the layers, but ids enter the profile times the root of D and candidates as they are.

    Matrices start from N(0, std), with `std` = 0 Xavier-uniform.
    """

    def __init__(self, width: int, features: int, *, std: float = 0.0) -> None:
        super().__init__()
        self.feature = nn.Linear(features, 5 * width)
        self.mix = nn.Linear(6 * width, width)
        _initialise(self, std)

    def forward(self, e_ID: Tensor, feature_IF: Tensor) -> tuple[Tensor, Tensor]:
        """The items as they stand in a profile, and as candidates; [I, D] each."""
        width = e_ID.shape[-1]
        of_id_ID = functional.linear(e_ID, self.mix.weight[:, :width])
        of_features_ID = functional.linear(
            self.feature(feature_IF), self.mix.weight[:, width:], self.mix.bias
        )
        return of_id_ID * width**0.5 + of_features_ID, of_id_ID + of_features_ID


class Projections(nn.Module):
    """Queries, keys and values of attention: LeakyReLU of a linear layer each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"user_heads = {heads} does not divide the width {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def queries(self, x_D: Tensor) -> Tensor:
        """[..., D] -> [..., H, E]."""
        return split_heads(functional.leaky_relu(self.query(x_D), SLOPE), self.heads)

    def keys_and_values(self, x_D: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] -> [..., H, E] each."""
        key_HE, value_HE = (
            split_heads(functional.leaky_relu(projection(x_D), SLOPE), self.heads)
            for projection in (self.key, self.value)
        )
        return key_HE, value_HE


class ProfileBlock(nn.Module):
    """Attention whose result is multiplied with its query, then two layers with a residual."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.projections = Projections(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-8)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, allowed_B1LL: Tensor) -> Tensor:
        """One block; queries are normed, keys and values are not."""
        normed_BLD = self.attention_norm(x_BLD)
        key_BLHE, value_BLHE = self.projections.keys_and_values(x_BLD)
        attended_BHLE = functional.scaled_dot_product_attention(
            self.projections.queries(normed_BLD).transpose(1, 2),
            key_BLHE.transpose(1, 2),
            value_BLHE.transpose(1, 2),
            attn_mask=allowed_B1LL,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        y_BLD = self.norm(attended_BHLE.transpose(1, 2).flatten(2) * normed_BLD)
        inner_BLD = self.dropout(functional.leaky_relu(self.up(y_BLD), SLOPE))
        out_BLD: Tensor = y_BLD + self.dropout(self.down(inner_BLD))
        return out_BLD


class CarcaEncoder(nn.Module):
    """Mixed item vectors of a left-padded window -> the user's profile, a vector at each position.

    There are no positions: the order is known by what may be seen alone. `causal=False` is the
    published code, where an item sees those after it.
    """

    def __init__(
        self,
        width: int,
        *,
        blocks: int = 2,
        heads: int = 4,
        dropout: float = 0.3,
        causal: bool = True,
        convolution: int = 0,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ProfileBlock(width, heads=heads, dropout=dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width, eps=1e-8)
        _initialise(self)
        self.input = convolved_input(width, convolution)

    def forward(self, z_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """The profile [B, L, D], zeros at padding.

        What stands at padding has no influence, as long as it is finite.

        Args:
            z_BLD: items as `ItemMix` makes them for a profile.
            valid_BL: bool, True at real items.
        """
        allowed_B1LL = _visible(valid_BL, causal=self.causal)[:, None]
        x_BLD = self.dropout(z_BLD if self.input is None else self.input(z_BLD, valid_BL))
        for block in self.blocks:
            x_BLD = block(x_BLD, allowed_B1LL)
        profile_BLD: Tensor = self.norm(x_BLD).masked_fill(~valid_BL[:, :, None], 0.0)
        return profile_BLD


class CarcaHead(nn.Module):
    """Scores of candidates: each attends to the profile, and a linear layer reads the result.

    `residual` multiplies what a candidate attended to with the candidate itself. `causal` lets a
    candidate at position l see the profile up to l; without it, all of the profile (the published
    code). Scores are logits in float32 or more, whatever autocast says; the constant of the last
    layer shifts all alike, so a softmax gives it no gradient.

    Since the last layer is linear, a candidate's score is the mean of one number a profile item,
    under the candidate's attention: value . w, or value . (w x candidate) with the residual. No
    attended vector is ever made.

    The last layer's matrix starts from N(0, std), with `std` = 0 Xavier-uniform as all others.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        dropout: float = 0.3,
        residual: bool = True,
        causal: bool = True,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual, self.causal = residual, causal
        self.projections = Projections(width, heads)
        self.score = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        _initialise(self.projections)
        _initialise(self.score, std)

    def scores(self, profile_BLD: Tensor, valid_BL: Tensor, candidate_ID: Tensor) -> Tensor:
        """Every candidate at every position, [B, L, I], zeros at padding: for training.

        Memory is a few times B x H x L x I. The causal means run along the window with a running
        logarithm of the sum of exponentials: exact however far apart the logits lie, and no later
        item reaches an earlier score, not even by rounding. One draw of dropout for a user, a
        candidate and a profile item serves all positions.

        Args:
            profile_BLD: from `CarcaEncoder`.
            valid_BL: bool, True at real items.
            candidate_ID: items as `ItemMix` makes them for candidates.
        """
        if not self.causal:
            last_B1I = self._last(profile_BLD, valid_BL, candidate_ID)[:, None]
            return last_B1I * valid_BL[:, :, None]
        logit_HBLI, part_HBLI = self._logits_and_parts(profile_BLD, valid_BL, candidate_ID)
        mean_HBLI = _running_means(logit_HBLI, self.dropout(part_HBLI))
        score_BLI = mean_HBLI.sum(0) + self.score.bias
        return score_BLI.masked_fill(~valid_BL[:, :, None], 0.0)

    def last_scores(
        self, profile_BLD: Tensor, valid_BL: Tensor, candidate_ID: Tensor, *, chunk: int = 2_048
    ) -> Tensor:
        """Every candidate at the last position, [B, I]: for ranking the catalogue.

        Two products I x D x L a user, over `chunk` candidates at once: memory is a few times
        B x H x L x chunk. A user without items gets zeros.
        """
        parts = torch.split(candidate_ID, chunk)
        return torch.cat([self._last(profile_BLD, valid_BL, part) for part in parts], dim=1)

    def pair_scores(self, profile_BLD: Tensor, valid_BL: Tensor, candidate_BMD: Tensor) -> Tensor:
        """One candidate at each of the last M positions, [B, M], zeros at padding.

        The definition, literally. With M = L: the pairs of the published training, the next item
        and a drawn one at each position. With M = 1: single pairs of a user and an item.
        """
        places = candidate_BMD.shape[1]
        key_BLHE, value_BLHE = self.projections.keys_and_values(profile_BLD)
        attended_BHME = functional.scaled_dot_product_attention(
            self.projections.queries(candidate_BMD).transpose(1, 2),
            key_BLHE.transpose(1, 2),
            value_BLHE.transpose(1, 2),
            attn_mask=_visible(valid_BL, causal=self.causal)[:, None, -places:],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended_BMD = attended_BHME.transpose(1, 2).flatten(2)
        if self.residual:
            attended_BMD = attended_BMD * candidate_BMD
        score_BM: Tensor = self.score(attended_BMD)[:, :, 0]
        return at_least_float32(score_BM.masked_fill(~valid_BL[:, -places:], 0.0))

    def _last(self, profile_BLD: Tensor, valid_BL: Tensor, candidate_CD: Tensor) -> Tensor:
        logit_HBLC, part_HBLC = self._logits_and_parts(profile_BLD, valid_BL, candidate_CD)
        weight_HBLC = self.dropout(logit_HBLC.softmax(2))
        score_BC: Tensor = (weight_HBLC * part_HBLC).sum(dim=(0, 2)) + self.score.bias
        return score_BC.masked_fill(~valid_BL.any(1)[:, None], 0.0)

    def _logits_and_parts(
        self, profile_BLD: Tensor, valid_BL: Tensor, candidate_ID: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention logits, and what each profile item adds to a score if seen alone; [H, B, L, I].

        At padding the logits are so low that the parts there have no weight. Without the residual
        the parts are the same for all candidates.
        """
        key_BLHE, value_BLHE = self.projections.keys_and_values(profile_BLD)
        query_IHE = self.projections.queries(candidate_ID)
        with torch.autocast(profile_BLD.device.type, enabled=False):
            query_IHE = at_least_float32(query_IHE) / query_IHE.shape[-1] ** 0.5
            logit_HBLI = _products(key_BLHE, query_IHE)
            weight_1D = at_least_float32(self.score.weight)
            if self.residual:
                weight_1D = weight_1D * at_least_float32(candidate_ID)
            part_HBLI = _products(value_BLHE, split_heads(weight_1D, self.projections.heads))
        logit_HBLI = logit_HBLI.masked_fill(~valid_BL[:, :, None], LOWEST)
        return logit_HBLI, part_HBLI.expand_as(logit_HBLI)


LOWEST = -1e30
"""The logit of what is not seen: finite, so that a softmax over nothing else is no NaN."""


def _running_means(logit_HBLI: Tensor, part_HBLI: Tensor) -> Tensor:
    """Mean of the parts up to each position, weighted by the logits' softmax up to there.

    A position takes the share sigmoid(its logit - log of the sum so far) of the mean.
    """
    mean_HBI = torch.zeros_like(logit_HBLI[:, :, 0])
    total_HBI = torch.full_like(mean_HBI, LOWEST)
    means = []
    for logit_HBI, part_HBI in zip(logit_HBLI.unbind(2), part_HBLI.unbind(2), strict=True):
        mean_HBI = torch.lerp(mean_HBI, part_HBI, (logit_HBI - total_HBI).sigmoid())
        total_HBI = torch.logaddexp(total_HBI, logit_HBI)
        means.append(mean_HBI)
    return torch.stack(means, dim=2)


def _products(left_BLHE: Tensor, right_IHE: Tensor) -> Tensor:
    """Inner products of every position with every candidate, by head, in float32 or more."""
    users, length = left_BLHE.shape[:2]
    left_HNE = at_least_float32(left_BLHE).flatten(0, 1).transpose(0, 1)
    product_HNI = left_HNE @ right_IHE.permute(1, 2, 0)
    return product_HNI.view(len(product_HNI), users, length, -1)


def _visible(valid_BL: Tensor, *, causal: bool) -> Tensor:
    """bool [B, L, L]: which key (column) a query (row) sees; padding sees itself, as no one else.

    >>> _visible(torch.tensor([[False, True, True]]), causal=False).int()[0].tolist()
    [[1, 1, 1], [0, 1, 1], [0, 1, 1]]
    """
    if causal:
        return causal_mask(valid_BL)
    self_LL = torch.eye(valid_BL.shape[1], dtype=torch.bool, device=valid_BL.device)
    return valid_BL[:, None, :] | self_LL


def _initialise(module: nn.Module, std: float = 0.0) -> None:
    """Matrices of N(0, std), zero biases.

    With `std` = 0 the matrices are Xavier-uniform: the published code leaves those of the attention
    and the feed-forward layers, and all biases, to TensorFlow 1.
    """
    for each in module.modules():
        if isinstance(each, nn.Linear):
            if std:
                nn.init.normal_(each.weight, std=std)
            else:
                nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)
