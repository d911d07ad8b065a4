"""Texts become sub-word tokens, `max_tokens` at most with the special ones; padding is not kept."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tokenizers

from pmm.errors import InputError
from pmm.shards.sequence_shards import Lists

Tokens: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer that travels to other processes as text."""

    name: str
    """As on the model hub; of a local folder its last part, since whole paths differ by machine."""
    local: bool
    """Whether it came from a folder."""
    serialised: str
    """The `tokenizers` library's JSON, truncation and padding off."""
    pad: int
    """The padding id."""
    special: int
    """How many special tokens surround every text."""
    vocabulary: int

    @property
    def digest(self) -> str:
        """Changes when any text could give other tokens."""
        whole = json.dumps([self.serialised, self.pad])
        return hashlib.sha256(whole.encode()).hexdigest()


def load_tokenizer(encoder: str) -> Tokenizer:
    """The tokenizer of a text encoder, by hub name or local folder.

    Raises:
        InputError: there is none, the hub cannot be reached, or it is not of the fast kind.
    """
    from transformers import AutoTokenizer

    from pmm.shards.hub import NO_CODE, cached_or_downloaded, local_folder, refuse_code

    folder = local_folder(encoder)
    if folder is not None:
        try:
            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **NO_CODE)
        except (OSError, ValueError) as error:
            refuse_code(error, f"the tokenizer in {folder}")
            inside = [str(each.parent) for each in sorted(folder.glob("*/tokenizer.json"))]
            hint = f"; did you mean {inside[0]}?" if inside else ""
            raise InputError(
                f"{folder} holds no tokenizer that can be read: expected tokenizer.json or "
                f"the files of a transformers tokenizer{hint}"
            ) from error
        return _portable(loaded, folder.resolve().name, local=True)
    loaded = cached_or_downloaded(
        encoder,
        lambda local: AutoTokenizer.from_pretrained(encoder, local_files_only=local, **NO_CODE),
        name=encoder,
        option="--text-encoder",
    )
    return _portable(loaded, encoder, local=False)


def _portable(loaded: Any, name: str, *, local: bool) -> Tokenizer:
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer of {name!r} has no fast form (tokenizer.json): "
            "choose an encoder that has"
        )
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    pad = loaded.pad_token_id
    if pad is None:
        raise InputError(f"the tokenizer of {name!r} has no padding token: choose one that has")
    return Tokenizer(
        name=name,
        local=local,
        serialised=copy.to_str(),
        pad=int(pad),
        special=copy.num_special_tokens_to_add(is_pair=False),
        vocabulary=copy.get_vocab_size(with_added_tokens=True),
    )


class TokenEncoder:
    """Encodes batches of texts; made once a process."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, prefix: str = "") -> None:
        """Take a tokenizer.

        Args:
            tokenizer: an encoder's.
            max_tokens: of a text, the special ones and the prefix included.
            prefix: put before every text that is not empty.

        Raises:
            InputError: no token of a text would be left.
        """
        if max_tokens <= tokenizer.special:
            raise InputError(
                f"max_tokens is {max_tokens}, but the special tokens of {tokenizer.name!r} alone "
                f"are {tokenizer.special}: give at least {tokenizer.special + 1}"
            )
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.serialised)
        self._prefix = prefix
        # A text of which the tokenizer makes nothing is an empty one, with a prefix too.
        self._nothing = [self._backend.encode(each).ids for each in (prefix, prefix.rstrip())]
        longest = max(map(len, self._nothing))
        if prefix and max_tokens <= longest:
            raise InputError(
                f"max_tokens is {max_tokens}, but the prefix {prefix!r} and the special tokens of "
                f"{tokenizer.name!r} alone are {longest}: give at least {longest + 1}"
            )
        self._backend.enable_truncation(max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """int32 ids of each text, special ones included; of an empty text the special ones only."""
        with _one_thread():
            whole = [self._prefix + text if text else text for text in texts]
            encodings = self._backend.encode_batch_fast(whole)
        found = [encoding.ids for encoding in encodings]
        if self._prefix:
            empty = self._backend.encode("").ids
            found = [empty if ids in self._nothing else ids for ids in found]
        return [np.array(ids, dtype=np.int32) for ids in found]


def no_tokens(count: int, pad: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """What stands for the tokens where texts are not read: one of padding. [I, 1] both"""
    return np.full((count, 1), pad, np.int64), np.ones((count, 1), np.bool_)


def padded_tokens(
    tokens: Lists, row_I: npt.NDArray[np.int64], has_text_I: npt.NDArray[np.bool_], pad: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Tokens int64 [I, T] and which are real; of an item without text the first one only."""
    starts, held = tokens.offsets[row_I], tokens.lengths_of(row_I)
    lengths = np.where(has_text_I, held, 1)
    column = np.arange(lengths.max(initial=1))
    real = column < lengths[:, None]
    index = (starts[:, None] + column)[real]
    padded = np.full(real.shape, pad, dtype=np.int64)
    # A tokenizer without special tokens leaves nothing of an empty text: its padding stands in.
    stored = real & (column < held[:, None])
    padded[stored] = tokens.values[index[stored[real]]]
    return padded, real


@contextmanager
def _one_thread() -> Iterator[None]:
    """The processes are the parallelism; and threads here would make later forks complain."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
