"""Which user encoder a model has: options under one name in every model that lets choose."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pmm.model.user_encoders.dilated_convolutions import NextItNetEncoder
from pmm.model.user_encoders.gru import GruEncoder
from pmm.model.user_encoders.hstu import HstuEncoder
from pmm.model.user_encoders.post_norm import PostNormEncoder
from pmm.model.user_encoders.transformer import BlockNorm, UserEncoder, UserPositions

UserEncoderKind = Literal["transformer", "gru", "nextitnet", "hstu"]
"""What reads a user's items: SASRec's Transformer, a GRU, dilated convolutions, HSTU."""
AnyUserEncoder: TypeAlias = (
    UserEncoder | PostNormEncoder | GruEncoder | NextItNetEncoder | HstuEncoder
)


@dataclass(frozen=True, kw_only=True)
class UserEncoderOptions:
    """What may be chosen of a user encoder."""

    user_encoder: UserEncoderKind = "transformer"
    """What reads a user's items: SASRec's Transformer (UniSRec and VQ-Rec: RecBole's), a GRU,
    dilated convolutions, HSTU."""
    user_positions: UserPositions = "absolute"
    """Of "transformer" and "hstu"; the others know the order without. "absolute": a learned vector
    for each place of the window. "rope": queries and keys are turned by their place, so that
    distances count, not places."""
    user_convolution: int = 0
    """Items that a causal convolution behind the input's norm reads at once; 0: there is none."""
    user_norm: BlockNorm = "post"
    """Of "transformer": "post" norms behind each residual, as published; "pre" in front of each
    layer, and once more at the end."""


def make_user_encoder(
    options: UserEncoderOptions,
    width: int,
    *,
    max_length: int,
    blocks: int,
    heads: int,
    dropout: float,
    inner: int | None = None,
) -> AnyUserEncoder:
    """The encoder that the options ask for, with fresh weights.

    It is called with item vectors [B, L, D] of left-padded windows and bool [B, L], and gives
    hidden states [B, L, D] (with `last=True` those of the last position, [B, 1, D]).

    Args:
        options: the choice.
        width: D.
        max_length: the longest window.
        blocks: of attention; layers of the GRU; repeats of the pair of dilated blocks.
        heads: of attention.
        dropout: of attention and residuals, of the GRU's inputs; dilated blocks have none.
        inner: "transformer" is RecBole's, with feed-forward layers of this width, in place of
            SASRec's.

    Raises:
        InputError: the heads do not fit the width.
    """
    positions, convolution = options.user_positions, options.user_convolution
    match options.user_encoder:
        case "gru":
            return GruEncoder(width, layers=blocks, dropout=dropout, convolution=convolution)
        case "nextitnet":
            return NextItNetEncoder(width, repeats=blocks, convolution=convolution)
    attention: dict[str, Any] = {
        "max_length": max_length,
        "blocks": blocks,
        "heads": heads,
        "dropout": dropout,
        "positions": positions,
        "convolution": convolution,
    }
    if options.user_encoder == "hstu":
        return HstuEncoder(width, **attention)
    attention["norm"] = options.user_norm
    if inner is None:
        return UserEncoder(width, **attention)
    return PostNormEncoder(width, inner=inner, **attention)


def freeze_but_input_norm(encoder: AnyUserEncoder) -> None:
    """Freeze a user encoder after a transfer, as UniSRec and VQ-Rec do.

    The norm of the input, where it has one, trains on, as published: the new catalogue's items have
    another scale.
    """
    encoder.requires_grad_(False)
    if encoder.input_norm is not None:
        encoder.input_norm.requires_grad_(True)
