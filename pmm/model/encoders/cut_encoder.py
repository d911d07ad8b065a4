"""A pre-trained encoder cut in two: a frozen backbone, called the trunk, and a trainable top.

The trunk (embeddings and the lower blocks) never trains and is always in eval mode, so its output
at the cut is a constant of the item (docs/paper.md R10, R12) that can be computed once and stored.
Blocks keep their numbers: a tensor is called `blocks.10. ...` wherever the cut stands, so weights
trained with one cut have a place with another. What no gradient would ever reach (poolers, the
final norm of a vision tower, its output projection) is not kept.

Shape suffixes: I items, K tokens of an item, D the encoder's width.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pmm.errors import InputError
from pmm.model.encoders.specs import TrainBlocks


class CutEncoder(nn.Module):
    """A stem (embeddings) and numbered blocks; blocks before `cut` and the stem are frozen.

    With `top="all"` everything trains, the stem too, and there is no constant to store.
    """

    recompute = False
    """Keep no activations of the trained blocks for the backward pass, compute them again."""

    def __init__(
        self,
        stem: nn.Module,
        blocks: Iterable[nn.Module],
        *,
        width: int,
        top: TrainBlocks,
        source: str = "",
    ) -> None:
        """Cut it.

        Args:
            stem: embeddings.
            blocks: all of them, from the bottom.
            width: D.
            top: how many blocks train, from the top; "all" of them and the stem.
            source: the name or folder that it was loaded from, for errors.

        Raises:
            InputError: there are not so many blocks.
        """
        super().__init__()
        self.source = source
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.frozen_stem = top != "all"
        trained = len(self.blocks) if top == "all" else top
        if not 0 <= trained <= len(self.blocks):
            raise InputError(f"train_blocks = {top}, but the encoder has {len(self.blocks)} blocks")
        self.width = width
        self.cut = len(self.blocks) - trained
        self.stem.requires_grad_(not self.frozen_stem)
        for number, block in enumerate(self.blocks):
            block.requires_grad_(number >= self.cut)
        self.train(self.training)

    def train(self, mode: bool = True) -> "CutEncoder":
        """Set the mode of the top; the trunk stays in eval mode (docs/paper.md R12)."""
        super().train(mode)
        self.stem.train(mode and not self.frozen_stem)
        for block in self.blocks[: self.cut]:
            block.eval()
        return self

    def trained_names(self) -> list[str]:
        """Names of the tensors that train, relative to this module."""
        return [name for name, tensor in self.named_parameters() if tensor.requires_grad]

    def release_trunk(self) -> None:
        """Free the memory of the frozen weights, once only `top` will be called."""
        if self.frozen_stem:
            self.stem = nn.Identity()
            for number in range(self.cut):
                self.blocks[number] = nn.Identity()

    def through_top(self, hidden: Tensor, *more: Any) -> Tensor:
        """Hidden states of the last block, from those at the cut."""
        for block in self.blocks[self.cut :]:
            hidden = called(block, hidden, *more, recompute=self.recompute)
        return hidden

    def _gradients(self) -> AbstractContextManager[object]:
        """None in the trunk, unless its stem trains."""
        return nullcontext() if not self.frozen_stem else torch.no_grad()


def called(module: Callable[..., Any], *inputs: Any, recompute: bool, **named: Any) -> Tensor:
    """The output of a module; with `recompute` nothing inside is kept for the backward pass.

    It then runs once more in the backward pass, with the same dropout.
    """
    if recompute and torch.is_grad_enabled():
        # The reentrant form gives no gradient where no input has one, as hidden states at the cut.
        output: Tensor = checkpoint(module, *inputs, use_reentrant=False, **named)
    else:
        output = module(*inputs, **named)
    return output


def require_seed(seed: int | None, name: str) -> None:
    """Refuse a folder without weights, unless random ones are asked for.

    Raises:
        InputError: there is no seed.
    """
    if seed is None:
        raise InputError(
            f"{name}: there are no weights in this folder; put them there, "
            "or set random_seed to start from random ones"
        )


def require_all(missing: Iterable[str], name: str) -> None:
    """Refuse weights that lack tensors of their config: those would start at random, unnoticed.

    Raises:
        InputError: names the first of them.
    """
    lacking = sorted(missing)
    if lacking:
        shown = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
        raise InputError(f"{name}: the weights lack {len(lacking)} tensors of its config ({shown})")
