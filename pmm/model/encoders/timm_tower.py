"""Vision Transformers of timm, by name or from a folder in the format of its hub models.

Shape suffixes: I pictures, P tokens of a picture, D width.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from pmm.errors import InputError, nearest
from pmm.model.encoders.cut_encoder import require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.vision_tower import (
    VisionTower,
    drop_mask_tokens,
    require_modest_pictures,
    take_blocks,
    take_part,
)
from pmm.shards.hub import first_line, weights_file


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be built, before anything is."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    """timm's `pretrained_cfg`: how pixels are normalised, and which size they have."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    any_size: bool = True

    def build(self) -> Any:
        """The module with random weights from torch's generator."""
        how = {"num_classes": 0, **self.arguments}
        how |= {"dynamic_img_size": True} if self.any_size else {}
        return timm.create_model(
            self.architecture, pretrained=False, pretrained_cfg=dict(self.config), **how
        )


def timm_tower(spec: VisionSpec, architecture: str, folder: Path | None, name: str) -> VisionTower:
    """A tower of timm, in float32.

    Args:
        spec: which weights: the folder's, or random ones.
        architecture: timm's name of the model; empty where the folder's config says it.
        folder: with `config.json` and weights as timm saves them; None: random weights.
        name: the encoder's, for messages.

    Raises:
        InputError: no such model, not readable, or no vision Transformer.
    """
    plan = _folder_plan(folder, name) if folder is not None else _named_plan(architecture, name)
    plan = _checked(plan)
    weights = None if folder is None else weights_file(folder)
    if weights is None:
        require_seed(spec.random_seed, name)
    drawn = spec.random_seed is not None
    held = None if drawn or folder is None else bytes_of_weights(folder)
    require_modest_size(plan.build, name, held)
    if drawn:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(spec.random_seed or 0))
            model = plan.build()
    else:
        assert weights is not None
        model = plan.build()
        _load(model, weights, name)
    return _taken_apart(model, plan)


def _folder_plan(folder: Path, name: str) -> _Plan:
    try:
        read = json.loads(read_config(folder / "config.json"))
        arguments = dict(read.get("model_args") or {})
        config = dict(read.get("pretrained_cfg") or {})
        architecture = str(read["architecture"])
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: config.json cannot be used ({first_line(error)})") from error
    require_plain_numbers({"layers": arguments.get("depth")}, name)
    _require_known(architecture, name)
    # The weights are read by us, whatever place the config names.
    places = ("url", "file", "hf_hub_id", "state_dict", "source", "custom_load")
    config = {key: value for key, value in config.items() if key not in places}
    forbidden = ("pretrained", "checkpoint_path", "cache_dir", "features_only", "num_classes")
    arguments = {key: value for key, value in arguments.items() if key not in forbidden}
    return _Plan(name=name, architecture=architecture, config=config, arguments=arguments)


def _named_plan(architecture: str, name: str) -> _Plan:
    _require_known(architecture, name)
    config = timm.get_pretrained_cfg(architecture)
    return _Plan(
        name=name,
        architecture=architecture.partition(".")[0],
        config=config.to_dict() if config is not None else {},
    )


def _require_known(architecture: str, name: str) -> None:
    if not timm.is_model(architecture.partition(".")[0]):
        known = nearest(architecture.partition(".")[0], timm.list_models())
        raise InputError(f"{name}: timm has no model {architecture!r} ({known})")


def repository_of(architecture: str, name: str) -> str:
    """Where the model hub keeps the weights of one of timm's models.

    Raises:
        InputError: timm has no such model, it is no vision Transformer, or its weights are not
            there.
    """
    _checked(_named_plan(architecture, name))
    config = timm.get_pretrained_cfg(architecture)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        model, _, tag = architecture.partition(".")
        known = ", ".join(each for each in timm.list_pretrained(f"{model}.*") if each != tag)
        raise InputError(
            f"{name}: the model hub has no weights of {architecture!r} "
            f"({known or 'none of this model'}). Give a folder with config.json and weights"
        )
    return str(repository)


def _checked(plan: _Plan) -> _Plan:
    """The plan, as of a tower for one size where the library has no other; nothing is allocated.

    Raises:
        InputError: it makes no vision Transformer.
    """
    one_size = dataclasses.replace(plan, any_size=False)
    for each in (plan, one_size):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model = each.build()
        except Exception as error:  # sizes that fit one another nowhere fail anywhere
            if each is one_size or not isinstance(error, TypeError):
                said = f"its config makes no encoder ({first_line(error)})"
                raise InputError(f"{plan.name}: {said}") from error
        else:
            _require_vit(model, each)
            return each
    return plan


def _require_vit(model: Any, plan: _Plan) -> None:
    """Refuse what is no list of alike blocks over tokens.

    Raises:
        InputError: it is another kind of network.
    """
    blocks = getattr(model, "blocks", None)
    is_list = isinstance(blocks, nn.ModuleList | nn.Sequential) and len(blocks) > 0
    alike = is_list and len({type(each) for each in blocks or ()}) == 1
    parts = ("num_prefix_tokens", "norm", "patch_embed", "forward_head")
    if not alike or not all(hasattr(model, each) for each in parts):
        raise InputError(
            f"{plan.name}: timm's {plan.architecture} is no plain vision Transformer, so it cannot "
            'be cut into trunk and top. Choose one of its ViTs, as "timm:vit_small_patch16_224"'
        )
    data, patch = resolve_model_data_config(model), model.patch_embed.patch_size
    require_modest_pictures(tuple(data["input_size"][1:]), tuple(patch), plan.name)


def _load(model: nn.Module, weights: Path, name: str) -> None:
    try:
        state = load_state_dict(str(weights), weights_only=True)
    except Exception as error:  # safetensors, pickle and zip readers raise kinds of their own
        raise InputError(f"{name}: {weights.name} cannot be read ({first_line(error)})") from error
    try:
        found = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{name}: weights do not fit its config ({error})") from error
    require_all(found.missing_keys, name)


def _taken_apart(model: Any, plan: _Plan) -> VisionTower:
    data = resolve_model_data_config(model)
    norm = take_part(model, "norm")
    blocks, gates = take_blocks(model, "blocks")
    drop_mask_tokens(model)
    said = json.dumps([plan.architecture, dict(plan.arguments)], sort_keys=True, default=str)
    return VisionTower(
        stem=model,
        blocks=blocks,
        norm=norm,
        gates=gates,
        embed=_embed,
        pool=_pool,
        only_pooling=("attn_pool", "fc_norm", "head_drop", "head", "head_dist"),
        width=int(model.num_features),
        size=tuple(data["input_size"][1:] if plan.any_size else model.patch_embed.img_size),
        patch=tuple(model.patch_embed.patch_size),
        class_token=getattr(model, "cls_token", None) is not None,
        any_size=plan.any_size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        about={"family": "timm", "config": hashlib.sha256(said.encode()).hexdigest()},
    )


def _embed(stem: nn.Module, pixel_I3HW: Tensor) -> Tensor:
    hidden_IPD: Tensor = stem.forward_features(pixel_I3HW)  # type: ignore[operator]
    return hidden_IPD


def _pool(stem: nn.Module, hidden_IPD: Tensor) -> Tensor:
    vector_ID: Tensor = stem.forward_head(hidden_IPD, pre_logits=True)  # type: ignore[operator]
    return vector_ID
