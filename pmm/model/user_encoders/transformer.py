"""The user encoder: SASRec's causal Transformer over item vectors (paper Eq. 4; docs/paper.md R33).

Shape suffixes: B users, L positions of the window, D width, H heads, E width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.encoders.attention_heads import split_heads


class CausalBlock(nn.Module):
    """Post-norm attention, then a layer of `inner` (0: four times the width) units.

    The defaults are SASRec's as in the published code: no biases in the attention, ReLU. The
    activation may overwrite what it is given.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        dropout: float,
        inner: int = 0,
        bias: bool = False,
        eps: float = 1e-6,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
    ) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, inner or 4 * width)
        self.down = nn.Linear(inner or 4 * width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, allowed_B1LL: Tensor, *, last: bool = False) -> Tensor:
        """One block; `allowed_B1LL` is True where a query (row) may see a key (column).

        With `last` only the last position is computed, [B, 1, D].
        """
        x_BQD = x_BLD[:, -1:] if last else x_BLD
        query_BHQE, key_BHLE, value_BHLE = (
            split_heads(projection(of), self.heads).transpose(1, 2)
            for projection, of in ((self.query, x_BQD), (self.key, x_BLD), (self.value, x_BLD))
        )
        attended_BHQE = functional.scaled_dot_product_attention(
            query_BHQE,
            key_BHLE,
            value_BHLE,
            attn_mask=allowed_B1LL[:, :, -1:] if last else allowed_B1LL,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended_BQD = attended_BHQE.transpose(1, 2).flatten(2)
        x_BQD = self.attention_norm(x_BQD + self.dropout(self.out(attended_BQD)))
        hidden_BQD = self.down(self.activation(self.up(x_BQD)))
        out_BQD: Tensor = self.norm(x_BQD + self.dropout(hidden_BQD))
        return out_BQD


def run_blocks(blocks: nn.ModuleList, x_BLD: Tensor, valid_BL: Tensor, *, last: bool) -> Tensor:
    """Causal blocks one after the other: [B, L, D], zeros at padding.

    With `last` the last block computes the last position alone, [B, 1, D].
    """
    allowed_B1LL = causal_mask(valid_BL)[:, None]
    for k, block in enumerate(blocks, start=1):
        x_BLD = block(x_BLD, allowed_B1LL, last=last and k == len(blocks))
    real_BL = valid_BL[:, -1:] if last else valid_BL
    return x_BLD.masked_fill(~real_BL[:, :, None], 0.0)


class UserEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past."""

    def __init__(
        self, width: int, *, max_length: int, blocks: int = 2, heads: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"user_heads = {heads} does not divide the width {width}")
        self.position = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(width, heads=heads, dropout=dropout) for _ in range(blocks)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        The last position is always max_length - 1: a window shorter than max_length means the
        same as one padded on the left. What stands at padding has no influence, as long as it is
        finite.

        Args:
            e_BLD: item vectors, L <= max_length.
            valid_BL: bool, True at real items.
        """
        length, longest = e_BLD.shape[1], self.position.num_embeddings
        if length > longest:
            raise ValueError(f"a window of {length} items, but max_length is {longest}")
        x_BLD = self.dropout(self.norm(e_BLD + self.position.weight[longest - length :]))
        return run_blocks(self.blocks, x_BLD, valid_BL, last=last)


def causal_mask(valid_BL: Tensor) -> Tensor:
    """bool [B, L, L]: query (row) l may see key (column) k when k is real and k <= l.

    A padded query sees itself only, since a softmax over nothing is NaN; no one else ever sees
    it.

    >>> causal_mask(torch.tensor([[False, True, True]])).int()[0].tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    position_L = torch.arange(valid_BL.shape[1], device=valid_BL.device)
    past_LL = position_L[:, None] >= position_L
    self_LL = position_L[:, None] == position_L
    return (valid_BL[:, None, :] & past_LL) | self_LL
