"""What baselines share: a user encoder over items that are known by their catalogue numbers.

A baseline says what stands for an item (`of_numbers`), which user encoder reads that, and its loss.
Shared are also the checks of options, and how baselines train.

Shape suffixes: I distinct items, N items of the catalogue, R prediction rows, F width of frozen
vectors, D width, W what the user encoder is given of an item, B users, S = L + 1 slots, L inputs.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.model.losses.of_baselines import draw_negatives
from pmm.model.protocol import ModelOptions, Recommender, faults_of_sizes
from pmm.shards.items import Items

TRAINING: dict[str, Any] = {"lr": 1e-3, "batch_users": 256}
"""How every baseline trains, where it is not as the defaults (docs/paper.md, Baselines)."""
SAMPLES = 128
"""Users whose prefixes are the 2,048 samples of a published step, where a user has sixteen."""


class SequenceOptions(ModelOptions, Protocol):
    """The options of every baseline."""

    @property
    def width(self) -> int:
        """D, of items and users."""
        ...


def check_options(
    options: Any, least: Mapping[str, float] | None = None, faults: Iterable[str] = ()
) -> None:
    """Refuse values out of range, all at once; only the fields that the options have are asked.

    Args:
        options: of a baseline.
        least: smallest values of fields of its own, beside those of the shared ones.
        faults: what else is wrong, of which it is the baseline that knows.

    Raises:
        ValueError: names them.
    """
    found = [*faults_of_sizes(options, least), *faults]
    if found:
        raise ValueError("; ".join(found))


@dataclass(frozen=True)
class Encoded:
    """What a model makes of a batch."""

    item_IW: Tensor
    """Of its distinct items."""
    e_BLW: Tensor
    """The same in windows; zeros at padding."""
    user_BLD: Tensor
    """The hidden state at each input."""


class SequenceBaseline(nn.Module, Recommender):
    """A baseline on a catalogue; all its weights are float32.

    A subclass builds its item part, then its `user_encoder`: the order in which they are built is
    the order in which they draw random numbers, so it decides what a seed means.
    """

    options: SequenceOptions
    user_encoder: nn.Module

    def __init__(self, options: SequenceOptions, n_items: int) -> None:
        super().__init__()
        self.options, self.n_items = options, n_items
        self.max_length, self.width = options.max_length, options.width

    @abstractmethod
    def of_numbers(self, item_I: Tensor) -> Tensor:
        """What stands for items by their catalogue numbers 1..N, [I, W].

        Its first D values are the vector that users are compared with.
        """

    def encode_items(self, items: Items) -> Tensor:
        """What stands for distinct items, [I, W]; their content is not read, but their numbers."""
        return self.of_numbers(items.item_I)

    def encode_users(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of left-padded windows of items; zeros at padding."""
        hidden_BLD: Tensor = self.user_encoder(e_BLW, valid_BL)
        return hidden_BLD

    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """What users are scored with, [B, D]: the hidden state at the last position."""
        return self.encode_users(e_BLW, valid_BL)[:, -1]

    def forward(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """What training asks of every model: "loss", the scalar to minimise.

        Args:
            batch: sequences over distinct items.
            generator: as of `loss`.
        """
        return {"loss": self.loss(batch, generator)}

    @abstractmethod
    def loss(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """The loss of the next item at each input, a float32 scalar.

        Args:
            batch: sequences over distinct items.
            generator: of drawn negatives and of what pre-training makes up, on the batch's device.
        """

    def encode_batch(self, batch: Batch) -> Encoded:
        """Items, windows and hidden states of a batch."""
        item_IW = self.encode_items(batch.items)
        slot_BL = batch.slot_BS[:, :-1]
        e_BLW = functional.pad(item_IW, (0, 0, 1, 0))[slot_BL]
        return Encoded(item_IW, e_BLW, self.encode_users(e_BLW, slot_BL > 0))

    def with_negatives(
        self, item_IW: Tensor, batch: Batch, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """The batch's items with a drawn one for each input behind them, and its slot [B, L].

        Each distinct negative is encoded once, however many inputs drew it.
        """
        negative_BL = draw_negatives(batch.numbers(), self.n_items, generator)
        distinct, place_BL = torch.unique(negative_BL, return_inverse=True)
        return torch.cat([item_IW, self.of_numbers(distinct)]), place_BL + len(item_IW) + 1


def given(generator: Generator | None) -> Generator:
    """The generator, without which nothing can be drawn.

    Raises:
        ValueError: there is none.
    """
    if generator is None:
        raise ValueError("this loss draws at random: give it a generator")
    return generator
