"""What training, evaluation and serving ask of a model, and of its options.

Both are Protocols to inherit from: `class Mine(nn.Module, Recommender)` has to say how items are
encoded, how users are, and what the losses of a batch are. Everything else has an answer here that
is right for a plain model, so nobody writes a stub, and nobody asks a model for its class or name.

Shape suffixes: I distinct items, B users, L positions of a window, W what the user encoder is given
of an item, D width.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import torch
from torch import Generator, Tensor, nn

from pmm.data.batch import Batch
from pmm.data.categories import Negatives
from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import CutEncoder
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import VisionEncoder
from pmm.shards.items import Items
from pmm.shards.kinds import Reads

UserScores: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores [B, I] from windows [B, L, W], bool [B, L] and `item_vectors` [I, D]."""


class ModelOptions(Protocol):
    """What is asked of the options of a model: a frozen dataclass, saved as [model] of a recipe."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the model in the registry; a recipe says it."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """L, the most recent items that the user encoder reads (R32)."""

    @property
    def reads(self) -> Reads:
        """What of an item's content has to be in a batch; ids and frozen vectors need nothing."""
        return "none"

    @property
    def content(self) -> Reads:
        """What of an item's content the model knows, be it from the batch or as frozen vectors."""
        return self.reads

    @property
    def negatives(self) -> Negatives:
        """Which items of a batch its losses take for an item's negatives, of those that they may:
        a batch then says of which group each item is."""
        return "batch"

    @property
    def knows_items(self) -> bool:
        """Whether a trained model holds something of each single item, as a vector or codes.

        It then ranks no other catalogue.
        """
        return False

    @property
    def of_one_target(self) -> tuple[str, ...]:
        """Parts that hold something of each single item, and without which the model can do."""
        return ()

    def elsewhere(self) -> Self:
        """The options of the same model without the parts of one target."""
        return self


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The encoders of content that a model runs, None where it has none.

    Their tensors are called `text. ...` and `vision. ...` in the model: what they froze is not
    stored with a run, and the optimiser gives them a learning rate of their own.
    """

    text: TextEncoder | None = None
    vision: VisionEncoder | None = None

    def __iter__(self) -> Iterator[CutEncoder]:
        """Those that there are."""
        return (each for each in (self.text, self.vision) if each is not None)


@dataclass(frozen=True, kw_only=True)
class OneItem:
    """An item encoder as plain modules for one item at a time, without packing: for export.

    What a side makes goes into `item`; a side that the item lacks is zeros under a mask of False.
    """

    text: nn.Module | None = None
    """int64 tokens [1, T], all real -> projected tokens [1, T, D]. None: no text is read."""
    vision: nn.Module | None = None
    """uint8 [1, 3, H, W] -> projected tokens [1, P, D]."""
    item: nn.Module
    """Of each side that is read, text first, tokens [1, K, D] and a bool mask [1, K] -> what
    `encode_items` gives, [1, W]."""


_LEAST = {"width": 1, "max_length": 1, "user_blocks": 0, "user_heads": 1, "inner": 1}
_LEAST |= {"table_std": 0, "user_convolution": 0}
_MOST = {"width": 1 << 16, "max_length": 1 << 16, "user_blocks": 1000, "user_heads": 1 << 16}
_MOST |= {"inner": 1 << 20, "table_std": 1000, "parts": 1 << 12, "centroids": 1 << 16}
_MOST |= {"permutation_epochs": 1 << 20, "user_convolution": 1 << 16}
"""Far beyond any model that was ever trained; more is a slip or damage, and no memory holds it."""


def faults_of_sizes(options: Any, least: Mapping[str, float] | None = None) -> list[str]:
    """What is wrong with the sizes, shares and temperatures that options of models share.

    Only the fields that the options have are asked.

    Args:
        options: of a model.
        least: smallest values of fields of its own, or others than usual of the shared ones.
    """
    found = [
        f"{name} must be at least {n}"
        for name, n in {**_LEAST, **(least or {})}.items()
        if not getattr(options, name, n) >= n
    ]
    found += [
        f"{name} must be at most {n:,}"
        for name, n in _MOST.items()
        if getattr(options, name, n) > n
    ]
    if not 0 <= getattr(options, "dropout", 0) < 1:
        found.append("dropout must be at least 0 and below 1")
    if not 0 < getattr(options, "tau", 1) < math.inf:
        found.append("tau must be above 0")
    if not 0 <= getattr(options, "dap_tau", 0) < math.inf:
        found.append("dap_tau must be at least 0")
    return found


class Recommender(Protocol):
    """A model, as the rest of the program sees it. It is also an `nn.Module`."""

    options: ModelOptions
    max_length: int
    """L: longer windows are never given."""

    # --- What every model has to say.

    @abstractmethod
    def encode_items(self, items: Items) -> Tensor:
        """What the user encoder reads of distinct items, [I, W]."""

    @abstractmethod
    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """What users are scored with, [B, D].

        Args:
            e_BLW: left-padded windows of `encode_items`, zeros at padding.
            valid_BL: bool, True at real items.
        """

    @abstractmethod
    def forward(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """The losses of a batch, float32 scalars.

        Args:
            batch: sequences over distinct items.
            generator: all chance of the loss comes from it (drawn negatives, corrupted sequences),
                so that a step is a function of its number. Dropout draws from torch's own.

        Returns:
            "loss", which is minimised, and any others by name, which are logged.
        """

    # --- What a model may say; these answers are right for most.

    def encode_vectors(self, vectors: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """What the user encoder reads of items that the catalogue does not have, [R, W].

        Of models on frozen vectors; those on content have `encode_items` for it.

        Args:
            vectors: "text", "vision" -> frozen vectors [R, F] as the encoder made them, zeros for
                an item that lacks the modality; those that the model reads.

        Raises:
            InputError: the model makes no item of vectors.
        """
        raise InputError(f"{self.options.name} makes no item of vectors")

    def item_vectors(self, e_IW: Tensor) -> Tensor:
        """What items are scored with, [I, D]: a score is its dot product with the user's vector."""
        return e_IW

    @property
    def scores_of_users(self) -> UserScores | None:
        """How users score items where that is no dot product; None: it is."""
        return None

    @property
    def temperature(self) -> float:
        """What a score is divided by to be a logit of the loss."""
        return 1.0

    def encoders(self) -> Encoders:
        """The encoders that run on an item's content."""
        return Encoders()

    def one_item(self) -> OneItem | None:
        """The item encoder of one item at a time; None: the model encodes no content itself."""
        return None

    frozen_by: Mapping[str, str] = MappingProxyType({})
    """"text", "vision" -> digest of the encoder whose frozen vectors are read."""

    recompute: bool = False
    """Set by training: keep few activations for the backward pass, compute the others again."""

    own_rates: Mapping[str, float] = MappingProxyType({})
    """Outermost part, or weight -> its learning rate as a multiple of `train.lr`. These have no
    weight decay."""

    def begin_epoch(self, epoch: int) -> None:  # noqa: ARG002
        """Called before each epoch, counted from 0."""
        return

    @property
    def learning_codes(self) -> bool:
        """Whether a first stage of training still runs (VQ-Rec's order of codes).

        Early stopping counts from its end: its evaluations say nothing of the model to come.
        """
        return False

    def after_backward(self) -> None:
        """Called between the backward pass and the optimiser's step; may drop gradients."""
        return

    # --- What `nn.Module` brings, as far as it is used.

    training: bool

    def __call__(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """`forward`, with its hooks."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Turn dropout on or off; returns the model."""

    def eval(self) -> Any:
        """Turn dropout off; returns the model."""

    def to(self, device: torch.device) -> Any:
        """Move all tensors; returns the model."""

    def modules(self) -> Iterator[nn.Module]:
        """All of its parts, itself included."""
        ...

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Its outermost parts."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All weights by name."""
        ...

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """All weights and stored buffers by name."""
        ...
