"""Text encoders whose attention is not BERT's, run by the library's own forward pass.

Relative positions, rotary ones, windows, causal masks: what a block needs beside its hidden states
differs by family, and the library's model makes it before its first block. So the model itself is
kept, with a tap in place of each block: one call of it embeds the texts and tells what it would
have given every block. The blocks then run on that, from the bottom to the cut or from the cut to
the top. Nothing of a family is written again here.

Shape suffixes: I items, T text tokens, N packed tokens of all items, D width; i and K:
items and tokens of a group that is padded together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import called
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TrainBlocks
from pmm.model.encoders.text_encoder import TextEncoder


@dataclass(frozen=True)
class FamilyLayout:
    """Where the parts of a family's model are."""

    layers: str
    norm: str | None = None
    """What follows the last block; it counts as part of it."""
    tuples: bool = False
    """A block returns its attention weights too, or None, behind the hidden states."""
    causal: bool = False
    """A token sees those before it alone, so only the last one knows the whole text."""


_DECODER = FamilyLayout("layers", norm="norm", causal=True)
LAYOUTS = {
    "mpnet": FamilyLayout("encoder.layer", tuples=True),
    "distilbert": FamilyLayout("transformer.layer"),
    "modernbert": FamilyLayout("layers", norm="final_norm"),
    "deberta": FamilyLayout("encoder.layer", tuples=True),
    "deberta-v2": FamilyLayout("encoder.layer", tuples=True),
    "electra": FamilyLayout("encoder.layer"),
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "llama": _DECODER,
    "mistral": _DECODER,
}
"""Families of which every member can be cut this way, but for DeBERTa's with a convolution."""

_ENDLESS = 1 << 30
"""Positions of a model that has no limit of its own."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
_CALLS: ContextVar[list[Call]] = ContextVar("calls of the taps")


class Tap(nn.Module):
    """Stands in a model in place of one of its blocks and notes with what it is called."""

    def __init__(self, block: nn.Module, *, tuples: bool) -> None:
        super().__init__()
        self.tuples = tuples
        # What a model asks its blocks about themselves, as ModernBERT for the kind of attention.
        for name, value in vars(block).items():
            if isinstance(value, str | int | float) and not hasattr(self, name):
                setattr(self, name, value)

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor | tuple[Tensor, None]:
        """Passes the hidden states on."""
        _CALLS.get().append((others, named))
        return (hidden, None) if self.tuples else hidden


class LibraryBlock(nn.Module):
    """A block that takes hidden states and returns hidden states, normed behind the last one."""

    def __init__(self, block: nn.Module, *, tuples: bool, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.norm, self.tuples = block, norm, tuples

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        """Of right-padded tokens."""
        found = self.block(hidden, *others, **named)
        hidden = found[0] if self.tuples else found
        return hidden if self.norm is None else self.norm(hidden)


class LibraryText(TextEncoder):
    """A text encoder of any family: cut where its layout is known, else whole.

    The stem is the library's model without its blocks, or all of it. What its blocks share, such as
    a table of relative positions, is part of the stem, hence frozen unless everything trains.
    """

    def __init__(self, model: Any, *, top: TrainBlocks, source: str = "") -> None:
        """Take the library's model apart.

        Args:
            model: of `AutoModel`; it is changed.
            top: how many blocks train.
            source: the name or folder that it was loaded from, for errors.

        Raises:
            InputError: there are not so many blocks.
        """
        config = model.config
        layout = layout_of(config)
        embeddings = model.get_input_embeddings()
        blocks = [] if layout is None else _taken(model, layout)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        super().__init__(model, blocks, width=int(config.hidden_size), top=top, source=source)
        self.causal = layout is not None and layout.causal
        self._rows, self._embedded = embeddings.weight.shape
        # MPNet counts positions from behind its padding id, as RoBERTa does.
        first = config.pad_token_id + 1 if config.model_type == "mpnet" else 0
        self._positions = int(getattr(config, "max_position_embeddings", _ENDLESS)) - first

    @property
    def positions(self) -> int:
        """The most tokens of a text."""
        return self._positions

    @property
    def vocabulary(self) -> int:
        """Rows of the table of sub-words."""
        return int(self._rows)

    def trunk(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """As of `TextEncoder`; of a whole encoder its last hidden states."""
        with self._gradients(), _noted() as calls:
            hidden_ITD: Tensor = self.stem(
                input_ids=token_IT, attention_mask=mask_IT.long()
            ).last_hidden_state
            for block, (others, named) in zip(self.blocks[: self.cut], calls, strict=False):
                hidden_ITD = block(hidden_ITD, *others, **named)
            return hidden_ITD

    def top(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """Packed hidden states [N, D] of the last block."""
        if not len(packing) or self.cut == len(self.blocks):
            return hidden_ND
        return packing.by_groups(hidden_ND, self._padded_top)

    def _padded_top(self, hidden_iKD: Tensor, mask_iK: Tensor) -> Tensor:
        # Its own embedding of the texts is not asked for, only what blocks get beside it: that
        # depends on how long texts are, and on none of their tokens.
        nothing = hidden_iKD.new_zeros(*mask_iK.shape, self._embedded)
        with self._gradients(), _noted() as calls:
            self.stem(inputs_embeds=nothing, attention_mask=mask_iK.long())
        for block, (others, named) in zip(self.blocks[self.cut :], calls[self.cut :], strict=True):
            hidden_iKD = called(block, hidden_iKD, *others, recompute=self.recompute, **named)
        return hidden_iKD

    def release_trunk(self) -> None:
        """Free the memory of the frozen weights but for what the top's blocks share with it."""
        if not self.frozen_stem:
            return
        if self.cut == len(self.blocks):
            self.stem = nn.Identity()
        else:
            self.stem.set_input_embeddings(nn.Identity())  # type: ignore[operator]
        for number in range(self.cut):
            self.blocks[number] = nn.Identity()


