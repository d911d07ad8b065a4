"""Vision towers of open_clip: finding and loading one, and running it (paper Eq. 2).

Shape suffixes: I items, P picture tokens (1 class token + patches), D the encoder's width, H = W
the picture's side.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from open_clip.factory import load_state_dict
from open_clip.model import _build_vision_tower
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError, nearest
from pmm.model.encoders.cut_encoder import CutEncoder, require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.specs import TrainBlocks, VisionSpec
from pmm.shards.hub import (
    cached_or_downloaded,
    first_line,
    local_folder,
    quiet_libraries,
    weights_file,
)

TRUNK_PICTURES = 128
"""Pictures that a trunk takes at a time: as floats, 1,000 of them fill 600 MB."""


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), as OpenAI's weights need it: one pass each way, the input overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        """The same as open_clip's, up to rounding; what is passed must not be used again."""
        return functional.silu(x.mul_(1.702)).mul_(1 / 1.702)


class VisionEncoder(CutEncoder):
    """An open_clip vision tower up to the residual stream of its last block (paper Eq. 2).

    The final norm is not applied (docs/paper.md R11).
    """

    shift_311: Tensor
    scale_311: Tensor

    def __init__(
        self,
        tower: VisionTransformer,
        *,
        top: TrainBlocks,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        source: str = "",
    ) -> None:
        blocks = tower.transformer.resblocks
        for block in blocks:
            if isinstance(block.mlp.gelu, QuickGELU):
                block.mlp.gelu = QuickGelu()
        width = int(tower.conv1.out_channels)
        tower.transformer, tower.ln_post, tower.proj = nn.Identity(), nn.Identity(), None
        tower.attn_pool = tower.attn_pool_contrastive = None
        super().__init__(tower, blocks, width=width, top=top, source=source)
        self.picture_size: tuple[int, int] = tower.image_size
        self.tokens = 1 + tower.grid_size[0] * tower.grid_size[1]
        scale_311, shift_311 = pixel_scale(mean, std)
        self.register_buffer("scale_311", scale_311, persistent=False)
        self.register_buffer("shift_311", shift_311, persistent=False)

    def normalise(self, picture_I3HW: Tensor) -> Tensor:
        """uint8 0..255 to float32 with the mean and deviation of the spec."""
        return (picture_I3HW * self.scale_311).add_(self.shift_311)

    def trunk(self, picture_I3HW: Tensor) -> Tensor:
        """Hidden states [I, P, D] at the cut, without gradient unless the stem trains.

        Args:
            picture_I3HW: uint8 RGB of the tower's own size.

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
        hidden_IPD: Tensor = self.stem._embeds(self.normalise(picture_I3HW))  # type: ignore[operator]
        for block in self.blocks[: self.cut]:
            hidden_IPD = block(hidden_IPD)
        return hidden_IPD

    def top(self, hidden_IPD: Tensor) -> Tensor:
        """Hidden states [I, P, D] of the last block; token 0 is the class token."""
        return self.through_top(hidden_IPD)

    def forward(self, picture_I3HW: Tensor) -> Tensor:
        """Trunk and top."""
        return self.top(self.trunk(picture_I3HW))


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
            f"{tuple(picture_I3HW.shape[-2:])}: choose a tower of that size, or shard again"
        )


def load_vision(spec: VisionSpec) -> VisionEncoder:
    """The vision tower of a spec, in float32; the text tower beside it is never built.

    Raises:
        InputError: not found, not readable, no plain ViT, or without weights and seed.
    """
    tower, mean, std = load_tower(spec)
    return VisionEncoder(tower, top=spec.train_blocks, mean=mean, std=std, source=spec.encoder)


def load_tower(
    spec: VisionSpec,
) -> tuple[VisionTransformer, tuple[float, ...], tuple[float, ...]]:
    """open_clip's whole tower of a spec, with its head; mean and deviation of its pixels.

    Raises:
        InputError: as of `load_vision`.
    """
    plan = vision_plan(spec)
    held = bytes_of_weights(plan.weights.parent) if plan.weights else None
    require_modest_size(plan.build, plan.name, held if spec.random_seed is None else None)
    if spec.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed)
            tower = plan.build()
    else:
        weights = _fetch(plan)
        tower = plan.build()
        _load_tower(tower, weights, plan.name)
    half = spec.image_norm == "half"
    mean, std = ((0.5,) * 3, (0.5,) * 3) if half else (plan.mean, plan.std)
    return tower, mean, std


@dataclass(frozen=True, kw_only=True)
class VisionPlan:
    """What is to be built and loaded for a VisionSpec, before anything is."""

    name: str
    config: dict[str, Any]
    quick_gelu: bool
    """OpenAI's weights need the sigmoid form of GELU; the tag decides where there is one."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Path | None
    """A file of a local folder."""
    tag: dict[str, Any] | None
    """open_clip's record of published weights."""

    def build(self) -> VisionTransformer:
        """The tower with random weights from torch's generator."""
        return _build_vision_tower(
            self.config["embed_dim"], self.config["vision_cfg"], quick_gelu=self.quick_gelu
        )


