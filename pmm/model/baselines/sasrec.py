"""SASRec: a causal Transformer over items known by their ids (Kang and McAuley 2018)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import TRAINING, check_options
from pmm.model.item_parts.item_table import ItemTable
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import SameTarget
from pmm.model.model_entry import DEFAULT, ModelEntry, Settings
from pmm.model.protocol import ModelOptions
from pmm.model.search_space import IN_BATCH, SIZES, USER_ENCODER
from pmm.model.user_encoders.choice import AnyUserEncoder, UserEncoderOptions, make_user_encoder


@dataclass(frozen=True, kw_only=True)
class SasrecOptions(UserEncoderOptions, ModelOptions):
    """What SASRec is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["sasrec"] = "sasrec"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.1
    table_std: float = 0.02
    """Of the table of ids at the start, whose values are normal; 0: Xavier-normal, as in the
    published code, which is slow to learn on a small catalogue (docs/log.md)."""
    user_blocks: int = 2
    user_heads: int = 2
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


class Sasrec(NextItemBaseline):
    """Rows of a table, read by PMMRec's user encoder."""

    options: SasrecOptions
    user_encoder: AnyUserEncoder

    def __init__(self, options: SasrecOptions, n_items: int) -> None:
        super().__init__(options, n_items)
        self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.user_encoder = make_user_encoder(
            options,
            self.width,
            max_length=options.max_length,
            blocks=options.user_blocks,
            heads=options.user_heads,
            dropout=options.dropout,
        )
        position = getattr(self.user_encoder, "position", None)
        if position is not None:
            # Xavier's would be many times as long as a row of a large table, and hide the item.
            nn.init.zeros_(position.weight)

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """Their rows of the table, [I, D]."""
        row_ID: Tensor = self.items.table(item_I)
        return row_ID

    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """The hidden state at the last position, [B, D]; the last block computes no other."""
        hidden_B1D: Tensor = self.user_encoder(e_BLW, valid_BL, last=True)
        return hidden_B1D[:, 0]


ENTRY = ModelEntry(
    knows_by="ids",
    settings={
        DEFAULT: Settings(options=SasrecOptions(), training=TRAINING),
        "original": Settings(
            options=SasrecOptions(width=50, max_length=50, user_heads=1, dropout=0.2, loss="bce"),
            training={**TRAINING, "batch_users": 128, "weight_decay": 0.0, "beta2": 0.98},
        ),
    },
    space={**SIZES, **IN_BATCH, **USER_ENCODER},
    build=lambda options, inputs: Sasrec(options, inputs.n_items),
)
