"""NextItNet's user encoder: dilated causal convolutions, with PeterRec's adapters for transfer.

Shape suffixes: B users, L positions of the window, D width, W width inside an adapter.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.user_encoders.local_convolution import LocalConvolution, convolved_input

Insertion = Literal["serial", "parallel"]


class Adapter(nn.Module):
    """PeterRec's "model patch": what is added to a frozen convolution's output.

    Down to `bottleneck`, GELU in its tanh form, up again. The up-projection starts at zero, so a
    new adapter adds nothing.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The change alone, without `x_BLD`; [B, L, D]."""
        inner_BLW = functional.gelu(self.down(x_BLD), approximate="tanh")
        change_BLD: Tensor = self.up(inner_BLW)
        return change_BLD


class CausalConvolution(nn.Module):
    """A convolution over positions l, l - r, l - 2r, ... for dilation r, and its adapter if any.

    A serial adapter reads the convolution's output, a parallel one its input; either is added to
    the output.
    """

    def __init__(
        self,
        width: int,
        *,
        kernel: int,
        dilation: int,
        insertion: Insertion | None,
        bottleneck: int,
    ) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.insertion = insertion
        self.adapter = None if insertion is None else Adapter(width, bottleneck)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Zeros stand left of the window; [B, L, D]."""
        x_BDL = functional.pad(x_BLD.transpose(1, 2), (self.reach, 0))
        out_BLD: Tensor = self.convolution(x_BDL).transpose(1, 2)
        if self.adapter is None:
            return out_BLD
        patched_BLD: Tensor = self.adapter(out_BLD if self.insertion == "serial" else x_BLD)
        return out_BLD + patched_BLD


class DilatedBlock(nn.Module):
    """Two convolutions, the second with twice the dilation, each with LayerNorm and ReLU."""

    def __init__(
        self,
        width: int,
        *,
        kernel: int,
        dilation: int,
        insertion: Insertion | None,
        bottleneck: int,
    ) -> None:
        super().__init__()
        self.first, self.second = (
            CausalConvolution(
                width, kernel=kernel, dilation=step, insertion=insertion, bottleneck=bottleneck
            )
            for step in (dilation, 2 * dilation)
        )
        self.first_norm = nn.LayerNorm(width, eps=1e-8)
        self.second_norm = nn.LayerNorm(width, eps=1e-8)

    def forward(self, x_BLD: Tensor, padding_BL1: Tensor | None) -> Tensor:
        """One block; where `padding_BL1` is given, every convolution reads zeros there."""
        y_BLD = functional.relu(self.first_norm(self.first(_blank(x_BLD, padding_BL1))))
        y_BLD = functional.relu(self.second_norm(self.second(_blank(y_BLD, padding_BL1))))
        return x_BLD + y_BLD


class NextItNetEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past.

    The blocks have the dilations in their order, `repeats` times over; windows may have any
    length. With the defaults, the convolutions have the dilations 1, 2, 4, 8, 1, 2, 4, 8.

    `mask_pads=False` is the published code: what stands at padding is read, and a layer of biases
    and norms writes something there, so a state depends on how many places of padding there are.
    By default no convolution reads what stands at padding.

    `adapter` puts a PeterRec adapter of `bottleneck` (0: a quarter of the width) at every
    convolution; see `freeze_for_patching`. `convolution` puts a norm and one dense convolution over
    so many items in front.
    """

    def __init__(
        self,
        width: int,
        *,
        repeats: int = 2,
        dilations: Sequence[int] = (1, 4),
        kernel: int = 3,
        dense: bool = False,
        mask_pads: bool = True,
        adapter: Insertion | None = None,
        bottleneck: int = 0,
        convolution: int = 0,
    ) -> None:
        super().__init__()
        self.mask_pads = mask_pads
        self.blocks = nn.ModuleList(
            DilatedBlock(
                width,
                kernel=kernel,
                dilation=dilation,
                insertion=adapter,
                bottleneck=bottleneck or max(1, width // 4),
            )
            for dilation in tuple(dilations) * repeats
        )
        self.dense = nn.Linear(width, width) if dense else None
        self.input = convolved_input(width, convolution)

    @property
    def receptive_field(self) -> int:
        """How many positions a state can depend on, its own included."""
        kinds = CausalConvolution | LocalConvolution
        return 1 + sum(module.reach for module in self.modules() if isinstance(module, kinds))

    @property
    def input_norm(self) -> nn.LayerNorm | None:
        """What norms its inputs, if anything does."""
        return None if self.input is None else self.input.norm

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        Args:
            e_BLD: item vectors.
            valid_BL: bool, True at real items.
        """
        padding_BL1 = ~valid_BL[:, :, None]
        x_BLD = e_BLD if self.input is None else self.input(e_BLD, valid_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, padding_BL1 if self.mask_pads else None)
        if last:
            x_BLD, padding_BL1 = x_BLD[:, -1:], padding_BL1[:, -1:]
        if self.dense is not None:
            x_BLD = self.dense(x_BLD)
        return x_BLD.masked_fill(padding_BL1, 0.0)

    def freeze_for_patching(self) -> None:
        """Leave only the adapters and the second LayerNorm of every block to train, as PeterRec.

        An encoder without adapters is refused.
        """
        adapters = [module for module in self.modules() if isinstance(module, Adapter)]
        if not adapters:
            raise InputError(
                "there is no adapter to train: build the encoder with adapter = "
                '"serial" or "parallel"'
            )
        self.requires_grad_(False)
        norms = (block.second_norm for block in self.blocks)
        for module in (*adapters, *norms):
            module.requires_grad_(True)

    def trained_names(self) -> list[str]:
        """Names of the tensors that train, relative to this module."""
        return [name for name, tensor in self.named_parameters() if tensor.requires_grad]


def _blank(x_BLD: Tensor, padding_BL1: Tensor | None) -> Tensor:
    return x_BLD if padding_BL1 is None else x_BLD.masked_fill(padding_BL1, 0.0)
