"""The configs of encoders, as their libraries read them: by these they are built anew.

No weights are written here, and nothing that would be run: `auto_map`, which names code, is left
out. All is computed in float32, whatever the config says.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from transformers import PreTrainedConfig

from pmm.bundle.layout import encoder_folder
from pmm.model.encoders.encoder_sizes import read_config
from pmm.model.encoders.open_clip_tower import CONFIG as OPEN_CLIP
from pmm.model.encoders.open_clip_tower import vision_plan
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.tower_source import tower_source
from pmm.model.text_encoders.text_pooling import FIRST, LAST, MEAN
from pmm.shards.kinds import Side
from pmm.storage.artefact import write_json

_POOLING = {MEAN: "mean", FIRST: "cls", LAST: "lasttoken"}
_DROPPED = ("dtype", "torch_dtype", "auto_map", "_name_or_path", "_commit_hash")


def write_text_config(draft: Path, spec: TextSpec, pooling: str = "") -> None:
    """Write the config of a text encoder.

    Args:
        draft: of the bundle.
        spec: whose.
        pooling: of its tokens, one of `POOLINGS`, where it makes one vector of a text.
    """
    folder = draft / encoder_folder("text")
    folder.mkdir(parents=True, exist_ok=True)
    found, _ = PreTrainedConfig.get_config_dict(spec.encoder, local_files_only=True)
    write_json(folder / "config.json", _plain(found))
    if pooling:
        write_json(folder / "modules.json", [{"path": "pooling", "type": "sentence.Pooling"}])
        (folder / "pooling").mkdir()
        write_json(folder / "pooling" / "config.json", {"pooling_mode": _POOLING[pooling]})


def write_vision_config(draft: Path, spec: VisionSpec) -> None:
    """Write the config of a vision tower, with how its pixels are normalised.

    Raises:
        InputError: it is not there.
    """
    folder = draft / encoder_folder("vision")
    folder.mkdir(parents=True, exist_ok=True)
    source = tower_source(spec)
    if source.library == "open_clip":
        plan = vision_plan(spec, source.folder)
        pixels = {"mean": list(plan.mean), "std": list(plan.std)}
        config = {**plan.config, "quick_gelu": plan.quick_gelu}
        write_json(folder / OPEN_CLIP, {"model_cfg": config, "preprocess_cfg": pixels})
    elif source.folder is not None:
        for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
            if (source.folder / name).is_file():
                read = json.loads(read_config(source.folder / name))
                write_json(folder / name, _plain(read))
    else:
        known = timm.get_pretrained_cfg(source.architecture)
        config = known.to_dict() if known is not None else {}
        told = {"architecture": source.architecture, "pretrained_cfg": _plain(config)}
        write_json(folder / "config.json", told)


def spec_in(place: Path, side: Side, spec: Any) -> Any:
    """The spec of an encoder that is built of a bundle's config; its weights are put in later."""
    # Random weights are what is built where no library is to look for weights.
    return replace(spec, encoder=str(place / encoder_folder(side)), random_seed=0)


def without_places(spec: Any) -> Any:
    """A spec as the bundle's recipe says it: no path of the machine that it was trained on."""
    name = spec.encoder
    if Path(name.removeprefix("local-dir:")).is_absolute() or Path(name).exists():
        name = Path(name).name
    return replace(spec, encoder=name)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if name not in _DROPPED}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
