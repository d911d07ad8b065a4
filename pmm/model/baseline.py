"""Baselines: an item encoder and a user encoder from one grid, trained to name the next item.

A baseline is a name with its cell of the grid and its options; what PMMRec has too (the user
encoder, the loss) is PMMRec's own.

Shape suffixes: I distinct items, D width, B users, L inputs.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.model.item_table import ItemTable
from pmm.model.losses import LogQ, Reject, Similarity, in_batch_softmax, scored_items
from pmm.model.user_encoder import UserEncoder
from pmm.shards.batch import Batch, Items
from pmm.shards.read import Modality

BaselineName = Literal["sasrec"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a baseline stands in the grid."""

    items: Literal["ids"]
    """What stands for an item: its row of a table."""
    users: Literal["transformer"]
    """What reads a user's items: SASRec's causal Transformer, as in PMMRec."""


GRID: dict[BaselineName, Cell] = {"sasrec": Cell(items="ids", users="transformer")}


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """What a baseline is made of; docs/paper.md, section Baselines, has the sources."""

    name: BaselineName = "sasrec"
    width: int = 128
    """Width d of items and users."""
    max_length: int = 20
    """L, the most recent items that the user encoder reads (R32)."""
    dropout: float = 0.1
    user_blocks: int = 2
    user_heads: int = 2
    logq: LogQ = "on"
    """Of the in-batch softmax, as the next three; they mean what PMMRec's `dap_...` mean."""
    reject: Reject = "same_ids"
    similarity: Similarity = "dot"
    tau: float = 1.0

    def __post_init__(self) -> None:
        least = {"width": 1, "max_length": 1, "user_blocks": 0, "user_heads": 1}
        faults = [
            f"{name} must be at least {n}" for name, n in least.items() if getattr(self, name) < n
        ]
        if not 0 <= self.dropout < 1:
            faults.append("dropout must be at least 0 and below 1")
        if not self.tau > 0:
            faults.append("tau must be above 0")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def modality(self) -> Modality:
        """What of an item's content is read."""
        match GRID[self.name].items:
            case "ids":
                return "none"


class Baseline(nn.Module):
    """A baseline on a catalogue of so many items; all its weights are float32."""

    text = vision = None
    """The encoders whose content PMMRec reads; an item encoder on ids has none."""
    recompute = False
    """Asked of every model; there is little to compute again here."""

    def __init__(self, options: BaselineOptions, n_items: int) -> None:
        super().__init__()
        self.options = options
        self.max_length, self.width = options.max_length, options.width
        self.items = ItemTable(n_items, options.width)
        self.user_encoder = UserEncoder(
            options.width,
            max_length=options.max_length,
            blocks=options.user_blocks,
            heads=options.user_heads,
            dropout=options.dropout,
        )

    def encode_items(self, items: Items) -> Tensor:
        """Vectors [I, D] of distinct items."""
        return self.items(items)  # type: ignore[no-any-return]

    def encode_users(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of left-padded windows of item vectors; zeros at padding."""
        return self.user_encoder(e_BLD, valid_BL)  # type: ignore[no-any-return]

    def user_vectors(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """What users are scored with, [B, D]: the hidden state at the last position."""
        return self.encode_users(e_BLD, valid_BL)[:, -1]

    def item_vectors(self, e_ID: Tensor) -> Tensor:
        """What items are scored with, [I, D]: a score is its dot product with the user's vector."""
        return scored_items(e_ID, self.options.similarity)

    def loss(self, batch: Batch) -> Tensor:
        """The in-batch softmax of the next item at each input, a float32 scalar."""
        item_ID = self.encode_items(batch.items)
        slot_BL = batch.slot_BS[:, :-1]
        e_BLD = functional.pad(item_ID, (0, 0, 1, 0))[slot_BL]
        return in_batch_softmax(
            self.encode_users(e_BLD, slot_BL > 0),
            item_ID,
            batch.slot_BS,
            batch.log_p_I,
            logq=self.options.logq,
            reject=self.options.reject,
            similarity=self.options.similarity,
            tau=self.options.tau,
        )

    def forward(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """What training asks of every model: "loss", the scalar to minimise.

        Args:
            batch: sequences over distinct items.
            generator: not used; PMMRec corrupts sequences with it.
        """
        del generator
        return {"loss": self.loss(batch)}
