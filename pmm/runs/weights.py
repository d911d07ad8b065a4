"""Weights of a run: one safetensors file, replaced atomically; no pickle.

Only what trains is stored. The frozen trunks come from the encoders' own source again, and the
sha256 of their tensors, kept in the file's header, refuses others than those of the training.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from isal import isal_zlib
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pmm.errors import BrokenArtefact, MissingArtefact, StaleArtefact
from pmm.model.features.trunks import tensors_digest
from pmm.model.protocol import Recommender
from pmm.storage.artefact import atomic_file, storage_errors
from pmm.storage.json_files import JSON_ERRORS, parse_json, told
from pmm.storage.safetensors_errors import system_errors

BEST = "checkpoint/best.safetensors"
"""Below a run's folder: the weights of the best evaluation."""

_HEADER, _CHECKSUMS = "pmm", "crc32"
"""Entry of the file's header, and among what it says the CRC-32 of all else that it says and of the
tensors; files of before have none. One entry only, as safetensors writes several in any order."""


_OF_BEST = frozenset({"frozen", "step", "epoch", "precision", "shards"})
"""What the header of a run's best weights says at least."""


def trained_tensors(model: Recommender) -> dict[str, Tensor]:
    """Name -> tensor of everything that the optimiser may change."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def kept_tensors(model: Recommender) -> dict[str, Tensor]:
    """Name -> tensor of everything that a run stores: all but the frozen part of its encoders.

    Stored are the tensors that train, and those that exist nowhere else: the codes of items, a user
    encoder that was taken over and frozen.
    """
    trained = trained_tensors(model)
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name in trained or name.partition(".")[0] not in ("text", "vision")
    }


def frozen_digest(model: Recommender, part: str = "") -> str:
    """sha256 over names, types, shapes and values of what is not stored: the frozen encoders.

    Of a model that reads frozen vectors, over the digests of their encoders instead.

    Args:
        model: whose tensors.
        part: only those below this submodule.
    """
    if model.frozen_by:
        return hashlib.sha256(
            json.dumps(dict(model.frozen_by), sort_keys=True).encode()
        ).hexdigest()
    kept = kept_tensors(model)
    return tensors_digest(
        (name, tensor)
        for name, tensor in model.state_dict().items()
        if name not in kept and name.startswith(part)
    )


def frozen_digests(model: Recommender) -> dict[str, str]:
    """The digests of the frozen part of each encoder that a model has, or reads vectors of."""
    if model.frozen_by:
        return dict(model.frozen_by)
    held = model.encoders()
    sides = {"text": held.text, "vision": held.vision}
    return {
        side: frozen_digest(model, f"{side}.")
        for side, encoder in sides.items()
        if encoder is not None
    }


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    *,
    before: Callable[[], None] | None = None,
) -> None:
    """Write named tensors and a JSON header; a kill leaves the old file or the new one.

    `before` is called when all is written, just before the old file is replaced.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, before=before) as temporary:
            temporary.touch()  # safetensors would leave a file that only its owner may read
            mode = temporary.stat().st_mode
            cpu = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
            sums = [_crc32_of_json(about), _crc32_of_tensors(cpu)]
            said = json.dumps({**about, _CHECKSUMS: sums}, sort_keys=True)
            with system_errors(temporary):
                save_file(cpu, temporary, metadata={_HEADER: said})
            temporary.chmod(mode)


def read_tensors(path: Path, *, made_by: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What write_tensors wrote: tensors by name, and the header.

    Raises:
        MissingArtefact: there is no such file.
        BrokenArtefact: it is no whole safetensors file of this program.
    """
    with _opened(path, made_by) as (file, about, expected):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if expected not in (None, _crc32_of_tensors(tensors)):
            raise ValueError("its tensors are not those that were written")
        return tensors, about


def read_header(path: Path, *, made_by: str) -> dict[str, Any]:
    """The header of a run's best weights, alone; errors as read_tensors."""
    with _opened(path, made_by, _OF_BEST) as (_, about, _):
        return about


@contextmanager
def _opened(
    path: Path, made_by: str, needs: Set[str] = frozenset()
) -> Iterator[tuple[Any, dict[str, Any], str | None]]:
    """The file, what its header says, and the checksum of its tensors; None: of before."""
    if not path.is_file():
        raise MissingArtefact(f"{path} is not there. Run: {made_by}")
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {})[_HEADER].encode())
            of_about, of_tensors = about.pop(_CHECKSUMS, (None, None))
            if of_about not in (None, _crc32_of_json(about)):
                raise ValueError("its header is not the one that was written")
            if lacking := needs - about.keys():
                raise ValueError(f"its header lacks {', '.join(sorted(lacking))}")
            yield file, about, of_tensors
    except (SafetensorError, RuntimeError, *JSON_ERRORS) as error:
        raise BrokenArtefact(f"{path} is damaged ({told(error)}). Run: {made_by}") from error


def _crc32_of_json(value: Mapping[str, Any]) -> str:
    return f"{isal_zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _crc32_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Over names, types, shapes and values, in the order of the names."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = isal_zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(), value)
        value = isal_zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def save_weights(
    path: Path,
    model: Recommender,
    about: Mapping[str, Any],
    before: Callable[[], None] | None = None,
) -> None:
    """Write what a run keeps of a model; `about` must hold its "frozen" digest.

    `before` is as of `write_tensors`, which this raises the errors of.
    """
    write_tensors(path, kept_tensors(model), about, before=before)


def load_weights(
    path: Path, model: Recommender, *, made_by: str, without: Collection[str] = ()
) -> dict[str, Any]:
    """Fill what a run keeps of a model from a file; returns the file's header.

    Args:
        path: the file.
        model: whose weights.
        made_by: the command that made it, for messages.
        without: parts that the file may hold and this model does not have.

    Raises:
        MissingArtefact, BrokenArtefact: as read_tensors.
        BrokenArtefact: its tensors are not exactly those that this model keeps.
        StaleArtefact: the frozen tensors are not those that the weights were trained with.
    """
    tensors, about = read_tensors(path, made_by=made_by)
    wanted = {k: v for k, v in tensors.items() if k.partition(".")[0] not in without}
    copy_into(model, wanted, about, path=path)
    return about


def copy_into(
    model: Recommender, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, path: Path
) -> None:
    """Copy tensors over those that are kept; errors as load_weights, before anything is changed."""
    kept = kept_tensors(model)
    faults = [f"{name} is missing" for name in kept if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in kept]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(kept[name].shape)}"
        for name in kept
        if name in tensors and tensors[name].shape != kept[name].shape
    ]
    if faults:
        raise BrokenArtefact(
            f"{path} does not fit the recipe's model ({len(faults)} tensors): "
            + "; ".join(faults[:3])
        )
    found = frozen_digest(model)
    if not isinstance(about.get("frozen"), str):
        raise BrokenArtefact(f"{path} is damaged: its header does not say which encoders it needs")
    if found != about["frozen"]:
        raise StaleArtefact(
            f"{path} was trained on frozen encoder weights {about['frozen'][:8]}, but the encoders "
            f"of its recipe now hold {found[:8]}. Put the former encoders back, or train again"
        )
    with torch.no_grad():
        for name, tensor in kept.items():
            tensor.copy_(tensors[name])
