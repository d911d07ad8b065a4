"""Which library reads a vision tower, found from its name and files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmm.errors import InputError
from pmm.model.encoders.encoder_sizes import read_config
from pmm.model.encoders.open_clip_tower import CONFIG as OPEN_CLIP
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.timm_tower import repository_of
from pmm.shards.hub import first_line, hub_folder, local_folder

Library = Literal["open_clip", "transformers", "timm"]

_WEIGHTS: dict[Library, tuple[str, ...]] = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "transformers": ("model*.safetensors*", "pytorch_model*.bin*"),
    "timm": ("model.safetensors", "pytorch_model.bin"),
}
"""Patterns of files on the hub, the better ones first."""


@dataclass(frozen=True, kw_only=True)
class TowerSource:
    """Where a vision tower comes from."""

    library: Library
    folder: Path | None
    """A local folder, or the local copy of a repository; None: the library finds it by name."""
    name: str
    """For messages."""
    architecture: str = ""
    """timm's name of the model."""


def tower_source(spec: VisionSpec) -> TowerSource:
    """The source of a spec's tower; of one on the model hub the files are fetched.

    - a folder: `open_clip_config.json` is open_clip's, `config.json` with "model_type" is
      transformers', with "architecture" timm's;
    - "timm:NAME": one of timm's models by its name, with weights from the hub;
    - "OWNER/NAME", also with "hf-hub:" in front: a repository of the hub, told apart as a folder;
    - any other name: open_clip's.

    Raises:
        InputError: it leads nowhere, or the files are of no library.
    """
    encoder = spec.encoder.removeprefix("local-dir:")
    folder = local_folder(encoder, "--vision-encoder")
    if folder is not None:
        name = f"vision tower {folder}"
        return TowerSource(library=_library(folder, name), folder=folder, name=name)
    name, drawn = f"vision tower {encoder}", spec.random_seed is not None
    if encoder.startswith("timm:"):
        architecture = encoder.removeprefix("timm:")
        if drawn:
            return TowerSource(library="timm", folder=None, name=name, architecture=architecture)
        return _of_hub(repository_of(architecture, name), name, weights=True)
    repository = encoder.removeprefix("hf-hub:").removeprefix("hf_hub:")
    if "/" in repository:
        return _of_hub(repository, name, weights=not drawn)
    return TowerSource(library="open_clip", folder=None, name=name)


def _of_hub(repository: str, name: str, *, weights: bool) -> TowerSource:
    folder = hub_folder(repository, (), option="--vision-encoder")
    library = _library(folder, name)
    if weights:
        folder = hub_folder(repository, _WEIGHTS[library], option="--vision-encoder")
    return TowerSource(library=library, folder=folder, name=name)


def _library(folder: Path, name: str) -> Library:
    if (folder / OPEN_CLIP).is_file():
        return "open_clip"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{name}: no {OPEN_CLIP} (open_clip) and no config.json (transformers, timm) in this "
            "folder"
        )
    try:
        read: Any = json.loads(read_config(folder / "config.json"))
        names = set(read)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{name}: config.json cannot be used ({first_line(error)})") from error
    if "model_type" in names and read["model_type"] != "timm_wrapper":
        return "transformers"
    if "architecture" in names:
        return "timm"
    raise InputError(
        f'{name}: config.json says neither "model_type" (transformers) nor "architecture" (timm)'
    )
