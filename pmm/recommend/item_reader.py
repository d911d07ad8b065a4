"""How the content of new items is read: as the shards of the training were made. NumPy alone.

Shape suffixes: I items, T text tokens, H = W the picture's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int64s
from pmm.errors import InputError
from pmm.recommend.answers import NewItem
from pmm.shards.jpeg import PictureError, Pixels, Squash, decode, encode, shrink
from pmm.shards.sequence_shards import Lists
from pmm.shards.tokens import TokenEncoder, Tokenizer, no_tokens, padded_tokens


@dataclass(frozen=True, kw_only=True)
class ContentReading:
    """What decides how content is read."""

    tokenizer: Tokenizer | None
    """Of texts; None: they are not read."""
    max_tokens: int = 0
    """Of a text."""
    prefix: str = ""
    """Put before every text."""
    picture_size: int = 0
    """Side of the pictures; 0: they are not read."""
    jpeg_quality: int = 0
    """At which pictures are stored, hence read."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The tokens of some items."""

    token_IT: Int64s
    """Right-padded."""
    mask_IT: NDArray[np.bool_]
    """True at real tokens. An item without text has one, the first special one."""
    has_text_I: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of some items."""

    picture_I3HW: NDArray[np.uint8]
    """Zeros where there is none."""
    has_picture_I: NDArray[np.bool_]


class ItemReader:
    """Reads texts and pictures of new items."""

    def __init__(self, reading: ContentReading, squash: Squash | None = None) -> None:
        """Take how.

        Args:
            reading: of the training.
            squash: the resize; None: torch's, as of the shards.

        Raises:
            InputError: no token of a text would be left.
        """
        self.reading, self._squash = reading, squash
        made = reading.tokenizer
        how = (reading.max_tokens, reading.prefix)
        self._tokens = TokenEncoder(made, *how) if made else None

    def texts(self, items: Sequence[NewItem]) -> Texts:
        """The tokens; where the model reads no texts, nobody has one."""
        made = self.reading.tokenizer
        if made is None or self._tokens is None:
            token_IT, mask_IT = no_tokens(len(items), 0)
            nobody_I = np.zeros(len(items), dtype=np.bool_)
            return Texts(token_IT=token_IT, mask_IT=mask_IT, has_text_I=nobody_I)
        lists = self._tokens.encode([each.text for each in items])
        lengths = np.array([len(each) for each in lists], dtype=np.int64)
        whole = Lists(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            values=np.concatenate([np.zeros(0, np.int32), *lists]),
        )
        has_text_I = lengths > made.special
        token_IT, mask_IT = padded_tokens(whole, np.arange(len(items)), has_text_I, made.pad)
        return Texts(token_IT=token_IT, mask_IT=mask_IT, has_text_I=has_text_I)

    def pictures(self, items: Sequence[NewItem]) -> Pictures:
        """The pictures as the shards would give them back: resized, and through their JPEG.

        Raises:
            InputError: one that is none; names the item.
        """
        size = self.reading.picture_size
        picture_IHW3 = np.zeros((len(items), size, size, 3), dtype=np.uint8)
        has_picture_I = np.zeros(len(items), dtype=np.bool_)
        for row, each in enumerate(items):
            if size and each.image is not None:
                picture_IHW3[row] = self._pixels(each.item_id, each.image)
                has_picture_I[row] = True
        picture_I3HW = picture_IHW3.transpose(0, 3, 1, 2)
        return Pictures(picture_I3HW=picture_I3HW, has_picture_I=has_picture_I)

    def _pixels(self, item_id: str, image: bytes) -> Pixels:
        try:
            pixels, _ = shrink(image, self.reading.picture_size, squash=self._squash)
        except PictureError as error:
            raise InputError(f"the picture of {item_id!r} cannot be read: {error}") from error
        return decode(encode(pixels, self.reading.jpeg_quality))


def refuse_empty(items: Sequence[NewItem], has_I: NDArray[np.bool_]) -> None:
    """Refuse items of which the model would know nothing.

    Raises:
        InputError: names the first.
    """
    for item, has in zip(items, has_I.tolist(), strict=True):
        if not has:
            raise InputError(f"{item.item_id!r} has no text and no picture that the model reads")