def vision_plan(spec: VisionSpec) -> VisionPlan:
    """Read the config that a spec names, without loading weights.

    >>> vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="openai")).quick_gelu
    True
    >>> vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="laion2b_s34b_b79k")).quick_gelu
    False
    """
    folder = local_folder(spec.encoder.removeprefix("local-dir:"), "--vision-encoder")
    plan = _named_plan(spec) if folder is None else _folder_plan(spec, folder)
    tower = plan.config["vision_cfg"]
    require_plain_numbers(tower if isinstance(tower.get("layers"), int) else {}, plan.name)
    if "timm_model_name" in tower or not isinstance(tower.get("layers"), int):
        raise InputError(
            f"{plan.name} is no plain vision Transformer; choose one of open_clip's ViT models"
        )
    return plan


def _folder_plan(spec: VisionSpec, folder: Path) -> VisionPlan:
    name, path = f"vision tower {folder}", folder / "open_clip_config.json"
    if not path.is_file():
        raise InputError(f"{name}: no open_clip_config.json in this folder")
    try:
        read = json.loads(read_config(path))
        config, pixels = read["model_cfg"], read.get("preprocess_cfg", {})
        config["embed_dim"], config["vision_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: open_clip_config.json cannot be used ({error!r})") from error
    weights = weights_file(folder)
    if weights is None:
        require_seed(spec.random_seed, name)
    return VisionPlan(
        name=name,
        config=config,
        quick_gelu=bool(config.get("quick_gelu", False)),
        mean=tuple(pixels.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(pixels.get("std", open_clip.OPENAI_DATASET_STD)),
        weights=weights,
        tag=None,
    )


def _named_plan(spec: VisionSpec) -> VisionPlan:
    config = open_clip.get_model_config(spec.encoder)
    if config is None:
        known = nearest(spec.encoder, open_clip.list_models())
        raise InputError(
            f"vision tower {spec.encoder!r} is neither a folder nor a model of open_clip ({known})"
        )
    tag = open_clip.get_pretrained_cfg(spec.encoder, spec.pretrained)
    if not tag:
        known = nearest(spec.pretrained, open_clip.list_pretrained_tags_by_model(spec.encoder))
        raise InputError(f"{spec.encoder} has no weights called {spec.pretrained!r} ({known})")
    return VisionPlan(
        name=f"{spec.encoder} ({spec.pretrained})",
        config=config,
        quick_gelu=bool(tag.get("quick_gelu", False)),
        mean=tuple(tag["mean"]),
        std=tuple(tag["std"]),
        weights=None,
        tag=tag,
    )


def _fetch(plan: VisionPlan) -> Path:
    """The file with the weights of a plan: the folder's, the cache's, or downloaded."""
    if plan.weights is not None:
        return plan.weights
    tag = plan.tag or {}
    repository = str(tag.get("hf_hub", "")).rstrip("/")

    def load(local: bool) -> Path:
        if local:
            name = "open_clip_model.safetensors"
            return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=True))
        return Path(open_clip.download_pretrained(tag))

    with quiet_libraries():
        return cached_or_downloaded(repository, load, name=plan.name, option="--vision-encoder")


def _load_tower(tower: VisionTransformer, path: Path, name: str) -> None:
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # safetensors, pickle and zip readers raise kinds of their own
        raise InputError(f"{name}: {path.name} cannot be read ({first_line(error)})") from error
    prefix = "visual."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        found = tower.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{name}: weights do not fit its config ({error})") from error
    require_all(found.missing_keys, name)
