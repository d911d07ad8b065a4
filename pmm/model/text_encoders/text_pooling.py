"""What makes one vector of a text's tokens: as the encoder was trained to be read.

Encoders of vectors are published in the format of sentence-transformers, whose `modules.json` names
a folder with the pooling that they were trained with. With another one the same weights mean less:
BGE is read at its first token, Qwen3-Embedding at its last, MiniLM and E5 by the mean.

Shape suffixes: I items, T text tokens, D the encoder's width.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from pmm.errors import InputError
from pmm.model.encoders.encoder_sizes import read_config
from pmm.shards.hub import PROBE_SECONDS, local_folder

logger = logging.getLogger(__name__)

MEAN, FIRST, LAST = "mean of tokens", "first token", "last token"


def mean_of_tokens(hidden_ITD: Tensor, mask_IT: Tensor) -> Tensor:
    """The mean over real tokens, of which each row has one at least. [I, D]"""
    weight_IT = mask_IT / mask_IT.sum(1, keepdim=True)
    return torch.einsum("itd,it->id", hidden_ITD, weight_IT)


def _first(hidden_ITD: Tensor, _mask_IT: Tensor) -> Tensor:
    return hidden_ITD[:, 0]


def _last(hidden_ITD: Tensor, mask_IT: Tensor) -> Tensor:
    rows_I = torch.arange(len(hidden_ITD), device=hidden_ITD.device)
    return hidden_ITD[rows_I, mask_IT.sum(1) - 1]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    MEAN: mean_of_tokens,
    FIRST: _first,
    LAST: _last,
}
"""By what each is called in an artefact; of right-padded tokens [I, T, D] and their mask."""

_NAMES = {
    "mean": MEAN,
    "cls": FIRST,
    "lasttoken": LAST,
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_cls_token": FIRST,
    "pooling_mode_lasttoken": LAST,
}
"""The one name of `pooling_mode`, and the switches that older versions wrote in its place."""


def pooling_of(encoder: str, *, causal: bool) -> str:
    """The pooling that an encoder was trained with, one of `POOLINGS`.

    Args:
        encoder: by name or folder.
        causal: each of its tokens sees only those before it. Where it says nothing itself, it is
            read at the last token then, and by the mean else.

    Raises:
        InputError: it pools in a way that is not known, or its files cannot be read.
    """
    usual = LAST if causal else MEAN
    modules = _read(encoder, "modules.json")
    if modules is None:
        return usual
    try:
        paths = [str(each["path"]) for each in modules if str(each["type"]).endswith(".Pooling")]
    except (TypeError, KeyError):
        raise InputError(
            f"text encoder {encoder}: its modules.json is no list of modules: get it again"
        ) from None
    if not paths:
        return usual
    config = _read(encoder, f"{paths[0]}/config.json")
    if not isinstance(config, dict):
        raise InputError(
            f"text encoder {encoder}: its modules.json names {paths[0]}/config.json, which says "
            "how its tokens are pooled, but that is not there or no table: get the folder whole"
        )
    return _named(config, encoder)


def _named(config: dict[str, Any], encoder: str) -> str:
    told = config.get("pooling_mode")
    on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    names = [str(told)] if isinstance(told, str) else on
    if len(names) != 1 or names[0] not in _NAMES:
        said = ", ".join(names) or "nothing"
        raise InputError(
            f"text encoder {encoder} pools its tokens by {said}; known is one of mean, cls and "
            "lasttoken: choose another encoder for frozen vectors"
        )
    return _NAMES[names[0]]


def _read(encoder: str, name: str) -> Any:
    """The content of one of an encoder's JSON files; None where it has none of that name."""
    folder = local_folder(encoder)
    path = _published(encoder, name) if folder is None else folder / name
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(read_config(path))
    except (OSError, ValueError) as error:
        raise InputError(f"text encoder {encoder}: {name} cannot be read ({error})") from error


def _published(encoder: str, name: str) -> Path | None:
    """A file of a published encoder, from the local cache or downloaded."""
    known = huggingface_hub.try_to_load_from_cache(encoder, name)
    if isinstance(known, str):
        return Path(known)
    if known is not None:
        return None  # asked for before: there is none
    try:
        found = huggingface_hub.hf_hub_download(encoder, name, etag_timeout=PROBE_SECONDS)
    except LocalEntryNotFoundError:
        # An encoder of the cache runs without network; only how it pools is not known then.
        logger.info(f"{encoder}: {name} is not on this machine and the model hub was not reached")
        return None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the HTTP client underneath raises its own kinds
        logger.info(f"{encoder}: the model hub does not give {name} ({type(error).__name__})")
        return None
    return Path(found)
