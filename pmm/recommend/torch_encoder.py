"""A model in torch, asked for vectors; and what it makes of items that it was not trained on.

A new item takes the way of all others: its text through the tokenizer of the shards, its picture
through their resize and their JPEG, both through the encoders of the training.

Shape suffixes: as of `pmm.recommend.encoder`; F width of a frozen vector, I items of a batch.
"""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.arrays import Float32s
from pmm.errors import InputError
from pmm.model.features.frozen_vectors import vectors_trunk
from pmm.model.protocol import Recommender
from pmm.recommend.answers import NewItem
from pmm.runs.device import mixed
from pmm.runs.recipe import encoder_specs
from pmm.shards.activations import Trunk
from pmm.shards.items import Items
from pmm.shards.jpeg import PictureError, decode, encode, shrink
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.shards.stream_items import no_tokens, padded_tokens
from pmm.shards.tokens import TokenEncoder, load_tokenizer

ITEMS_AT_ONCE = 64
"""New items encoded together."""


class TorchEncoder:
    """An `Encoder` (`pmm.recommend.encoder`) over a model in eval mode."""

    def __init__(self, model: Recommender, shards: Shards, dtype: torch.dtype) -> None:
        """Take a model.

        Args:
            model: trained.
            shards: of its target; new items are made as theirs were.
            dtype: of the matrix products, as in evaluation.
        """
        self._model, self._shards, self._dtype = model.eval(), shards, dtype
        self._device = next(model.parameters()).device
        self._lock = Lock()
        """Encoders of content are loaded once, and run one at a time."""
        self._trunks: dict[str, tuple[Trunk, Shards]] = {}
        self._tokens: TokenEncoder | None = None
        self.max_length, self.temperature = model.max_length, model.temperature
        self.by_product = model.scores_of_users is None
        self.cannot_add = ""
        options = model.options
        if options.knows_items or options.content == "none":
            self.cannot_add = (
                f"{options.name} holds something of each single item that it was trained on, so it "
                "cannot know a new one: train a model that knows items by their content"
            )

    def users(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_]) -> Float32s:
        """What users are scored with, [B, D]."""
        with torch.inference_mode(), mixed(self._device, self._dtype):
            found_BD = self._model.user_vectors(*self._windows(e_BLW, valid_BL))
        return _array(found_BD)

    def scores(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_], item_ND: Float32s) -> Float32s:
        """Scores [B, N] where they are no inner products."""
        score = self._model.scores_of_users
        assert score is not None
        with torch.inference_mode(), mixed(self._device, self._dtype):
            item = torch.from_numpy(item_ND).to(self._device)
            found_BN = score(*self._windows(e_BLW, valid_BL), item)
        return _array(found_BN)

    def _windows(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(e_BLW).to(self._device),
            torch.from_numpy(valid_BL).to(self._device),
        )

    def new_items(self, items: Sequence[NewItem]) -> tuple[Float32s, Float32s]:
        """What the user encoder reads of new items [R, W], and what they are scored with [R, D].

        Raises:
            InputError: the model knows items one by one, a picture is none, or an item has nothing
                that the model reads.
        """
        if self.cannot_add:
            raise InputError(self.cannot_add)
        parts = [
            self._encoded(items[start : start + ITEMS_AT_ONCE])
            for start in range(0, len(items), ITEMS_AT_ONCE)
        ]
        with torch.inference_mode():
            input_RW = torch.cat(parts)
            return _array(input_RW), _array(self._model.item_vectors(input_RW))

    def _encoded(self, items: Sequence[NewItem]) -> Tensor:
        content = self._model.options.content
        pixels = [_pixels(each, self._shards) for each in items] if content != "text" else []
        with self._lock, torch.inference_mode(), mixed(self._device, self._dtype):
            if self._model.options.reads != "none":
                read = self._as_items(items, pixels, self._token_encoder(), self._shards)
                _require_content(items, read)
                encoded_RW: Tensor = self._model.encode_items(read.to(self._device)).float()
                return encoded_RW
            vectors = {}
            for side in ("text", "vision"):
                if content in (side, "both"):
                    trunk, shards = self._trunk(side)
                    read = self._as_items(items, pixels, self._tokens_of(shards), shards)
                    vectors[side] = _vectors(trunk, read)
            has_R = torch.stack([(each != 0).any(1) for each in vectors.values()]).any(0)
            _refuse_empty(items, has_R)
            on_device = {side: each.to(self._device) for side, each in vectors.items()}
            made_RW: Tensor = self._model.encode_vectors(on_device).float()
            return made_RW

    def _as_items(
        self,
        items: Sequence[NewItem],
        pixels: Sequence[NDArray[np.uint8] | None],
        tokens: TokenEncoder,
        shards: Shards,
    ) -> Items:
        """New items as a batch has them; numbers are behind the catalogue's."""
        pad, special = shards.tokenizer["pad"], shards.tokenizer["special"]
        content = self._model.options.content
        if content == "vision":
            none_I = np.zeros(len(items), dtype=np.bool_)
            (token_IT, mask_IT), has_text_I = no_tokens(len(items), pad), none_I
        else:
            lists = tokens.encode([each.text for each in items])
            lengths = np.array([len(each) for each in lists])
            whole = Lists(
                offsets=np.concatenate([[0], np.cumsum(lengths)]), values=np.concatenate(lists)
            )
            has_text_I = lengths > special
            token_IT, mask_IT = padded_tokens(whole, np.arange(len(items)), has_text_I, pad)
        size = shards.picture_size if pixels else 0
        picture_IHW3 = np.zeros((len(items), size, size, 3), dtype=np.uint8)
        for row, each in enumerate(pixels):
            if each is not None:
                picture_IHW3[row] = each
        has_picture = [bool(pixels) and pixels[row] is not None for row in range(len(items))]
        return Items(
            item_I=torch.arange(len(items)) + shards.n_items + 1,
            token_IT=torch.from_numpy(token_IT),
            token_mask_IT=torch.from_numpy(mask_IT),
            picture_I3HW=torch.from_numpy(picture_IHW3).permute(0, 3, 1, 2),
            has_text_I=torch.from_numpy(has_text_I),
            has_picture_I=torch.tensor(has_picture),
        )

    def _token_encoder(self) -> TokenEncoder:
        if self._tokens is None:
            self._tokens = self._tokens_of(self._shards)
        return self._tokens

    def _tokens_of(self, shards: Shards) -> TokenEncoder:
        """Of the tokenizer that made the tokens of some shards."""
        made = shards.token_encoder
        if made is not None:
            return made
        specs = encoder_specs(self._model.options)
        source = specs["text"].encoder if "text" in specs else self._shards.text_encoder
        tokenizer = load_tokenizer(source)
        if tokenizer.digest != shards.tokenizer["sha256"]:
            raise InputError(
                f"the tokenizer of {source} is not the one that made the tokens of {shards.place}"
            )
        about = shards.tokenizer
        return TokenEncoder(tokenizer, about["max_tokens"], about.get("prefix", ""))

    def _trunk(self, side: str) -> tuple[Trunk, Shards]:
        """A whole encoder, and the shards as it reads them; loaded once."""
        if side not in self._trunks:
            plain = self._shards.with_activations({})
            spec = encoder_specs(self._model.options)[side]
            self._trunks[side] = vectors_trunk(spec, plain, self._device)
        return self._trunks[side]


