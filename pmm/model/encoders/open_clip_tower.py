"""Vision towers of open_clip: finding and loading one.

Shape suffixes: I items, P picture tokens (1 class token + patches), D the encoder's width, H = W
the picture's side.
"""

import inspect
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import timm
import torch
from open_clip.factory import load_state_dict
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError, nearest
from pmm.model.encoders.cut_encoder import require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.vision_tower import VisionTower
from pmm.shards.hub import cached_or_downloaded, first_line, quiet_libraries, weights_file

CONFIG = "open_clip_config.json"
"""What a folder in open_clip's local-dir format holds."""


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), as OpenAI's weights need it: one pass each way, the input overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        """The same as open_clip's, up to rounding; what is passed must not be used again."""
        return functional.silu(x.mul_(1.702)).mul_(1 / 1.702)


def open_clip_tower(spec: VisionSpec, folder: Path | None) -> VisionTower:
    """open_clip's tower of a spec up to the residual stream of its last block (paper Eq. 2).

    The final norm is not applied (docs/paper.md R11).

    Raises:
        InputError: as of `whole_open_clip_tower`.
    """
    tower, mean, std = whole_open_clip_tower(spec, folder)
    blocks = tower.transformer.resblocks
    for block in blocks:
        if isinstance(block.mlp.gelu, QuickGELU):
            block.mlp.gelu = QuickGelu()
    width = int(tower.conv1.out_channels)
    # What is left gives what the first block reads.
    tower.transformer, tower.ln_post, tower.proj = nn.Identity(), nn.Identity(), None
    tower.attn_pool = tower.attn_pool_contrastive = None
    tower.pool_type, tower.output_tokens = "none", False
    return VisionTower(
        stem=tower,
        blocks=list(blocks),
        embed=_embed,
        pool=_first,
        width=width,
        size=tower.image_size,
        patch=tower.patch_size,
        class_token=True,
        any_size=False,
        mean=mean,
        std=std,
    )


def _embed(stem: nn.Module, pixel_I3HW: Tensor) -> Tensor:
    hidden_IPD: Tensor = stem(pixel_I3HW)
    return hidden_IPD


def _first(_stem: nn.Module, hidden_IPD: Tensor) -> Tensor:
    return hidden_IPD[:, 0]


def whole_open_clip_tower(
    spec: VisionSpec, folder: Path | None
) -> tuple[VisionTransformer, tuple[float, ...], tuple[float, ...]]:
    """open_clip's whole tower of a spec, with its head; mean and deviation of its pixels.

    Args:
        spec: a name, or what was found to be a folder.
        folder: in open_clip's local-dir format; None: the spec says a name.

    Raises:
        InputError: not found, not readable, no plain ViT, or without weights and seed.
    """
    plan = vision_plan(spec, folder)
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
    return tower, plan.mean, plan.std


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
        # The module itself, as building a whole CLIP would draw the weights of its text tower too.
        config = open_clip.CLIPVisionCfg(**self.config["vision_cfg"])
        known = inspect.signature(VisionTransformer).parameters
        alike = {name: value for name, value in vars(config).items() if name in known}
        return VisionTransformer(
            heads=config.width // config.head_width,
            output_dim=self.config["embed_dim"],
            act_layer=partial(
                QuickGELU if self.quick_gelu else nn.GELU, **(config.act_kwargs or {})
            ),
            norm_layer=partial(LayerNorm, **(config.norm_kwargs or {})),
            **alike,
        )


def vision_plan(spec: VisionSpec, folder: Path | None = None) -> VisionPlan:
    """Read the config that a spec names, or that of a folder, without loading weights.

    >>> vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="openai")).quick_gelu
    True
    >>> vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="laion2b_s34b_b79k")).quick_gelu
    False
    """
    plan = _named_plan(spec) if folder is None else _folder_plan(spec, folder)
    tower = plan.config["vision_cfg"]
    require_plain_numbers(tower if isinstance(tower.get("layers"), int) else {}, plan.name)
    if "timm_model_name" in tower or not isinstance(tower.get("layers"), int):
        raise InputError(
            f"{plan.name} is no plain vision Transformer; choose one of open_clip's ViT models"
        )
    return plan


def _folder_plan(spec: VisionSpec, folder: Path) -> VisionPlan:
    name, path = f"vision tower {folder}", folder / CONFIG
    try:
        read = json.loads(read_config(path))
        config, pixels = read["model_cfg"], read.get("preprocess_cfg", {})
        config["embed_dim"], config["vision_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: {CONFIG} cannot be used ({error!r})") from error
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
        if timm.is_model(spec.encoder.partition(".")[0]):
            known = f'did you mean "timm:{spec.encoder}"?'
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
