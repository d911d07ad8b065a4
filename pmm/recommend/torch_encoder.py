"""A model in torch, asked for vectors; and what it makes of items that it was not trained on.

A new item takes the way of all others: its text through the tokenizer of the shards, its picture
through their resize and their JPEG, both through the encoders of the training.

Shape suffixes: as of `pmm.recommend.encoder`; F width of a frozen vector, I items of a batch.
"""

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.arrays import Float32s
from pmm.errors import InputError
from pmm.model.protocol import Recommender
from pmm.recommend.answers import NewItem
from pmm.recommend.item_reader import ContentReading, ItemReader, Pictures, Texts, refuse_empty
from pmm.runs.device import mixed
from pmm.shards.activations import Trunk
from pmm.shards.items import Items
from pmm.shards.kinds import Side

ITEMS_AT_ONCE = 64
"""New items encoded together."""


class TorchEncoder:
    """An `Encoder` (`pmm.recommend.encoder`) over a model in eval mode."""

    def __init__(
        self,
        model: Recommender,
        *,
        n_items: int,
        reading: Callable[[], ContentReading],
        whole: Callable[[Side], Trunk],
        dtype: torch.dtype,
    ) -> None:
        """Take a model.

        Args:
            model: trained.
            n_items: of its catalogue; new items are numbered behind it.
            reading: how the content of new items is read; asked once, when the first one comes.
            whole: the whole encoder of a modality, of models on frozen vectors; asked once.
            dtype: of the matrix products, as in evaluation.
        """
        self._model, self._n_items, self._dtype = model.eval(), n_items, dtype
        self._reading, self._whole = reading, whole
        self._device = next(model.parameters()).device
        self._lock = Lock()
        """Encoders of content are loaded once, and run one at a time."""
        self._trunks: dict[Side, Trunk] = {}
        self._reader: ItemReader | None = None
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
        with self._lock:
            self._reader = reader = self._reader or ItemReader(self._reading())
        pictures = reader.pictures(items)
        with self._lock, torch.inference_mode(), mixed(self._device, self._dtype):
            read = _items(reader.texts(items), pictures, self._n_items)
            if self._model.options.reads != "none":
                refuse_empty(items, (read.has_text_I | read.has_picture_I).numpy())
                encoded_RW: Tensor = self._model.encode_items(read.to(self._device)).float()
                return encoded_RW
            vectors = {}
            sides: tuple[Side, ...] = ("text", "vision")
            for side in sides:
                if self._model.options.content in (side, "both"):
                    vectors[side] = _vectors(self._trunk(side), read)
            has_R = torch.stack([(each != 0).any(1) for each in vectors.values()]).any(0)
            refuse_empty(items, has_R.numpy())
            on_device = {str(side): each.to(self._device) for side, each in vectors.items()}
            made_RW: Tensor = self._model.encode_vectors(on_device).float()
            return made_RW

    def _trunk(self, side: Side) -> Trunk:
        """A whole encoder, loaded once."""
        if side not in self._trunks:
            self._trunks[side] = self._whole(side)
        return self._trunks[side]


def _items(texts: Texts, pictures: Pictures, behind: int) -> Items:
    """New items as a batch has them; numbers are behind the catalogue's."""
    return Items(
        item_I=torch.arange(len(texts.token_IT)) + behind + 1,
        token_IT=torch.from_numpy(texts.token_IT),
        token_mask_IT=torch.from_numpy(texts.mask_IT),
        picture_I3HW=torch.from_numpy(pictures.picture_I3HW),
        has_text_I=torch.from_numpy(texts.has_text_I),
        has_picture_I=torch.from_numpy(pictures.has_picture_I),
    )


def _vectors(trunk: Trunk, items: Items) -> Tensor:
    """Frozen vectors [R, F] as the store gives them back, zeros for items without the modality."""
    has_R = items.has_text_I if trunk.side == "text" else items.has_picture_I
    rows_J = has_R.nonzero()[:, 0]
    vector_RF = torch.zeros(len(has_R), trunk.width)
    if len(rows_J):
        found = trunk.run(items.map(lambda each: each[rows_J]))[:, 0]
        vector_RF[rows_J] = found.half().float().cpu()  # the store holds 16 bits
    return vector_RF


def _array(x: Tensor) -> Float32s:
    found: Float32s = x.detach().float().cpu().numpy()
    return found
