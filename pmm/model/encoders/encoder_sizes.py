"""How large an encoder would be by its config, found before any of it is allocated.

A config is a small text that anybody can write: a number in it may ask for more memory than there
is, or for a million layers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pmm.errors import InputError
from pmm.machine import free_bytes
from pmm.shards.hub import WEIGHT_SUFFIXES, first_line

MOST_LAYERS = 1_000
"""Layers of an encoder: even empty ones take time and memory."""
MOST_LABELS = 1_000_000
"""Labels of a classifier, of which the library writes out a name each."""
LARGEST_CONFIG = 16 << 20
"""Bytes of a config file that is read (16 MiB); those of published encoders have a few thousand."""

_LIMITS = {
    **dict.fromkeys(("layers", "num_hidden_layers"), MOST_LAYERS),
    **dict.fromkeys(("num_labels", "_num_labels"), MOST_LABELS),
}


def require_plain_numbers(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config whose layers or labels alone would take all memory, or are no numbers.

    Args:
        config: as its JSON file has it.
        name: the encoder's, for the message.

    Raises:
        InputError: it does.
    """
    for key, most in _LIMITS.items():
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or not 0 <= value <= most:
            raise InputError(
                f"{name}: its config has {key} = {str(value)[:40]}; expected is a whole number of "
                f"at most {most:,}"
            )


def require_modest_size(build: Callable[[], nn.Module], name: str, weights: int | None) -> None:
    """Refuse an encoder that is larger than its own weights, or than the memory that is free.

    Args:
        build: makes the encoder with random weights; called on a device without memory.
        name: the encoder's, for the message.
        weights: bytes of its files of weights; None where there are none yet.

    Raises:
        InputError: it is too large, or its config makes no encoder.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            parameters = sum(each.numel() for each in build().parameters())
    except Exception as error:  # sizes that do not fit one another fail anywhere in the library
        raise InputError(f"{name}: its config makes no encoder ({first_line(error)})") from error
    if weights is not None and parameters > weights:  # each takes a byte at least
        raise InputError(
            f"{name}: the weights cannot be read: the config asks for {parameters:,} parameters, "
            f"but they have {weights:,} bytes. Get config and weights of the same encoder again"
        )
    needed, free = parameters * torch.float32.itemsize, free_bytes()
    if needed > free:
        raise InputError(
            f"{name}: its config asks for {needed / 2**30:,.1f} GiB of weights, and "
            f"{free / 2**30:,.1f} GiB of memory are free: choose a smaller encoder"
        )


def bytes_of_weights(folder: Path) -> int | None:
    """Of all files of weights in a folder; None where there are none."""
    files = [e for e in folder.iterdir() if e.suffix in WEIGHT_SUFFIXES and e.is_file()]
    return sum(each.stat().st_size for each in files) if files else None


def read_config(path: Path) -> str:
    """The text of a config file.

    Raises:
        InputError: it is larger than any config.
        OSError, ValueError: it cannot be read.
    """
    if path.stat().st_size > LARGEST_CONFIG:
        raise InputError(
            f"{path} is larger than {LARGEST_CONFIG >> 20} MiB: no config of an encoder"
        )
    return path.read_text(encoding="utf-8")
