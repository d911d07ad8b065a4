"""Where an encoder or its tokenizer comes from: a folder, the local cache, the model hub.

The hub's client retries a dead network for many seconds and then raises errors of several kinds.
Here one request with a short time limit decides first, so that a machine without network gets its
answer at once.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import huggingface_hub
from transformers.utils import logging as transformers_logging

from pmm.errors import InputError
from pmm.storage.home import expanded

T = TypeVar("T")

PROBE_SECONDS = 10
NO_CODE: dict[str, bool] = {"trust_remote_code": False}
"""For every loader of transformers: without it, one asks on a terminal whether to run the code that
an encoder brings."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
CARD = "README.md"
"""The model card of a repository, or of a folder that was copied from one."""
UNKNOWN = "unknown"
"""The licence of an encoder that tells of none."""
_LARGEST_CARD, _LONGEST_LICENSE = 1 << 20, 300


EncoderOption = Literal["--text-encoder", "--vision-encoder"]
"""What says which encoder, for messages."""
_WITHOUT: dict[EncoderOption, str] = {
    "--text-encoder": "models on item ids need none: shard with --no-content",
    "--vision-encoder": "where no item has a picture: train with --modality text",
}


def advice_on(option: EncoderOption) -> str:
    """What can be done where an encoder is not to be had."""
    return (
        f"name another with {option} NAME or {option} FOLDER (recipes/ in the project's "
        f"repository has recipes of encoders that are known to work); {_WITHOUT[option]}"
    )


def local_folder(encoder: str, option: EncoderOption = "--text-encoder") -> Path | None:
    """The folder that `encoder` names, or None where it is the name of a published encoder.

    A name that can only be a path (it starts with `.`, `/` or `~`, or has more than one `/`, which
    no published encoder has) but leads nowhere is refused.
    """
    path = expanded(Path(encoder))
    if path.is_dir():
        return path
    only_path = encoder.startswith((".", "/", "~")) or encoder.count("/") > 1
    if only_path or path.is_file():
        raise InputError(
            f"encoder {encoder!r}: no such folder (expected a folder with a config and weights). "
            f"Give the right one, or {advice_on(option)}"
        )
    return None


def weights_file(folder: Path) -> Path | None:
    """The weights in a folder, safetensors before pickles; None where there are none."""
    found = [p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES]
    return min(found, key=lambda p: (p.suffix != ".safetensors", p.name), default=None)


def refuse_code(error: Exception, what: str) -> None:
    """Tell of an encoder that works only with code of its own, which is never run.

    Args:
        error: of a loader of transformers, called with `NO_CODE`.
        what: was loaded.

    Raises:
        InputError: the error says so.
    """
    if "trust_remote_code" in str(error):
        raise InputError(
            f"{what} works only with code that comes with it (auto_map), and PMM never runs such "
            "code: choose an encoder of a family that transformers has itself"
        ) from None


def cached_or_downloaded(
    repository: str, load: Callable[[bool], T], *, name: str, option: EncoderOption
) -> T:
    """`load(True)` from the local cache; where that fails, `load(False)`, which may download.

    Args:
        repository: where the hub keeps it.
        load: takes `local_files_only`; raises OSError where a file cannot be had.
        name: what the user calls it, for messages.
        option: what names it.

    Raises:
        InputError: not in the cache, and the hub cannot be reached, does not know it or refuses.
    """
    try:
        return load(True)
    except (OSError, ValueError) as error:  # ValueError: a cache with other files of that name
        refuse_code(error, f"encoder {name!r}")
        _ask_hub(repository, name, option)
    try:
        found = load(False)
        with contextlib.suppress(Exception):  # it says the licence, and nothing waits for it
            huggingface_hub.hf_hub_download(repository, CARD)
        return found
    except (OSError, ValueError) as error:
        refuse_code(error, f"encoder {name!r}")
        raise InputError(
            f"encoder {name!r}: the download failed ({first_line(error)}). Try again, or "
            f"{advice_on(option)}"
        ) from error


_CONFIGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    CARD,
)


def hub_folder(repository: str, weights: Sequence[str], *, option: EncoderOption) -> Path:
    """The local copy of a repository on the hub: its configs, its card, its weights if asked.

    Args:
        repository: "OWNER/NAME".
        weights: patterns of files, the better ones first; those of the first that is there are
            fetched. None: no weights.
        option: what names it.

    Raises:
        InputError: as of `cached_or_downloaded`.
    """

    def load(local: bool) -> Path:
        for pattern in weights or _CONFIGS[:1]:
            folder = Path(
                huggingface_hub.snapshot_download(
                    repository, allow_patterns=[*_CONFIGS, pattern], local_files_only=local
                )
            )
            if next(folder.glob(pattern), None) or (not weights and any(folder.iterdir())):
                return folder
        raise FileNotFoundError(f"{repository} holds no {' and no '.join(weights)}")

    with quiet_libraries():
        return cached_or_downloaded(repository, load, name=repository, option=option)


def cached_card(repository: str) -> Path | None:
    """The folder with the model card of a repository on the hub, where it was fetched before."""
    try:
        found = huggingface_hub.try_to_load_from_cache(repository, CARD)
    except ValueError:  # no name that a repository can have
        return None
    return Path(found).parent if isinstance(found, str) else None


def license_in(folder: Path | None) -> str:
    """The licence that a folder of an encoder tells of: in its model card, else in its config.

    "unknown" where there is neither, or neither says it.
    """
    if folder is None:
        return UNKNOWN
    found = _license_of_card(folder / CARD) or _license_of_config(folder / "config.json")
    plain = isinstance(found, str) and found.isprintable() and 0 < len(found) <= _LONGEST_LICENSE
    return str(found) if plain else UNKNOWN


def _license_of_card(path: Path) -> object:
    # The head of a card is written by hand: whatever is wrong with it, it says nothing.
    with contextlib.suppress(Exception):
        if path.stat().st_size <= _LARGEST_CARD:
            told = huggingface_hub.metadata_load(path) or {}
            name, link = told.get("license_name"), told.get("license_link")
            more = " ".join(str(each) for each in (name, link) if each)
            return f"{told['license']} ({more})" if more else str(told["license"])
    return None


def _license_of_config(path: Path) -> object:
    with contextlib.suppress(Exception):
        if path.stat().st_size <= _LARGEST_CARD:
            read = json.loads(path.read_text(encoding="utf-8"))
            return read.get("license") or read["pretrained_cfg"]["license"]
    return None


def _ask_hub(repository: str, name: str, option: EncoderOption) -> None:
    try:
        huggingface_hub.model_info(repository, timeout=PROBE_SECONDS)
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise InputError(
            f"encoder {name!r} is no folder here, and the model hub does not give it "
            f"({first_line(error)}). Check the spelling, or {advice_on(option)}"
        ) from error
    except Exception as error:  # the HTTP client underneath raises its own kinds, not OSError
        raise InputError(
            f"encoder {name!r} is not on this machine and the model hub cannot be reached "
            f"({first_line(error)}). Run once with network to download it, copy it here and give "
            f"its folder, or {advice_on(option)}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the encoder libraries' load reports and bars off the terminal; errors still raise."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
