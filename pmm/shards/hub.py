"""What a name on the model hub stands for: the local cache first, then a question, then a download.

The hub's client retries a dead network for most of a minute and raises errors of several kinds. One
request with a short time limit decides first, so that a machine without network gets its answer at
once.
"""

from collections.abc import Callable
from typing import TypeVar

import huggingface_hub

from pmm.errors import InputError

T = TypeVar("T")

PROBE_SECONDS = 10


def cached_or_downloaded(name: str, load: Callable[[bool], T]) -> T:
    """`load(True)` from the local cache; where that fails, `load(False)`, which may download.

    Args:
        name: the encoder's name, for messages.
        load: takes `local_files_only`; raises OSError where a file cannot be had.

    Raises:
        InputError: not in the cache, and the hub cannot be reached, does not know or refuses it.
    """
    try:
        return load(True)
    except (OSError, ValueError):  # ValueError: a cache that holds other files of that name
        _ask_hub(name)
    try:
        return load(False)
    except (OSError, ValueError) as error:
        raise InputError(f"encoder {name!r}: the download failed ({_first_line(error)})") from error


def _ask_hub(name: str) -> None:
    try:
        huggingface_hub.model_info(name, timeout=PROBE_SECONDS)
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise InputError(
            f"encoder {name!r} is neither a folder here nor an encoder of the model hub that can "
            f"be read ({_first_line(error)}): check the spelling, or give the folder that holds it"
        ) from error
    except Exception as error:  # the HTTP client underneath raises its own kinds, not OSError
        raise InputError(
            f"encoder {name!r} is not on this machine and the model hub cannot be reached "
            f"({_first_line(error)}): run once with network to download it, or copy it here and "
            "give its folder instead of its name"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
