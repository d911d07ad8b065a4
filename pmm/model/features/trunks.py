"""The trunks (frozen backbones) of a model's encoders, and shards that give their output.

A trunk is frozen and in eval mode, so training on its stored output is training on the output
itself (docs/paper.md R12), but for the rounding of the stored type.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import CutEncoder
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import VisionEncoder
from pmm.model.protocol import Recommender
from pmm.shards.activations import Activations, Trunk, place_of, write_activations
from pmm.shards.items import Items
from pmm.shards.kinds import Side, Storage
from pmm.shards.read import Shards

logger = logging.getLogger(__name__)


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, types, shapes and values, in the order of the names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        flat = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
        whole.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def trunks_of(model: Recommender) -> list[Trunk]:
    """The trunks of the encoders that a model has, in float32 on the model's device.

    An encoder that trains from its embeddings on has none.
    """
    found, encoders = [], model.encoders()
    if encoders.text is not None and encoders.text.frozen_stem:
        found.append(_text_trunk(encoders.text))
    if encoders.vision is not None and encoders.vision.frozen_stem:
        found.append(_vision_trunk(encoders.vision))
    return found


def write_trunks(
    shards: Shards,
    trunks: Sequence[Trunk],
    storage: Storage,
    *,
    items_at_once: int = 64,
    force: bool = False,
) -> dict[str, str]:
    """Compute and store what is not there yet: folder -> "written" or "unchanged, nothing to do".

    Args:
        shards: of a target.
        trunks: of a model, on the device where they run.
        storage: type of the stored values.
        items_at_once: run together.
        force: compute it again though it is there.

    Raises:
        StorageError: the disk is full, or the home folder cannot be written.
    """
    found = {}
    for trunk in trunks:
        built = write_activations(
            activations_folder(shards),
            shards,
            trunk,
            storage=storage,
            items_at_once=items_at_once,
            force=force,
        )
        found[str(built.place)] = "written" if built.fresh else "unchanged, nothing to do"
    return found


def with_activations(
    shards: Shards,
    model: Recommender,
    storage: Storage | None,
    *,
    write: bool,
    items_at_once: int = 64,
    force: bool = False,
) -> Shards:
    """The shards, giving stored activations of the model's trunks in place of pictures and tokens.

    Args:
        shards: of a target.
        model: whose encoders are asked.
        storage: type of the stored values; None = whatever is there, the more exact one first.
        write: compute what is not there yet (`write_trunks`), and say so; else what is missing is
            read as it is.
        items_at_once: run together.
        force: compute it again though it is there.

    Raises:
        StorageError: the disk is full, or the home folder cannot be written.
        BrokenArtefact: stored activations are damaged.
    """
    trunks, wrote = trunks_of(model), dict[str, str]()
    if write and storage:
        wrote = write_trunks(shards, trunks, storage, items_at_once=items_at_once, force=force)
    device = next(model.parameters()).device
    held: dict[Side, Activations] = {}
    for trunk in trunks:
        for kind in (storage,) if storage else ("fp32", "fp16"):
            place = place_of(activations_folder(shards), trunk, kind, shards)
            if not (place / "manifest.json").is_file():
                continue
            held[trunk.side] = found = Activations(place, shards, trunk, device=device)
            if write:
                state = "written" if wrote.get(str(place)) == "written" else "found"
                what = f"activations of the {trunk.side} trunk on {shards.target}"
                logger.info(described(what, state, found))
            break
    return shards.with_activations(held)


def activations_folder(shards: Shards) -> Path:
    """Where the activations of a target lie.

    Raises:
        InputError: the shards were opened without their home folder.
    """
    if shards.home is None:
        raise InputError(
            f"{shards.place} was opened without a home folder, where activations are stored. Open "
            "it as Shards.of(home, target)"
        )
    return shards.home.activations(shards.place.name)


def described(what: str, state: str, found: Activations) -> str:
    """One line on activations that were opened: how large they are and where they are read."""
    return f"{what}: {state}, {found.bytes / 1e6:,.1f} MB, read from {_TIERS[found.tier]}"


_TIERS = {"device": "the accelerator's memory", "memory": "memory", "map": "mapped files"}


def _text_trunk(encoder: TextEncoder) -> Trunk:
    def run(items: Items) -> Tensor:
        device = next(encoder.parameters()).device
        return encoder.trunk(items.token_IT.to(device), items.token_mask_IT.to(device))

    return Trunk(side="text", run=run, about=_about(encoder), tokens=0, width=encoder.width)


def _vision_trunk(encoder: VisionEncoder) -> Trunk:
    def run(items: Items) -> Tensor:
        return encoder.trunk(items.picture_I3HW.to(next(encoder.parameters()).device))

    return Trunk(
        side="vision",
        run=run,
        about=_about(encoder) | encoder.about,
        tokens=encoder.trunk_tokens,
        width=encoder.width,
    )


def _about(encoder: CutEncoder) -> dict[str, str | int]:
    """The digest of the trunk's weights and pixel statistics, and where it is cut."""
    top = tuple(f"blocks.{number}." for number in range(encoder.cut, len(encoder.blocks)))
    top += ("norm.",)  # behind the last block
    named = [*encoder.named_parameters(), *encoder.named_buffers()]
    return {
        "weights": tensors_digest((name, t) for name, t in named if not name.startswith(top)),
        "cut": encoder.cut,
    }
