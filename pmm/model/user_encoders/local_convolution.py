"""A causal convolution in front of a user encoder: the last few items, known by how far back.

What comes next depends most on the last item and the one before. An encoder with absolute positions
has to learn "one back" anew at every position; a convolution knows it from the start.

Shape suffixes: B users, L positions of the window, D width.
"""

from torch import Tensor, nn
from torch.nn import functional


class LocalConvolution(nn.Module):
    """x + W * x over the positions l - k + 1 .. l, each of D values reading all D (dense)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel - 1
        self.convolution = nn.Conv1d(width, width, kernel)

    def forward(self, x_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """[B, L, D]; zeros are read at padding and left of the window."""
        x_BLD = x_BLD.masked_fill(~valid_BL[:, :, None], 0.0)
        past_BDL = functional.pad(x_BLD.transpose(1, 2), (self.reach, 0))
        out_BLD: Tensor = x_BLD + self.convolution(past_BDL).transpose(1, 2)
        return out_BLD


class ConvolvedInput(nn.Module):
    """LayerNorm and a `LocalConvolution`, in front of an encoder that norms no inputs itself."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.convolution = LocalConvolution(width, kernel)

    def forward(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """[B, L, D]; what stands at padding has no influence on other places."""
        convolved_BLD: Tensor = self.convolution(self.norm(e_BLD), valid_BL)
        return convolved_BLD


def convolved_input(width: int, kernel: int) -> ConvolvedInput | None:
    """The module for a kernel of k items; None for k = 0."""
    return ConvolvedInput(width, kernel) if kernel else None
