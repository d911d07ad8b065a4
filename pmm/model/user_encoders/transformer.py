"""The user encoder: SASRec's causal Transformer over item vectors (paper Eq. 4; docs/paper.md R33).

Shape suffixes: B users, L positions of the window, D width, H heads, E width of a head.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.encoders.attention_heads import split_heads
from pmm.model.user_encoders.local_convolution import LocalConvolution
from pmm.model.user_encoders.rotary import rotate

UserPositions = Literal["absolute", "rope"]
"""How an encoder knows the order of items. "absolute": a learned vector for each place of the
window. "rope": queries and keys are turned by their place, so that only distances count."""
BlockNorm = Literal["post", "pre"]
"""Where a block norms: behind each residual (SASRec as published), or in front of each layer."""


class CausalBlock(nn.Module):
    """Attention, then a layer of `inner` (0: four times the width) units, each with a residual.

    The defaults are SASRec's as in the published code: no biases in the attention, ReLU, norms
    behind the residuals. The activation may overwrite what it is given. With `rotary` queries and
    keys are turned by their places.
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
        rotary: bool = False,
        norm: BlockNorm = "post",
    ) -> None:
        super().__init__()
        require_heads(width, heads, rotary=rotary)
        self.heads, self.activation = heads, activation
        self.rotary, self.pre_norm = rotary, norm == "pre"
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
        read_BLD = self.attention_norm(x_BLD) if self.pre_norm else x_BLD
        read_BQD = read_BLD[:, -1:] if last else read_BLD
        query_BHQE, key_BHLE, value_BHLE = (
            split_heads(projection(of), self.heads).transpose(1, 2)
            for projection, of in (
                (self.query, read_BQD),
                (self.key, read_BLD),
                (self.value, read_BLD),
            )
        )
        if self.rotary:
            query_BHQE = rotate(query_BHQE, first=x_BLD.shape[1] - x_BQD.shape[1])
            key_BHLE = rotate(key_BHLE)
        attended_BHQE = functional.scaled_dot_product_attention(
            query_BHQE,
            key_BHLE,
            value_BHLE,
            attn_mask=allowed_B1LL[:, :, -1:] if last else allowed_B1LL,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended_BQD = self.out(attended_BHQE.transpose(1, 2).flatten(2))
        x_BQD = x_BQD + self.dropout(attended_BQD)
        if not self.pre_norm:
            x_BQD = self.attention_norm(x_BQD)
        inner_BQD = self.norm(x_BQD) if self.pre_norm else x_BQD
        hidden_BQD = self.down(self.activation(self.up(inner_BQD)))
        out_BQD: Tensor = x_BQD + self.dropout(hidden_BQD)
        return out_BQD if self.pre_norm else self.norm(out_BQD)


def run_blocks(blocks: nn.ModuleList, x_BLD: Tensor, valid_BL: Tensor, *, last: bool) -> Tensor:
    """Causal blocks one after the other: [B, L, D], zeros at padding.

    With `last` the last block computes the last position alone, [B, 1, D].
    """
    allowed_B1LL = causal_mask(valid_BL)[:, None]
    for k, block in enumerate(blocks, start=1):
        x_BLD = block(x_BLD, allowed_B1LL, last=last and k == len(blocks))
    real_BL = valid_BL[:, -1:] if last else valid_BL
    return x_BLD.masked_fill(~real_BL[:, :, None], 0.0)


def normed_at_the_end(norm: nn.LayerNorm | None, x_BQD: Tensor, valid_BL: Tensor) -> Tensor:
    """Hidden states of all L positions or of the last alone, normed where blocks norm in front.

    [B, Q, D], zeros at padding.
    """
    if norm is None:
        return x_BQD
    real_BQ = valid_BL[:, -x_BQD.shape[1] :]
    normed_BQD: Tensor = norm(x_BQD).masked_fill(~real_BQ[:, :, None], 0.0)
    return normed_BQD


class UserEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past."""

    def __init__(
        self,
        width: int,
        *,
        max_length: int,
        blocks: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        positions: UserPositions = "absolute",
        convolution: int = 0,
        norm: BlockNorm = "post",
    ) -> None:
        super().__init__()
        rotary = positions == "rope"
        require_heads(width, heads, rotary=rotary)
        self.max_length = max_length
        self.position = None if rotary else nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(width, heads=heads, dropout=dropout, rotary=rotary, norm=norm)
            for _ in range(blocks)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # Drawn last, so that the other weights of a seed are the same with it and without.
        self.convolution = LocalConvolution(width, convolution) if convolution else None
        self.out_norm = nn.LayerNorm(width, eps=1e-6) if norm == "pre" else None

    @property
    def input_norm(self) -> nn.LayerNorm:
        """What norms its inputs."""
        return self.norm

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        The last position is always max_length - 1: a window shorter than max_length means the
        same as one padded on the left. What stands at padding has no influence, as long as it is
        finite.

        Args:
            e_BLD: item vectors, L <= max_length.
            valid_BL: bool, True at real items.
        """
        length, longest = e_BLD.shape[1], self.max_length
        if length > longest:
            raise ValueError(f"a window of {length} items, but max_length is {longest}")
        if self.position is not None:
            e_BLD = e_BLD + self.position.weight[longest - length :]
        x_BLD = self.norm(e_BLD)
        if self.convolution is not None:
            x_BLD = self.convolution(x_BLD, valid_BL)
        hidden_BLD = run_blocks(self.blocks, self.dropout(x_BLD), valid_BL, last=last)
        return normed_at_the_end(self.out_norm, hidden_BLD, valid_BL)


def require_heads(width: int, heads: int, *, rotary: bool = False) -> None:
    """Refuse a width that cannot be cut into these heads.

    Raises:
        InputError: the heads do not divide it, or leave each an odd width under rotary positions.
    """
    if width % heads:
        raise InputError(f"user_heads = {heads} does not divide the width {width}")
    if rotary and width // heads % 2:
        raise InputError(
            f'user_positions = "rope" turns pairs of values, but a head of {width} / {heads} has '
            "an odd number: choose another user_heads"
        )


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
