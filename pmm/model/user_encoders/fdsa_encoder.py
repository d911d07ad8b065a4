"""FDSA's user encoder: one Transformer over the items, one over their features, then joined.

Shape suffixes: B users, L positions of the window, D width, F width of a field of features, K
fields. A name without B and L has any leading dimensions: of items, or of windows of items.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.user_encoders.post_norm import PositionedInput, PostNormBlocks, initialise
from pmm.model.user_encoders.transformer import UserPositions


class FieldAttention(nn.Module):
    """Several vectors of an item -> their weighted sum, weights softmax(w ReLU(W f + b)).

    RecBole adds one more bias to all the weights' logits, which changes nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.logit = nn.Linear(width, 1, bias=False)

    def forward(self, field_KD: Tensor) -> Tensor:
        """The sum over the fields; [..., D]."""
        weight_K1 = self.logit(functional.relu(self.inner(field_KD))).softmax(-2)
        summed_D: Tensor = (weight_K1 * field_KD).sum(-2)
        return summed_D


class FdsaEncoder(nn.Module):
    """Item vectors and features of a left-padded window -> a hidden state at each position.

    The positions and the input's LayerNorm are shared by both streams; the same LayerNorm stands
    behind the layer that joins them.

    Args:
        width: of the item vectors and the hidden states.
        fields: the widths of the features, one each field (text; text and picture).
        max_length, blocks, heads, inner, dropout, positions, convolution: of each stream, as in
            `PostNormEncoder`.
    """

    def __init__(
        self,
        width: int,
        *,
        fields: Sequence[int],
        max_length: int,
        blocks: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        positions: UserPositions = "absolute",
        convolution: int = 0,
    ) -> None:
        super().__init__()
        if not fields:
            raise ValueError("FDSA needs at least one field of features")
        self.input = PositionedInput(
            width,
            max_length=max_length,
            dropout=dropout,
            positions=positions,
            convolution=convolution,
        )
        self.item_stream, self.feature_stream = (
            PostNormBlocks(
                width,
                blocks=blocks,
                heads=heads,
                inner=inner,
                dropout=dropout,
                rotary=positions == "rope",
            )
            for _ in range(2)
        )
        self.projections = nn.ModuleList(nn.Linear(field, width) for field in fields)
        self.field_attention = FieldAttention(width) if len(fields) > 1 else None
        self.join = nn.Linear(2 * width, width)
        initialise(self)

    def forward(self, e_BLD: Tensor, fields_BLF: Sequence[Tensor], valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D], zeros at padding, each from its past.

        What stands at padding has no influence, as long as it is finite.

        Args:
            e_BLD: item vectors, L <= max_length.
            fields_BLF: the features of the same items, one tensor a field.
            valid_BL: bool, True at real items.
        """
        return self.join_streams(e_BLD, self.embed_features(fields_BLF), valid_BL)

    def embed_features(self, fields_F: Sequence[Tensor]) -> Tensor:
        """One vector [..., D] of an item's fields: ReLU(W x + b) of each, then their sum.

        Distinct items may be embedded once and then be put into windows: `join_streams`.
        """
        embedded = [
            functional.relu(projection(field_F))
            for projection, field_F in zip(self.projections, fields_F, strict=True)
        ]
        if self.field_attention is None:
            return embedded[0]
        summed_D: Tensor = self.field_attention(torch.stack(embedded, dim=-2))
        return summed_D

    def join_streams(self, e_BLD: Tensor, feature_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """`forward` for features that are embedded already."""
        item_BLD = self.item_stream(self.input(e_BLD, valid_BL), valid_BL)
        feature_BLD = self.feature_stream(self.input(feature_BLD, valid_BL), valid_BL)
        joined_BLD: Tensor = self.join(torch.cat([item_BLD, feature_BLD], dim=2))
        return self.input.normed(joined_BLD).masked_fill(~valid_BL[:, :, None], 0.0)
