"""Vision towers: finding one by its name or folder, and running it (paper Eq. 2).

Shape suffixes: I items, P picture tokens (those in front of the patches included), D the encoder's
width, H = W the picture's side.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from pmm.advice import options_text
from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import CutEncoder, called
from pmm.model.encoders.open_clip_tower import open_clip_tower, whole_open_clip_tower
from pmm.model.encoders.specs import TrainBlocks, VisionSpec
from pmm.model.encoders.timm_tower import timm_tower
from pmm.model.encoders.tower_source import TowerSource, tower_source
from pmm.model.encoders.transformers_tower import transformers_tower
from pmm.model.encoders.vision_tower import VisionTower, inputs_for

TRUNK_PICTURES = 128
"""Pictures that a trunk takes at a time: as floats, 1,000 of them fill 600 MB."""


class VisionEncoder(CutEncoder):
    """A vision tower up to the hidden states that its library gives (paper Eq. 2).

    Those of open_clip are the residual stream of the last block, without the final norm
    (docs/paper.md R11); those of transformers and timm are behind the final norm, as far as the
    library's own have it. That norm belongs to the top, and trains with it.
    """

    shift_311: Tensor
    scale_311: Tensor

    def __init__(
        self, tower: VisionTower, *, top: TrainBlocks, source: str = "", pools: bool = False
    ) -> None:
        """Cut it.

        Args:
            tower: taken apart; its parts are the encoder's from now on.
            top: how many blocks train.
            source: the name or folder that it was loaded from.
            pools: whether `pooled` will be asked, by whom nothing trains.

        Raises:
            InputError: there are not so many blocks, or the library cannot run it so.
        """
        if not pools:
            tower.drop_pooling()
        super().__init__(tower.stem, tower.blocks, width=tower.width, top=top, source=source)
        self.norm = nn.Identity() if tower.norm is None else tower.norm
        self.norm.requires_grad_(top == "all" or top > 0)
        self._tower = tower
        scale_311, shift_311 = pixel_scale(tower.mean, tower.std)
        self.register_buffer("scale_311", scale_311, persistent=False)
        self.register_buffer("shift_311", shift_311, persistent=False)
        self._fit(tower.size)

    def _fit(self, size: tuple[int, int]) -> None:
        tower = self._tower
        name = f"vision tower {self.source}"
        found = inputs_for(tower, self.stem, size, trains=not self.frozen_stem, name=name)
        self.trunk_tokens, self.block_inputs = found
        self.picture_size = size
        patches = tower.patches(size)
        self._in_front = self.trunk_tokens - patches
        self.tokens = 1 + patches

    @property
    def about(self) -> dict[str, str]:
        """What its output depends on besides weights and pixels, as text."""
        return dict(self._tower.about)

    def takes(self, side: int) -> bool:
        """Whether square pictures of another side can be read, by positions in between."""
        return self._tower.takes((side, side))

    def fit(self, side: int) -> None:
        """Read square pictures of another side from now on; positions as the library fits them.

        Raises:
            InputError: it takes those of its own size only (`own_side`).
        """
        if self.picture_size == (side, side):
            return
        if not self.takes(side):
            raise InputError(
                f"the vision tower {self.source!r} takes pictures of {self.own_size}, the shards "
                f"hold {side}x{side}"
            )
        self._fit((side, side))

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the checkpoint was made for."""
        return self._tower.size

    def normalise(self, picture_I3HW: Tensor) -> Tensor:
        """uint8 0..255 to float32 with the mean and deviation of the spec."""
        return (picture_I3HW * self.scale_311).add_(self.shift_311)

    def trunk(self, picture_I3HW: Tensor) -> Tensor:
        """Hidden states [I, P, D] at the cut, without gradient unless the stem trains.

        Args:
            picture_I3HW: uint8 RGB of the tower's own size, or that which it was fitted to.

        Raises:
            InputError: pictures of another size.
        """
        require_size(picture_I3HW, self.picture_size)
        # Some at a time, as uint8 becomes floats of four times the size; the blocks' own memory is
        # bounded by it too, since nothing is kept for a backward pass.
        with self._gradients():
            parts = torch.split(picture_I3HW, TRUNK_PICTURES)
            return torch.cat([self._bottom(part) for part in parts])

    def _bottom(self, picture_I3HW: Tensor) -> Tensor:
        hidden_IPD = self._tower.embed(self.stem, self.normalise(picture_I3HW))
        for number in range(self.cut):
            hidden_IPD = self._block(number)(hidden_IPD)
        return hidden_IPD

    def _block(self, number: int) -> Callable[[Tensor], Tensor]:
        args, named = self.block_inputs.of(number)
        block = self.blocks[number]
        # Positional arguments follow the hidden states.
        return partial(_called_with, block, args, named)

    def whole(self, hidden_IPD: Tensor) -> Tensor:
        """The library's hidden states [I, P, D] from those at the cut, registers and all."""
        for number in range(self.cut, len(self.blocks)):
            hidden_IPD = called(self._block(number), hidden_IPD, recompute=self.recompute)
        normed_IPD: Tensor = self.norm(hidden_IPD)
        return normed_IPD

    def top(self, hidden_IPD: Tensor) -> Tensor:
        """Tokens [I, 1 + patches, D] from the hidden states at the cut.

        Token 0 is the class token; of a tower without one it is the mean of the patches. Register
        tokens are left out.
        """
        hidden_IPD = self.whole(hidden_IPD)
        if self._tower.class_token and self._in_front == 1:
            return hidden_IPD
        patch_IPD = hidden_IPD[:, self._in_front :]
        first_I1D = hidden_IPD[:, :1] if self._tower.class_token else patch_IPD.mean(1, True)
        return torch.cat([first_I1D, patch_IPD], dim=1)

    def pooled(self, picture_I3HW: Tensor) -> Tensor:
        """The library's vector of each picture [I, D], where it was built for that (`pools`)."""
        return self._tower.pool(self.stem, self.whole(self.trunk(picture_I3HW)))

    def forward(self, picture_I3HW: Tensor) -> Tensor:
        """Trunk and top."""
        return self.top(self.trunk(picture_I3HW))


