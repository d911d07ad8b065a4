"""Vision Transformers of Hugging Face's transformers, from a folder.

What differs from family to family stands in one table; all else is found in the library's module.

Shape suffixes: I pictures, P tokens of a picture, D width, F values of a patch.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    ImageProcessingMixin,
    PreTrainedConfig,
)

from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.vision_tower import (
    Embed,
    Pooled,
    VisionTower,
    drop_mask_tokens,
    require_modest_pictures,
    take_blocks,
    take_part,
)
from pmm.shards.hub import NO_CODE, first_line, quiet_libraries, refuse_code, weights_file


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What a family's module does behind its blocks, by the names of its parts."""

    norm: str = "layernorm"
    """Of all tokens, as `last_hidden_state` has it; empty where that is left as it is."""
    pooled_norm: str = ""
    """Of the class token alone."""
    head: str = ""
    """What makes one vector of all tokens."""
    patchified: bool = False
    """Whether it takes patches with the shape of their grid in place of a picture."""


_SIGLIP = _Family(norm="post_layernorm", head="head")
FAMILIES: Mapping[str, _Family] = {
    "beit": _Family(head="pooler"),
    "clip_vision_model": _Family(norm="", pooled_norm="post_layernorm"),
    "deit": _Family(),
    "dinov2": _Family(),
    "dinov2_with_registers": _Family(),
    "dinov3_vit": _Family(norm="norm"),
    "ijepa": _Family(),
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": _Family(norm="post_layernorm", head="head", patchified=True),
    "vit": _Family(),
    "vit_msn": _Family(),
}
"""By the `model_type` of the config, or of its `vision_config`."""

_WITHOUT_CLASS_TOKEN = ("ijepa", "siglip_vision_model", "siglip2_vision_model")
_NOT_OF_THE_OUTPUT = {"transformers_version", "architectures", "torch_dtype", "dtype"}
_NOT_OF_THE_OUTPUT |= {"_name_or_path", "id2label", "label2id"}


def transformers_tower(spec: VisionSpec, folder: Path, name: str) -> VisionTower:
    """The vision tower of a folder with `config.json` of transformers, in float32.

    Of a model with a text tower beside it (CLIP, SigLIP) the vision tower alone is built.

    Args:
        spec: which weights: the folder's, or random ones.
        folder: with config, weights and the picture processor's config.
        name: the encoder's, for messages.

    Raises:
        InputError: the files cannot be used, or it is no vision Transformer.
    """
    with quiet_libraries():
        config, numbers = _config(folder, name)
        family = FAMILIES[config.model_type]
        mean, std, said = _pixels(spec, folder, name)
        patch = _pair(config.patch_size)
        size = said or _own_size(config, patch)
        require_modest_pictures(size, patch, name)
        model = _model(spec, folder, config, name)
    norm = take_part(model, family.norm) if family.norm else None
    blocks, gates = _take_blocks(model, int(config.num_hidden_layers), name)
    drop_mask_tokens(model)
    class_token = config.model_type not in _WITHOUT_CLASS_TOKEN
    return VisionTower(
        stem=model,
        blocks=blocks,
        norm=norm,
        gates=gates,
        embed=_embed(family, config, patch),
        pool=_pool(family, class_token),
        only_pooling=tuple(filter(None, (family.pooled_norm, family.head, "pooler"))),
        width=int(config.hidden_size),
        size=size,
        patch=patch,
        class_token=class_token,
        any_size=True,
        mean=mean,
        std=std,
        about={"family": config.model_type, "config": _digest(numbers)},
    )


def _config(folder: Path, name: str) -> tuple[Any, dict[str, Any]]:
    """The config of the vision tower, and what its file says of it."""
    try:
        read_config(folder / "config.json")
        numbers, _ = PreTrainedConfig.get_config_dict(str(folder), local_files_only=True)
        parts = [numbers, *(each for each in numbers.values() if isinstance(each, dict))]
        for part in parts:
            require_plain_numbers(part, name)
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, **NO_CODE)
    except InputError:
        raise
    except Exception as error:  # a config's values are checked by several libraries
        refuse_code(error, name)
        raise InputError(f"{name}: config.json cannot be used ({first_line(error)})") from error
    vision = getattr(config, "vision_config", config)
    if vision.model_type not in FAMILIES:
        raise InputError(
            f"{name} is of the family {config.model_type!r}, which is no vision Transformer that "
            f"can be cut into trunk and top; these can: {', '.join(FAMILIES)}; and timm's and "
            "open_clip's ViTs"
        )
    return vision, numbers.get("vision_config", numbers)


def _model(spec: VisionSpec, folder: Path, config: Any, name: str) -> Any:
    """The library's module of a config, with its weights or random ones."""
    how: dict[str, Any] = dict(NO_CODE)
    kind = MODEL_MAPPING[type(config)]
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        # That of ViT and DeiT is published untrained; that of BEiT has the norm of what it means.
        how["add_pooling_layer"] = FAMILIES[config.model_type].head == "pooler"
    if spec.random_seed is None and weights_file(folder) is None:
        require_seed(None, name)
    held = bytes_of_weights(folder) if spec.random_seed is None else None
    require_modest_size(lambda: AutoModel.from_config(config, **how), name, held)
    if spec.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed)
            return AutoModel.from_config(config, **how)
    try:
        model, info = AutoModel.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            **how,
        )
    except Exception as error:  # safetensors, pickle and shape faults come in kinds of their own
        raise InputError(f"{name}: the weights cannot be read ({first_line(error)})") from error
    require_all(info["missing_keys"], name)
    return model


