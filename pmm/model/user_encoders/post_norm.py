"""RecBole's Transformer: the user encoder of UniSRec and VQ-Rec, and the streams of FDSA.

Shape suffixes: B users, L positions of the window, D width, H heads, E width of a head.
"""

from torch import Tensor, nn
from torch.nn import functional

from pmm.model.user_encoders.local_convolution import LocalConvolution
from pmm.model.user_encoders.transformer import (
    BlockNorm,
    CausalBlock,
    UserPositions,
    normed_at_the_end,
    require_heads,
    run_blocks,
)


class PostNormBlocks(nn.Module):
    """The blocks alone: what stands before them may be shared by several streams (FDSA)."""

    def __init__(
        self,
        width: int,
        *,
        blocks: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        rotary: bool = False,
        norm: BlockNorm = "post",
    ) -> None:
        super().__init__()
        require_heads(width, heads, rotary=rotary)
        self.blocks = nn.ModuleList(
            CausalBlock(
                width,
                heads=heads,
                dropout=dropout,
                inner=inner,
                bias=True,
                eps=1e-12,
                activation=functional.gelu,
                rotary=rotary,
                norm=norm,
            )
            for _ in range(blocks)
        )
        initialise(self)
        self.out_norm = nn.LayerNorm(width, eps=1e-12) if norm == "pre" else None

    def forward(self, x_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        Each comes from its past.
        """
        hidden_BLD = run_blocks(self.blocks, x_BLD, valid_BL, last=last)
        return normed_at_the_end(self.out_norm, hidden_BLD, valid_BL)


class PositionedInput(nn.Module):
    """Dropout(LN(e + P)) with learned positions P, counted from the window's right end.

    With rotary positions, which the blocks know, there is no P. A convolution stands behind the
    norm, if there is one.
    """

    def __init__(
        self,
        width: int,
        *,
        max_length: int,
        dropout: float,
        positions: UserPositions = "absolute",
        convolution: int = 0,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.position = nn.Embedding(max_length, width) if positions == "absolute" else None
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        initialise(self)
        self.convolution = LocalConvolution(width, convolution) if convolution else None

    def forward(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """The last position is always max_length - 1; longer windows are refused. [B, L, D]"""
        length, longest = e_BLD.shape[1], self.max_length
        if length > longest:
            raise ValueError(f"a window of {length} items, but max_length is {longest}")
        if self.position is not None:
            e_BLD = e_BLD + self.position.weight[longest - length :]
        if self.convolution is None:
            return self.normed(e_BLD)
        out_BLD: Tensor = self.dropout(self.convolution(self.norm(e_BLD), valid_BL))
        return out_BLD

    def normed(self, x_BLD: Tensor) -> Tensor:
        """Dropout(LN(x)): without positions and convolution."""
        out_BLD: Tensor = self.dropout(self.norm(x_BLD))
        return out_BLD


class PostNormEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past."""

    def __init__(
        self,
        width: int,
        *,
        max_length: int,
        blocks: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        positions: UserPositions = "absolute",
        convolution: int = 0,
        norm: BlockNorm = "post",
    ) -> None:
        super().__init__()
        self.input = PositionedInput(
            width,
            max_length=max_length,
            dropout=dropout,
            positions=positions,
            convolution=convolution,
        )
        self.transformer = PostNormBlocks(
            width,
            blocks=blocks,
            heads=heads,
            inner=inner,
            dropout=dropout,
            rotary=positions == "rope",
            norm=norm,
        )

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        A window shorter than max_length means the same as one padded on the left. What stands at
        padding has no influence, as long as it is finite.

        Args:
            e_BLD: item vectors, L <= max_length.
            valid_BL: bool, True at real items.
        """
        hidden_BLD: Tensor = self.transformer(self.input(e_BLD, valid_BL), valid_BL, last=last)
        return hidden_BLD

    @property
    def input_norm(self) -> nn.LayerNorm:
        """What norms its inputs."""
        return self.input.norm


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) for all matrices, zero biases: what RecBole trains from."""
    for each in module.modules():
        if isinstance(each, nn.Linear | nn.Embedding):
            nn.init.normal_(each.weight, std=0.02)
        if isinstance(each, nn.Linear) and each.bias is not None:
            nn.init.zeros_(each.bias)