def layout_of(config: Any) -> FamilyLayout | None:
    """Where a model of this config is cut; None where it cannot be."""
    if getattr(config, "conv_kernel_size", 0) and config.model_type == "deberta-v2":
        return None  # the model itself calls a convolution between its first two blocks
    return LAYOUTS.get(config.model_type)


def require_cuttable(config: Any, top: TrainBlocks, name: str) -> None:
    """Refuse what is no encoder of texts, and to cut what cannot be cut.

    Args:
        config: of the library.
        top: how many blocks are to train.
        name: the encoder's, for the message.

    Raises:
        InputError: as said.
    """
    family = config.model_type
    if config.is_encoder_decoder or not getattr(config, "vocab_size", None):
        raise InputError(
            f"{name} is of the family {family!r}, which is no encoder of texts alone: choose an "
            "encoder such as BERT's family or MiniLM, E5, BGE, MPNet, ModernBERT"
        )
    if layout_of(config) is None and top not in (0, "all"):
        raise InputError(
            f"{name} is of the family {family!r}, which cannot be cut into a frozen trunk and "
            f"{top} blocks that train. Run it whole and frozen (model.text.train_blocks = 0 in a "
            f"recipe), or choose one of BERT's family or of {', '.join(sorted(LAYOUTS))}"
        )


def _taken(model: Any, layout: FamilyLayout) -> list[LibraryBlock]:
    """The blocks of a model, in whose place taps are put."""
    layers = model.get_submodule(layout.layers)
    norm = None
    if layout.norm is not None:
        norm = model.get_submodule(layout.norm)
        setattr(model, layout.norm, nn.Identity())
    blocks = []
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        blocks.append(LibraryBlock(layer, tuples=layout.tuples, norm=norm if last else None))
        layers[number] = Tap(layer, tuples=layout.tuples)
    return blocks


@contextmanager
def _noted() -> Iterator[list[Call]]:
    """What the taps are called with meanwhile, in the order of the blocks."""
    # By context, not by the module: several threads may run one model.
    calls: list[Call] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)
