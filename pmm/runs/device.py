"""Where the arithmetic runs, and in which precision."""

from contextlib import AbstractContextManager

import torch

from pmm.errors import InputError
from pmm.runs.train_options import Precision

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of a name ("cpu", "cuda", "cuda:1", "mps"); "auto": a CUDA GPU if there is one.

    Raises:
        InputError: unknown to torch, or not in this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(_unknown(name)) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(_unknown(name))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f'device "{name}" is not here: torch sees no Apple GPU. Give --device cpu')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f'device "{name}" is not here: torch sees {torch.cuda.device_count()} GPUs. '
            "Give --device cpu"
        )
    return device


def _unknown(name: str) -> str:
    return f'unknown device "{name}": give auto, cpu, cuda or cuda:N (mps on a Mac)'


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the matrix products; weights and optimiser state are always float32.

    "auto" is bf16 on a GPU that has it, fp16 (with loss scaling) on an older one, and fp32 on a
    CPU, where 16-bit products are slower.

    >>> pick_precision("auto", torch.device("cpu"))
    torch.float32
    """
    if precision != "auto":
        return _TYPES[precision]
    if device.type != "cuda":
        return torch.float32
    # Torch also counts GPUs that only emulate it, at a fraction of the speed of their fp16.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def mixed(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a model runs in this precision."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
