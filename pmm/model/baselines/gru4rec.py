"""GRURec: a GRU over items known by their ids (GRU4Rec; Hidasi et al. 2016)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import TRAINING, check_options
from pmm.model.item_parts.item_table import ItemTable
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import SameTarget
from pmm.model.model_entry import DEFAULT, ModelEntry, Settings
from pmm.model.protocol import ModelOptions
from pmm.model.search_space import CONVOLUTION, IN_BATCH, SIZES
from pmm.model.user_encoders.gru import GruEncoder


@dataclass(frozen=True, kw_only=True)
class Gru4recOptions(ModelOptions):
    """What GRURec is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["gru4rec"] = "gru4rec"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.1
    """Of the GRU's input."""
    table_std: float = 0.0
    """Of the table of ids at the start; 0: Xavier-normal, as in the published code. A GRU does not
    normalise what it reads, and learns no worse from it (docs/log.md)."""
    user_blocks: int = 2
    """Layers of the GRU."""
    dense: bool = False
    """A linear layer behind the GRU, as RecBole has it."""
    user_convolution: int = 0
    """Items that a causal convolution in front of it reads at once; 0: there is none."""
    loss: Loss = "in_batch"
    logq: LogQ = "off"
    reject: Reject = "same_ids"
    similarity: Similarity = "dot"
    tau: float = 1.0
    same_target: SameTarget = "masked"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def knows_items(self) -> bool:
        """Each by its row of the table."""
        return True


class Gru4rec(NextItemBaseline):
    """Rows of a table, read by a GRU."""

    options: Gru4recOptions

    def __init__(self, options: Gru4recOptions, n_items: int) -> None:
        super().__init__(options, n_items)
        self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.user_encoder = GruEncoder(
            self.width,
            layers=options.user_blocks,
            dropout=options.dropout,
            dense=options.dense,
            convolution=options.user_convolution,
        )

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """Their rows of the table, [I, D]."""
        row_ID: Tensor = self.items.table(item_I)
        return row_ID


ENTRY = ModelEntry(
    knows_by="ids",
    settings={
        DEFAULT: Settings(options=Gru4recOptions(), training=TRAINING),
        "original": Settings(
            options=Gru4recOptions(width=100, user_blocks=1, loss="bpr"),
            training={**TRAINING, "batch_users": 50, "weight_decay": 0.0},
        ),
    },
    space={**SIZES, **IN_BATCH, **CONVOLUTION},
    build=lambda options, inputs: Gru4rec(options, inputs.n_items),
)
