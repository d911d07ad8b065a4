"""A vision Transformer of any library, taken apart at its blocks.

Every library runs a tower as embeddings, blocks one after the other, a final norm. The blocks are
taken out of the library's own module and a `Gate` is left in the place of each: the module's own
forward pass then gives what the first block reads, and the gates see what else each block is given
(rotary positions, a mask). So nothing of a library's embeddings is written again here.

Shape suffixes: I pictures, P tokens of a picture (those in front of the patches included), D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.shards.hub import first_line
from pmm.shards.shard_options import MOST_PIXELS

MOST_TOKENS = 1 << 14
"""Patches of a picture: 1,024 pixels in patches of 8."""

Embed = Callable[[nn.Module, Tensor], Tensor]
"""The stem and normalised pixels [I, 3, H, W] -> hidden states [I, P, D] in front of block 0."""
Pooled = Callable[[nn.Module, Tensor], Tensor]
"""The whole stem and hidden states [I, P, D] behind the final norm -> a vector a picture [I, D]."""


class Gate(nn.Module):
    """Stands where a module was: gives its first input back, and keeps the others."""

    more: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, hidden: Any, *args: Any, **named: Any) -> Any:
        """The hidden states as they came."""
        self.more = args, named
        return hidden


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """The parts, as a library's loader finds them."""

    stem: nn.Module
    """The library's module without its blocks and final norm."""
    blocks: Sequence[nn.Module]
    """From the bottom."""
    norm: nn.Module | None = None
    """Behind the last block, as far as the library's hidden states have it."""
    gates: Sequence[Gate] = ()
    """In the places of the blocks; none where the blocks take hidden states alone."""
    embed: Embed
    pool: Pooled
    only_pooling: tuple[str, ...] = ()
    """Parts of the stem that `pool` alone reads."""
    width: int
    size: tuple[int, int]
    """Height and width of the pictures that the checkpoint was made for."""
    patch: tuple[int, int]
    class_token: bool
    """Whether the first token is one; all other tokens in front of the patches are registers."""
    any_size: bool
    """Whether the library interpolates positions for pictures of other sizes."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    """What the output depends on besides weights and pixels."""

    def patches(self, size: tuple[int, int]) -> int:
        """Of a picture of a size; a border that fills no patch is not looked at."""
        return (size[0] // self.patch[0]) * (size[1] // self.patch[1])

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether pictures of a size can be read."""
        if size == self.size:
            return True
        whole = all(pixels % patch == 0 for pixels, patch in zip(size, self.patch, strict=True))
        return self.any_size and whole and min(size) > 0

    def drop_pooling(self) -> None:
        """Take out what no hidden state passes through."""
        for name in self.only_pooling:
            if isinstance(getattr(self.stem, name, None), nn.Module):
                setattr(self.stem, name, Gate())


def take_blocks(parent: nn.Module, name: str) -> tuple[list[nn.Module], list[Gate]]:
    """Take a list of blocks out of the module that holds it; the gates that stand there now."""
    held = parent.get_submodule(name)
    assert isinstance(held, nn.ModuleList | nn.Sequential)
    blocks = list(held)
    gates = [Gate() for _ in blocks]
    kind = nn.Sequential if isinstance(held, nn.Sequential) else None
    setattr(parent, name, kind(*gates) if kind else nn.ModuleList(gates))
    return blocks, gates


def take_part(parent: nn.Module, name: str) -> nn.Module:
    """Take one module out of another; a gate stands there now."""
    part = parent.get_submodule(name)
    setattr(parent, name, Gate())
    return part


def drop_mask_tokens(stem: nn.Module) -> None:
    """Drop what stands for masked patches in pre-training alone: no gradient would reach it."""
    for module in stem.modules():
        if isinstance(getattr(module, "mask_token", None), nn.Parameter):
            module.register_parameter("mask_token", None)


def require_modest_pictures(size: tuple[int, int], patch: tuple[int, int], name: str) -> None:
    """Refuse pictures or patches of a size that no tower has, before a picture is made.

    Raises:
        InputError: they are absurd.
    """
    numbers = (*size, *patch)
    if not all(isinstance(each, int) and 1 <= each <= MOST_PIXELS for each in numbers):
        raise InputError(
            f"{name}: it asks for pictures of {size} in patches of {patch}; expected are whole "
            f"numbers of pixels, at most {MOST_PIXELS:,}"
        )
    tokens = (size[0] // patch[0]) * (size[1] // patch[1])
    if not 1 <= tokens <= MOST_TOKENS:
        raise InputError(
            f"{name}: pictures of {size} in patches of {patch} are {tokens:,} tokens; expected are "
            f"1 to {MOST_TOKENS:,}"
        )


class BlockInputs(nn.Module):
    """What each block is given beside the hidden states, the same for all pictures of a size.

    Its tensors are buffers, so they move with the encoder.
    """

    def __init__(self, gates: Iterable[Gate]) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        self._calls = [self._without_tensors(gate.more) for gate in gates]

    def of(self, block: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The further arguments of a block, by place and by name."""
        return self._with_tensors(self._calls[block]) if self._calls else ((), {})

    def _without_tensors(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            # Most libraries hand the same tensor to all blocks.
            name = self._names.setdefault(id(value), f"tensor_{len(self._names)}")
            self.register_buffer(name, value, persistent=False)
            return _Held(name)
        return _mapped(value, self._without_tensors)

    def _with_tensors(self, value: Any) -> Any:
        if isinstance(value, _Held):
            return self.get_buffer(value.name)
        return _mapped(value, self._with_tensors)


@dataclass(frozen=True)
class _Held:
    name: str


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A tuple, list or dict with its entries changed; anything else as it is."""
    if type(value) in (tuple, list):
        return type(value)(change(each) for each in value)
    if isinstance(value, dict):
        return {name: change(each) for name, each in value.items()}
    return value


def inputs_for(
    tower: VisionTower, stem: nn.Module, size: tuple[int, int], *, trains: bool, name: str
) -> tuple[int, BlockInputs]:
    """Tokens of a picture of a size in front of block 0, and what the blocks are given with it.

    Args:
        tower: taken apart.
        stem: the tower's, wherever it is by now.
        size: height and width of the pictures.
        trains: whether the stem does.
        name: the encoder's, for messages.

    Raises:
        InputError: the library cannot run it, or its blocks read what trains with the stem.
    """
    device = next(stem.parameters()).device
    mode = stem.training
    stem.eval()
    try:
        with torch.set_grad_enabled(trains):
            hidden_1PD = tower.embed(stem, torch.zeros(1, 3, *size, device=device))
    except Exception as error:  # a library's forward pass raises what its parts raise
        raise InputError(f"{name} cannot read pictures of {size} ({first_line(error)})") from error
    finally:
        stem.train(mode)
    if hidden_1PD.dim() != 3 or hidden_1PD.shape[2] != tower.width:
        raise InputError(f"{name} is no plain vision Transformer: choose a ViT")
    inputs = BlockInputs(tower.gates)
    if any(each.requires_grad for each in inputs.buffers()):
        raise InputError(
            f"{name}: its blocks read positions that train with the embeddings, so it cannot train "
            'whole: set train_blocks to a number instead of "all"'
        )
    return int(hidden_1PD.shape[1]), inputs
