"""HSTU's user encoder: gated attention without a softmax (Zhai et al. 2024, section 3).

Times are not read: the relative bias is that of places alone.

Shape suffixes: B users, L positions of the window, Q of them that ask, D width, H heads, E width of
a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.encoders.attention_heads import split_heads
from pmm.model.user_encoders.local_convolution import LocalConvolution
from pmm.model.user_encoders.rotary import rotate
from pmm.model.user_encoders.transformer import UserPositions, causal_mask, require_heads


class HstuBlock(nn.Module):
    """u, v, q, k = SiLU(W LN(x)); x + W_o (LN(A v) * u), with A = SiLU(q k + bias) / L.

    The bias is a learned number for each distance. L is the longest window, so that a padded
    window means what a shorter one does.
    """

    def __init__(
        self, width: int, *, max_length: int, heads: int, dropout: float, rotary: bool
    ) -> None:
        super().__init__()
        self.heads, self.rotary, self.max_length = heads, rotary, max_length
        self.input_norm = nn.LayerNorm(width, eps=1e-6)
        self.attended_norm = nn.LayerNorm(width, eps=1e-6)
        self.parts = nn.Linear(width, 4 * width)
        self.out = nn.Linear(width, width)
        self.bias_L = nn.Parameter(torch.zeros(max_length))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, allowed_BLL: Tensor) -> Tensor:
        """One block; `allowed_BLL` is True where a query (row) may see a key (column)."""
        parts = functional.silu(self.parts(self.input_norm(x_BLD))).chunk(4, dim=-1)
        value_BHLE, query_BHLE, key_BHLE = (
            split_heads(part, self.heads).transpose(1, 2) for part in parts[1:]
        )
        if self.rotary:
            query_BHLE, key_BHLE = rotate(query_BHLE), rotate(key_BHLE)
        place_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        distance_LL = (place_L[:, None] - place_L).clamp(min=0)
        score_BHLL = query_BHLE @ key_BHLE.transpose(2, 3) + self.bias_L[distance_LL]
        weight_BHLL = functional.silu(score_BHLL) / self.max_length
        weight_BHLL = weight_BHLL.masked_fill(~allowed_BLL[:, None], 0.0)
        attended_BLD = (weight_BHLL @ value_BHLE).transpose(1, 2).flatten(2)
        gated_BLD = self.attended_norm(attended_BLD) * parts[0]
        out_BLD: Tensor = x_BLD + self.out(self.dropout(gated_BLD))
        return out_BLD


class HstuEncoder(nn.Module):
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
    ) -> None:
        super().__init__()
        rotary = positions == "rope"
        require_heads(width, heads, rotary=rotary)
        self.max_length = max_length
        self.position = None if rotary else nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            HstuBlock(width, max_length=max_length, heads=heads, dropout=dropout, rotary=rotary)
            for _ in range(blocks)
        )
        self.out_norm = nn.LayerNorm(width, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.convolution = LocalConvolution(width, convolution) if convolution else None

    @property
    def input_norm(self) -> nn.LayerNorm:
        """What norms its inputs."""
        return self.norm

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        Args:
            e_BLD: item vectors, L <= max_length.
            valid_BL: bool, True at real items.
        """
        length = e_BLD.shape[1]
        if length > self.max_length:
            raise ValueError(f"a window of {length} items, but max_length is {self.max_length}")
        if self.position is not None:
            e_BLD = e_BLD + self.position.weight[self.max_length - length :]
        x_BLD = self.norm(e_BLD)
        if self.convolution is not None:
            x_BLD = self.convolution(x_BLD, valid_BL)
        # Padding is zeroed, since without a softmax nothing else keeps it finite.
        x_BLD = self.dropout(x_BLD).masked_fill(~valid_BL[:, :, None], 0.0)
        allowed_BLL = causal_mask(valid_BL) & valid_BL[:, None, :]
        for block in self.blocks:
            x_BLD = block(x_BLD, allowed_BLL)
        if last:
            x_BLD, valid_BL = x_BLD[:, -1:], valid_BL[:, -1:]
        hidden_BLD: Tensor = self.out_norm(x_BLD).masked_fill(~valid_BL[:, :, None], 0.0)
        return hidden_BLD
