"""Merge-attention fusion of an item's text and picture tokens into one vector (paper Eq. 3).

Shape suffixes: I items, T text tokens, P picture tokens, K tokens of both together, Q queries, D
width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Pool = Literal["mean", "cls"]


class FusionBlock(nn.Module):
    """One BERT-type post-norm block whose queries may be fewer than its keys (docs/paper.md R7)."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_IQD: Tensor, token_IKD: Tensor, valid_IK: Tensor) -> Tensor:
        """Attend from the queries to the valid tokens; [I, Q, D]. Each row needs a valid token."""
        attended_IQD = merge_heads(
            functional.scaled_dot_product_attention(
                split_heads(self.query(query_IQD), self.heads),
                split_heads(self.key(token_IKD), self.heads),
                split_heads(self.value(token_IKD), self.heads),
                attn_mask=valid_IK[:, None, None, :],
                dropout_p=self.dropout.p if self.training else 0.0,
            )
        )
        x_IQD = self.attention_norm(query_IQD + self.dropout(self.out(attended_IQD)))
        hidden_IQD = self.down(functional.gelu(self.up(x_IQD)))
        out_IQD: Tensor = self.norm(x_IQD + self.dropout(hidden_IQD))
        return out_IQD


class MergeFusion(nn.Module):
    """Text and picture tokens of an item through one block over both, pooled to the item's vector.

    `pool="mean"`: masked mean over all tokens (R2). `pool="cls"`: a learned token in front, whose
    output is the vector; the class tokens of the two encoders then stay outside (R3), as the
    paper writes.
    """

    def __init__(
        self, width: int, *, pool: Pool = "mean", type_embedding: bool = True, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pool = pool
        self.block = FusionBlock(width, dropout=dropout)
        self.type_2D = nn.Parameter(torch.empty(2, width)) if type_embedding else None
        self.mm_cls_D = nn.Parameter(torch.empty(width)) if pool == "cls" else None
        self._initialise()

    def _initialise(self) -> None:
        """N(0, 0.02), zero biases: what the published code trains from (docs/paper.md R6)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for tensor in (self.type_2D, self.mm_cls_D):
            if tensor is not None:
                nn.init.normal_(tensor, std=0.02)

    def forward(
        self, text_ITD: Tensor, text_mask_IT: Tensor, picture_IPD: Tensor, picture_mask_IP: Tensor
    ) -> Tensor:
        """One vector an item, [I, D].

        Masks are True at tokens that exist; an item may lack all of one kind. One that lacks both
        gets a finite vector that says nothing (zeros for `mean`).
        """
        if self.type_2D is not None:
            text_ITD = text_ITD + self.type_2D[0]
            picture_IPD = picture_IPD + self.type_2D[1]
        if self.mm_cls_D is None:
            token_IKD = torch.cat([text_ITD, picture_IPD], dim=1)
            valid_IK = torch.cat([text_mask_IT, picture_mask_IP], dim=1)
            return masked_mean(self.block(token_IKD, token_IKD, with_one_key(valid_IK)), valid_IK)
        query_I1D = self.mm_cls_D.to(text_ITD.dtype).expand(len(text_ITD), 1, -1)
        token_IKD = torch.cat([query_I1D, text_ITD[:, 1:], picture_IPD[:, 1:]], dim=1)
        always_I1 = text_mask_IT.new_ones(len(text_ITD), 1)
        valid_IK = torch.cat([always_I1, text_mask_IT[:, 1:], picture_mask_IP[:, 1:]], dim=1)
        pooled_I1D: Tensor = self.block(query_I1D, token_IKD, valid_IK)
        return pooled_I1D[:, 0]


def masked_mean(token_IKD: Tensor, valid_IK: Tensor) -> Tensor:
    """Mean over the valid tokens of each row; zeros where there is none.

    >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3.]])
    """
    weight_IK1 = valid_IK[:, :, None].to(token_IKD.dtype)
    return (token_IKD * weight_IK1).sum(1) / weight_IK1.sum(1).clamp(min=1)


def with_one_key(valid_IK: Tensor) -> Tensor:
    """The same mask, but a row without a valid key sees its first (else its softmax is NaN)."""
    first_K = torch.arange(valid_IK.shape[1], device=valid_IK.device) == 0
    return valid_IK | (first_K & ~valid_IK.any(dim=1, keepdim=True))


def split_heads(x_IKD: Tensor, heads: int) -> Tensor:
    """[I, K, D] -> [I, heads, K, D / heads]."""
    return x_IKD.view(*x_IKD.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x_IHKD: Tensor) -> Tensor:
    """[I, heads, K, D / heads] -> [I, K, D]."""
    return x_IHKD.transpose(1, 2).flatten(2)
