"""The tensors of a model and of whole encoders, trained and frozen: written and put back."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pmm.bundle.bundle_tables import make_readable
from pmm.bundle.layout import AGAIN
from pmm.errors import BrokenArtefact, InputError
from pmm.machine import free_bytes
from pmm.model.protocol import Recommender
from pmm.storage.safetensors_errors import system_errors


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those too that no checkpoint has (pixel statistics, positions
    that are fitted to a size of pictures); what is shared stands under its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def model_tensors(model: Recommender) -> dict[str, Tensor]:
    """What a bundle keeps of a model: all of it but the tables of the catalogue's frozen vectors.

    Those stand in for encoders while a model is trained; what they made of the items is kept.
    """
    assert isinstance(model, nn.Module)
    stored = model.state_dict(keep_vars=True)
    return {
        name: tensor
        for name, tensor in module_tensors(model).items()
        if name in stored or name.partition(".")[0] in ("text", "vision")
    }


def write_model_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name; OSError where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    with system_errors(path):
        save_file(held, path)
    make_readable(path)


def read_model_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        BrokenArtefact: it is no safetensors file.
        InputError: it is larger than the memory that is free.
    """
    needed, free = path.stat().st_size, free_bytes()
    if needed > free:
        raise InputError(
            f"{path} takes {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of memory are "
            "free"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error


@torch.no_grad()
def put_back(module: nn.Module, wanted: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors of a file into a module that was built anew.

    Args:
        module: the module.
        wanted: its tensors by name, all of which the file must have.
        path: of the file.

    Raises:
        BrokenArtefact: the file has other tensors than these.
    """
    found = read_model_tensors(path)
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in wanted]
    faults += [
        f"{name} is {found[name].dtype} {tuple(found[name].shape)}, expected {each.dtype} "
        f"{tuple(each.shape)}"
        for name, each in wanted.items()
        if name in found and (found[name].dtype, found[name].shape) != (each.dtype, each.shape)
    ]
    if faults:
        raise BrokenArtefact(
            f"{path} does not fit its recipe's model ({len(faults)} tensors): "
            f"{'; '.join(faults[:3])}. {AGAIN}"
        )
    parameters = dict(module.named_parameters())
    for name in wanted:
        if name in parameters:
            parameters[name].copy_(found[name])
        else:  # put in place, as a buffer may be a view that shows one value many times
            parent, _, last = name.rpartition(".")
            held = module.get_submodule(parent)
            held._buffers[last] = found[name].to(wanted[name].device)