def _pixels(item: NewItem, shards: Shards) -> NDArray[np.uint8] | None:
    """A picture as the shards would give it back: resized, and through their JPEG."""
    if item.image is None:
        return None
    try:
        pixels, _ = shrink(item.image, shards.picture_size)
    except PictureError as error:
        raise InputError(f"the picture of {item.item_id!r} cannot be read: {error}") from error
    return decode(encode(pixels, shards.jpeg_quality))


def _vectors(trunk: Trunk, items: Items) -> Tensor:
    """Frozen vectors [R, F] as the store gives them back, zeros for items without the modality."""
    has_R = items.has_text_I if trunk.side == "text" else items.has_picture_I
    rows_J = has_R.nonzero()[:, 0]
    vector_RF = torch.zeros(len(has_R), trunk.width)
    if len(rows_J):
        found = trunk.run(items.map(lambda each: each[rows_J]))[:, 0]
        vector_RF[rows_J] = found.half().float().cpu()  # the store holds 16 bits
    return vector_RF


def _require_content(items: Sequence[NewItem], read: Items) -> None:
    _refuse_empty(items, read.has_text_I | read.has_picture_I)


def _refuse_empty(items: Sequence[NewItem], has_R: Tensor) -> None:
    """Refuse items of which the model would know nothing.

    Raises:
        InputError: names the first.
    """
    for item, has in zip(items, has_R.tolist(), strict=True):
        if not has:
            raise InputError(f"{item.item_id!r} has no text and no picture that the model reads")


def _array(x: Tensor) -> Float32s:
    found: Float32s = x.detach().float().cpu().numpy()
    return found
