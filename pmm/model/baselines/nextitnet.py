"""NextItNet: dilated causal convolutions over items known by their ids (Yuan et al. 2019)."""

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
from pmm.model.search_space import CONVOLUTION, IN_BATCH, RATES, WIDTH
from pmm.model.user_encoders.dilated_convolutions import NextItNetEncoder


@dataclass(frozen=True, kw_only=True)
class NextitnetOptions(ModelOptions):
    """What NextItNet is made of; docs/paper.md, Baselines, has the sources of all values.

    It has no dropout, as published.
    """

    name: Literal["nextitnet"] = "nextitnet"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    table_std: float = 0.02
    """As of SASRec."""
    user_blocks: int = 2
    """Repeats of the pair of blocks."""
    dense: bool = False
    """A linear layer behind the convolutions, as RecBole has it."""
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


class Nextitnet(NextItemBaseline):
    """Rows of a table, read by convolutions."""

    options: NextitnetOptions

    def __init__(self, options: NextitnetOptions, n_items: int) -> None:
        super().__init__(options, n_items)
        self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.user_encoder = NextItNetEncoder(
            self.width,
            repeats=options.user_blocks,
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
        DEFAULT: Settings(options=NextitnetOptions(), training=TRAINING),
        "original": Settings(
            options=NextitnetOptions(width=100, loss="full"),
            training={**TRAINING, "batch_users": 128, "weight_decay": 0.0},
        ),
    },
    space={**RATES, **WIDTH, **IN_BATCH, **CONVOLUTION},
    build=lambda options, inputs: Nextitnet(options, inputs.n_items),
)
