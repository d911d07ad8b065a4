"""MoRec++'s fusions of an item's text and picture: of two vectors, or of two sets of tokens.

The paper does not say which one it used; these are those of its published code.

Shape suffixes: I items, T text tokens, P picture tokens, Q tokens that ask, K tokens that are
asked, D width.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.encoders.attention_heads import split_heads

VectorFusionKind = Literal["sum", "concat", "film", "gated"]


class VectorFusion(nn.Module):
    """A text vector t and a picture vector v -> an item's vector.

    "sum": W1 t + W2 v. "concat": W [t; v]. "film": W_o (g * v + b), with (g, b) the halves of W t
    (FiLM, arXiv 1709.07871). "gated": W_o (sigmoid(W_x t) * W_y v) (arXiv 1802.02892). All with
    biases, and started as torch starts a linear layer.

    What an item lacks counts as zeros, whatever stands there. So with "gated" an item without a
    picture is told apart by its gate alone, and with "film" one without a text by its picture, the
    scale and the shift being the same for all such.
    """

    def __init__(self, width: int, kind: VectorFusionKind = "concat") -> None:
        super().__init__()
        self.kind = kind
        match kind:
            case "sum":
                layers = {"text": (width, width), "picture": (width, width)}
            case "concat":
                layers = {"out": (2 * width, width)}
            case "film":
                layers = {"text": (width, 2 * width), "out": (width, width)}
            case "gated":
                layers = dict.fromkeys(("text", "picture", "out"), (width, width))
            case _:
                assert_never(kind)
        self.layers = nn.ModuleDict({name: nn.Linear(*size) for name, size in layers.items()})

    def forward(
        self, text_ID: Tensor, picture_ID: Tensor, has_text_I: Tensor, has_picture_I: Tensor
    ) -> Tensor:
        """The vectors [I, D]; finite for items that lack one or both.

        Args:
            text_ID, picture_ID: vectors.
            has_text_I, has_picture_I: bool; a vector that is not there is not read and gets no
                gradient.
        """
        t_ID = text_ID.masked_fill(~has_text_I[:, None], 0.0)
        v_ID = picture_ID.masked_fill(~has_picture_I[:, None], 0.0)
        layers = self.layers
        fused_ID: Tensor
        match self.kind:
            case "sum":
                fused_ID = layers["text"](t_ID) + layers["picture"](v_ID)
            case "concat":
                fused_ID = layers["out"](torch.cat([t_ID, v_ID], dim=1))
            case "film":
                scale_ID, shift_ID = layers["text"](t_ID).chunk(2, dim=1)
                fused_ID = layers["out"](scale_ID * v_ID + shift_ID)
            case "gated":
                gate_ID = layers["text"](t_ID).sigmoid()
                fused_ID = layers["out"](gate_ID * layers["picture"](v_ID))
        return fused_ID


class CoAttention(nn.Module):
    """Text and picture tokens that attend to one another, then to their own -> an item's vector.

    One layer as in LXMERT: cross-attention, whose weights are the same both ways and which reads
    what came in both ways; then self-attention and a GELU layer of each side's own; each with a
    residual and a LayerNorm behind it. The mean of each side's tokens is taken, and a linear layer
    joins the two.

    Args:
        width: D.
        dropout: on attention weights and on what is added to the residuals.
    """

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.cross = _Attention(width, dropout=dropout)
        self.text_self = _Attention(width, dropout=dropout)
        self.picture_self = _Attention(width, dropout=dropout)
        self.text_layer = _FeedForward(width, dropout=dropout)
        self.picture_layer = _FeedForward(width, dropout=dropout)
        self.out = nn.Linear(2 * width, width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, text_ITD: Tensor, picture_IPD: Tensor, text_IT: Tensor, picture_IP: Tensor
    ) -> Tensor:
        """The vectors [I, D]; finite for items that lack one side or both.

        A side without tokens adds nothing to the other's, and its mean is zero.

        Args:
            text_ITD, picture_IPD: tokens.
            text_IT, picture_IP: bool, True at real tokens; what stands elsewhere is not read and
                gets no gradient.
        """
        text_ITD = text_ITD.masked_fill(~text_IT[:, :, None], 0.0)
        picture_IPD = picture_IPD.masked_fill(~picture_IP[:, :, None], 0.0)
        crossed_ITD = self.cross(text_ITD, picture_IPD, picture_IP)
        crossed_IPD = self.cross(picture_IPD, text_ITD, text_IT)
        text_ITD = self.text_layer(self.text_self(crossed_ITD, crossed_ITD, text_IT))
        picture_IPD = self.picture_layer(self.picture_self(crossed_IPD, crossed_IPD, picture_IP))
        means = [_mean(text_ITD, text_IT), _mean(picture_IPD, picture_IP)]
        fused_ID: Tensor = self.out(torch.cat(means, dim=1))
        return fused_ID


class _Attention(nn.Module):
    """Tokens that attend to others, with the residual and its LayerNorm."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        if width % self.heads:
            raise InputError(
                f"width = {width} cannot be cut into {self.heads} heads of equal width"
            )
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_IQD: Tensor, key_IKD: Tensor, valid_IK: Tensor) -> Tensor:
        """[I, Q, D]; where an item has no keys, nothing is added to its queries."""
        some_I111 = valid_IK.any(1)[:, None, None, None]
        # An item without keys sees its padding, against NaN, and what it sees is thrown away.
        seen_I11K = valid_IK[:, None, None, :] | ~some_I111
        query_IHQE, key_IHKE, value_IHKE = (
            split_heads(projection(x), self.heads).transpose(1, 2)
            for projection, x in (
                (self.query, query_IQD),
                (self.key, key_IKD),
                (self.value, key_IKD),
            )
        )
        attended_IHQE = functional.scaled_dot_product_attention(
            query_IHQE,
            key_IHKE,
            value_IHKE,
            attn_mask=seen_I11K,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        found_IQD = self.dropout(self.out(attended_IHQE.transpose(1, 2).flatten(2)))
        out_IQD: Tensor = self.norm(query_IQD + found_IQD.masked_fill(~some_I111[:, 0], 0.0))
        return out_IQD


class _FeedForward(nn.Module):
    """A GELU layer four times as wide, with the residual and its LayerNorm."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_IKD: Tensor) -> Tensor:
        hidden_IKD = self.down(functional.gelu(self.up(x_IKD)))
        out_IKD: Tensor = self.norm(x_IKD + self.dropout(hidden_IKD))
        return out_IKD


def _mean(x_IKD: Tensor, valid_IK: Tensor) -> Tensor:
    """Over real tokens, [I, D]; zeros where there is none."""
    count_I1 = valid_IK.sum(1, keepdim=True).clamp(min=1)
    return x_IKD.masked_fill(~valid_IK[:, :, None], 0.0).sum(1) / count_I1