def _take_blocks(model: nn.Module, number: int, name: str) -> tuple[list[nn.Module], Any]:
    """Take out the one list of as many blocks as the config says."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            parent, _, last = path.rpartition(".")
            return take_blocks(model.get_submodule(parent), last)
    raise InputError(f"{name} has no list of {number} blocks: it cannot be cut")


def _embed(family: _Family, config: Any, patch: tuple[int, int]) -> Embed:
    own = _own_size(config, patch)

    def embed(stem: nn.Module, pixel_I3HW: Tensor) -> Tensor:
        if family.patchified:
            return _hidden(stem, **_patches(pixel_I3HW, patch))
        size = (pixel_I3HW.shape[2], pixel_I3HW.shape[3])
        more = {}
        if size != own and "interpolate_pos_encoding" in inspect.signature(stem.forward).parameters:
            more["interpolate_pos_encoding"] = True
        return _hidden(stem, pixel_values=pixel_I3HW, **more)

    return embed


def _hidden(stem: nn.Module, **inputs: Any) -> Tensor:
    hidden_IPD: Tensor = stem(**inputs).last_hidden_state
    return hidden_IPD


def _patches(pixel_I3HW: Tensor, patch: tuple[int, int]) -> dict[str, Tensor]:
    """Pictures as SigLIP 2 for any shape takes them: rows of pixels, colours innermost."""
    count, colours, height, width = pixel_I3HW.shape
    rows, columns = height // patch[0], width // patch[1]
    whole = pixel_I3HW[..., : rows * patch[0], : columns * patch[1]]
    cut = whole.reshape(count, colours, rows, patch[0], columns, patch[1])
    patch_IPF = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    shape_I2 = torch.tensor([[rows, columns]], device=pixel_I3HW.device).expand(count, 2)
    mask_IP = torch.ones(patch_IPF.shape[:2], dtype=torch.int64, device=pixel_I3HW.device)
    return {
        "pixel_values": patch_IPF,
        "pixel_attention_mask": mask_IP,
        "spatial_shapes": shape_I2,
    }


def _pool(family: _Family, class_token: bool) -> Pooled:
    def pool(stem: nn.Module, hidden_IPD: Tensor) -> Tensor:
        if family.head and getattr(stem, family.head, None) is not None:
            of_all_ID: Tensor = stem.get_submodule(family.head)(hidden_IPD)
            return of_all_ID
        if not class_token:
            return hidden_IPD.mean(1)
        first_ID = hidden_IPD[:, 0]
        if family.pooled_norm:
            normed_ID: Tensor = stem.get_submodule(family.pooled_norm)(first_ID)
            return normed_ID
        return first_ID

    return pool


def _pixels(
    spec: VisionSpec, folder: Path, name: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int] | None]:
    """Mean, deviation and size that the picture processor's config says.

    Raises:
        InputError: there is none, and the spec does not say how pixels are normalised.
    """
    files = ("preprocessor_config.json", "processor_config.json")
    found: dict[str, Any] = {}
    try:
        if any((folder / each).is_file() for each in files):
            for each in files:
                if (folder / each).is_file():
                    read_config(folder / each)
            found, _ = ImageProcessingMixin.get_image_processor_dict(
                str(folder), local_files_only=True
            )
        size = _said_size(found)
        plain = found.get("do_normalize") is False
        mean, std = found.get("image_mean"), found.get("image_std")
        if plain or (mean is None and spec.image_norm == "half"):
            mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else ((0.5,) * 3, (0.5,) * 3)
        if mean is None or std is None:
            raise InputError(
                f"{name}: no {files[0]} that says image_mean and image_std, by which the pixels "
                'are normalised. Put it there, or set image_norm = "half" for 0.5 and 0.5'
            )
        return _three(mean), _three(std), size
    except InputError:
        raise
    except Exception as error:  # whatever stands in the file
        raise InputError(f"{name}: {files[0]} cannot be used ({first_line(error)})") from error


def _three(values: Any) -> tuple[float, ...]:
    numbers = [float(each) for each in (values if isinstance(values, list | tuple) else [values])]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(math.isfinite(each) for each in numbers):
        raise ValueError(f"{values!r} is no mean or deviation of three colours")
    return tuple(numbers)


def _said_size(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size of the pictures that reach the tower, where the processor's config says it."""
    cropped = found.get("crop_size") is not None and found.get("do_center_crop", True)
    said = found.get("crop_size") if cropped else found.get("size")
    if isinstance(said, int):
        return said, said
    if isinstance(said, Mapping):
        if "height" in said and "width" in said:
            return said["height"], said["width"]
        side = said.get("shortest_edge")
        return (side, side) if side is not None else None
    if found.get("max_num_patches") is not None:
        side = math.isqrt(int(found["max_num_patches"])) * int(found.get("patch_size", 16))
        return side, side
    return None


def _own_size(config: Any, patch: tuple[int, int]) -> tuple[int, int]:
    """The size of pictures that the stored positions are for."""
    if getattr(config, "image_size", None) is not None:
        return _pair(config.image_size)
    side = math.isqrt(int(config.num_patches))
    return side * patch[0], side * patch[1]


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)


def _digest(numbers: Mapping[str, Any]) -> str:
    """Of what a config says of the output: the same weights with another GELU give another one."""
    said = {name: each for name, each in numbers.items() if name not in _NOT_OF_THE_OUTPUT}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