def _called_with(
    block: nn.Module, args: tuple[object, ...], named: dict[str, object], hidden_IPD: Tensor
) -> Tensor:
    found: Tensor = block(hidden_IPD, *args, **named)
    return found


def pixel_scale(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """What normalises uint8 / 255 in one multiply and one add: scale and shift, each [3, 1, 1]."""
    mean_3, std_3 = torch.tensor(mean), torch.tensor(std)
    return (1 / (255 * std_3))[:, None, None], (-mean_3 / std_3)[:, None, None]


def require_size(picture_I3HW: Tensor, size: tuple[int, int]) -> None:
    """Refuse pictures of another size than the tower's.

    Raises:
        InputError: they have another size.
    """
    if tuple(picture_I3HW.shape[-2:]) != tuple(size):
        raise InputError(
            f"the vision tower takes pictures of {size}, the shards hold "
            f"{tuple(picture_I3HW.shape[-2:])}: choose a tower of that size, or shard again with "
            + options_text(size=size[0])
        )


def load_vision(spec: VisionSpec, *, pools: bool = False) -> VisionEncoder:
    """The vision tower of a spec, in float32; a text tower beside it is never loaded.

    Args:
        spec: which; `pmm.model.encoders.tower_source` says what its name may be.
        pools: whether it is to make one vector of a picture, as its library does (`pooled`). Not
            of open_clip (`load_open_clip_whole`).

    Raises:
        InputError: not found, not readable, no plain ViT, or without weights and seed.
    """
    tower = _tower(spec, tower_source(spec))
    if spec.image_norm == "half":
        tower = dataclasses.replace(tower, mean=(0.5,) * 3, std=(0.5,) * 3)
    return VisionEncoder(tower, top=spec.train_blocks, source=spec.encoder, pools=pools)


def _tower(spec: VisionSpec, source: TowerSource) -> VisionTower:
    match source.library:
        case "open_clip":
            return open_clip_tower(spec, source.folder)
        case "timm":
            return timm_tower(spec, source.architecture, source.folder, source.name)
        case "transformers":
            assert source.folder is not None
            return transformers_tower(spec, source.folder, source.name)


def load_open_clip_whole(
    spec: VisionSpec,
) -> tuple[VisionTransformer, tuple[float, ...], tuple[float, ...]] | None:
    """open_clip's whole tower of a spec, with its head; mean and deviation of its pixels.

    None where the spec's tower is another library's.

    Raises:
        InputError: as of `load_vision`.
    """
    source = tower_source(spec)
    if source.library != "open_clip":
        return None
    tower, mean, std = whole_open_clip_tower(spec, source.folder)
    half = spec.image_norm == "half"
    return (tower, (0.5,) * 3, (0.5,) * 3) if half else (tower, mean, std)
