"""Pre-trained text and picture encoders, cut into a frozen trunk and a trainable top.

The trunk (embeddings and the lower blocks) never trains and is always in eval mode, so its output
at the cut is a constant of the item (docs/paper.md R10, R12). Blocks keep their numbers: a tensor
is called `blocks.10. ...` wherever the cut stands. What no gradient would ever reach (poolers, the
final norm of a vision tower, its output projection) is not kept.

Shape suffixes: I items, T text tokens, P picture tokens (1 class token + patches), D the
encoder's width, H = W the picture's side.
"""

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from open_clip.factory import load_state_dict
from open_clip.model import _build_vision_tower
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pmm.errors import InputError, nearest
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TextSpec, TrainBlocks, VisionSpec
from pmm.shards.hub import (
    cached_or_downloaded,
    first_line,
    local_folder,
    quiet_libraries,
    weights_file,
)

TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
TRUNK_PICTURES = 128
"""Pictures that a trunk takes at a time: as floats, 1,000 of them fill 600 MB."""


def attend(
    module: nn.Module,
    query_IHKE: Tensor,
    key_IHKE: Tensor,
    value_IHKE: Tensor,
    attention_mask: Tensor | Packing,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """The library's attention; of packed tokens (one row, a `Packing` as its mask) ours."""
    parts = (query_IHKE, key_IHKE, value_IHKE)
    if isinstance(attention_mask, Packing):
        packed = (each[0].transpose(0, 1) for each in parts)
        return attention_mask.attend(*packed, dropout=dropout)[None], None
    attended, _ = sdpa_attention_forward(module, *parts, attention_mask, dropout=dropout, **more)
    return attended, None


ATTENTION = "pmm_packed"
AttentionInterface.register(ATTENTION, attend)


class CutEncoder(nn.Module):
    """A stem (embeddings) and numbered blocks; blocks before `cut` and the stem are frozen.

    With `top="all"` everything trains, the stem too, and there is no constant to store.
    """

    recompute = False
    """Keep no activations of the trained blocks for the backward pass, compute them again."""

    def __init__(
        self, stem: nn.Module, blocks: Iterable[nn.Module], *, width: int, top: TrainBlocks
    ) -> None:
        super().__init__()
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
        """Let go of the frozen weights, where only `top` is asked for from now on."""
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


def called(module: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """The output of a module; with `recompute` nothing inside is kept for the backward pass.

    It then runs once more in the backward pass, with the same dropout.
    """
    if recompute and torch.is_grad_enabled():
        output: Tensor = checkpoint(module, *inputs, use_reentrant=False)
    else:
        output = module(*inputs)
    return output


class TextEncoder(CutEncoder):
    """A BERT-type encoder without its pooler (paper Eq. 1)."""

    def trunk(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Hidden states [I, T, D] at the cut, without gradient unless the stem trains.

        Args:
            token_IT: int64, right-padded with the tokenizer's padding id.
            mask_IT: bool, True at real tokens; at least one in each row.
        """
        with self._gradients():
            hidden_ITD: Tensor = self.stem(input_ids=token_IT)
            for block in self.blocks[: self.cut]:
                hidden_ITD = block(hidden_ITD, mask_IT[:, None, None, :])
            return hidden_ITD

    def packed_trunk(self, token_IT: Tensor, mask_IT: Tensor, packing: Packing) -> Tensor:
        """The same as packed tokens [N, D]; no item is padded to one of another group.

        Args:
            token_IT, mask_IT: as of `trunk`, but rows without any real token are allowed.
            packing: of the real tokens.
        """
        found = [torch.zeros(0, self.width, device=token_IT.device)]
        for items in packing.groups():
            lengths = packing.lengths[items]
            kept = torch.from_numpy(np.flatnonzero(lengths)).to(token_IT.device)
            if len(kept):
                token_iK = token_IT[items][kept, : lengths.max()]
                mask_iK = mask_IT[items][kept, : lengths.max()]
                found.append(self.trunk(token_iK, mask_iK)[mask_iK])
        return torch.cat(found)

    def top(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """Packed hidden states [N, D] of the last block."""
        if not len(packing):
            return hidden_ND
        return self.through_top(hidden_ND[None], packing)[0]

    def forward(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Trunk and top: the library's `last_hidden_state` [I, T, D], zeros at padding."""
        packing = Packing.of_mask(mask_IT)
        padded_IKD = packing.spread(self.top(packing.pack(self.trunk(token_IT, mask_IT)), packing))
        return functional.pad(padded_IKD, (0, 0, 0, mask_IT.shape[1] - padded_IKD.shape[1]))


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
    ) -> None:
        blocks = tower.transformer.resblocks
        for block in blocks:
            if isinstance(block.mlp.gelu, QuickGELU):
                block.mlp.gelu = QuickGelu()
        width = int(tower.conv1.out_channels)
        tower.transformer, tower.ln_post, tower.proj = nn.Identity(), nn.Identity(), None
        tower.attn_pool = tower.attn_pool_contrastive = None
        super().__init__(tower, blocks, width=width, top=top)
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


def load_text(spec: TextSpec) -> TextEncoder:
    """The text encoder of a spec, in float32.

    Raises:
        InputError: not found, not readable, not of a known family, or without weights and seed.
    """
    name, folder = spec.encoder, local_folder(spec.encoder)
    with quiet_libraries():
        if folder is None:
            model = cached_or_downloaded(name, lambda local: _bert(spec, name, local), name=name)
        else:
            model = _bert_of_folder(spec, folder)
    width, top = int(model.config.hidden_size), spec.train_blocks
    return TextEncoder(model.embeddings, model.encoder.layer, width=width, top=top)


def _bert_of_folder(spec: TextSpec, folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise InputError(f"text encoder {folder}: no config.json in this folder")
    if weights_file(folder) is None:
        _require_seed(spec.random_seed, f"text encoder {folder}")
    try:
        return _bert(spec, str(folder), True)
    except OSError as error:
        raise InputError(f"text encoder {folder} cannot be read ({first_line(error)})") from error


def _bert(spec: TextSpec, source: str, local: bool) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    except ValueError as error:
        raise InputError(f"text encoder {source}: config.json cannot be used ({error})") from error
    if config.model_type not in TEXT_FAMILIES:
        raise InputError(
            f"text encoder {source} is of the family {config.model_type!r}; "
            f"encoders of these can be cut into trunk and top: {', '.join(TEXT_FAMILIES)}"
        )
    how = {"attn_implementation": ATTENTION, "add_pooling_layer": False}
    if spec.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed)
            return AutoModel.from_config(config, **how)
    try:
        model, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, local_files_only=local, output_loading_info=True, **how
        )
    except OSError:
        raise
    except Exception as error:  # safetensors, pickle and shape faults come in kinds of their own
        raise InputError(
            f"text encoder {source}: the weights cannot be read ({first_line(error)})"
        ) from error
    _require_all(info["missing_keys"], f"text encoder {source}")
    return model


def load_vision(spec: VisionSpec) -> VisionEncoder:
    """The vision tower of a spec, in float32; the text tower beside it is never built.

    Raises:
        InputError: not found, not readable, no plain ViT, or without weights and seed.
    """
    tower, mean, std = load_tower(spec)
    return VisionEncoder(tower, top=spec.train_blocks, mean=mean, std=std)


def load_tower(
    spec: VisionSpec,
) -> tuple[VisionTransformer, tuple[float, ...], tuple[float, ...]]:
    """open_clip's whole tower of a spec, with its head; mean and deviation of its pixels.

    Raises:
        InputError: as of `load_vision`.
    """
    plan = vision_plan(spec)
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
    folder = local_folder(spec.encoder.removeprefix("local-dir:"))
    plan = _named_plan(spec) if folder is None else _folder_plan(spec, folder)
    tower = plan.config["vision_cfg"]
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
        read = json.loads(path.read_text(encoding="utf-8"))
        config, pixels = read["model_cfg"], read.get("preprocess_cfg", {})
        config["embed_dim"], config["vision_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: open_clip_config.json cannot be used ({error!r})") from error
    weights = weights_file(folder)
    if weights is None:
        _require_seed(spec.random_seed, name)
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
        return cached_or_downloaded(repository, load, name=plan.name)


def _load_tower(tower: VisionTransformer, path: Path, name: str) -> None:
    try:
        state = load_state_dict(str(path))
    except Exception as error:  # safetensors, pickle and zip readers raise kinds of their own
        raise InputError(f"{name}: {path.name} cannot be read ({first_line(error)})") from error
    prefix = "visual."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        found = tower.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{name}: weights do not fit its config ({error})") from error
    _require_all(found.missing_keys, name)


def _require_seed(seed: int | None, name: str) -> None:
    if seed is None:
        raise InputError(
            f"{name}: there are no weights in this folder; put them there, "
            "or set random_seed to start from random ones"
        )


def _require_all(missing: Iterable[str], name: str) -> None:
    lacking = sorted(missing)
    if lacking:
        shown = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
        raise InputError(f"{name}: the weights lack {len(lacking)} tensors of its config ({shown})")
