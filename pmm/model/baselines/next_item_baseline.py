"""The losses of the next item that baselines choose from by an option.

Shape suffixes: I distinct items, R prediction rows, D width, W what the user encoder is given of an
item, B users, S = L + 1 slots, L inputs.
"""

from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from pmm.data.batch import Batch
from pmm.model.baselines.sequence_baseline import Encoded, SequenceBaseline, given
from pmm.model.losses.next_item import (
    LogQ,
    Reject,
    Similarity,
    in_batch_softmax,
    own_columns,
    scored_items,
)
from pmm.model.losses.of_baselines import (
    PredictionRows,
    SameTarget,
    binary_cross_entropy,
    bpr,
    cosine_softmax,
    full_softmax,
    prediction_rows,
)
from pmm.model.protocol import ModelOptions

Loss = Literal["in_batch", "full", "bce", "bpr", "cosine"]
"""Of the next item. "in_batch": PMMRec's softmax over the batch's slots. "full": over all items.
"bce", "bpr": one drawn negative at each input. "cosine": over the batch's targets, UniSRec's and
VQ-Rec's pre-training."""


class NextItemOptions(ModelOptions, Protocol):
    """The options that the losses read."""

    @property
    def width(self) -> int:
        """D, of items and users."""
        ...

    @property
    def loss(self) -> Loss:
        """Which one is minimised."""
        ...

    @property
    def logq(self) -> LogQ:
        """Of "in_batch", as `reject`; both mean what PMMRec's `dap_...` mean."""
        ...

    @property
    def reject(self) -> Reject:
        """Columns that do not count as negatives."""
        ...

    @property
    def similarity(self) -> Similarity:
        """Of "in_batch" and "full"; "cosine" is by cosine, "bce" and "bpr" by product."""
        ...

    @property
    def tau(self) -> float:
        """The similarity is divided by it."""
        ...

    @property
    def same_target(self) -> SameTarget:
        """Of "cosine": what rows with the same next item do to each other."""
        ...


class NextItemBaseline(SequenceBaseline):
    """A baseline that scores by dot product or cosine, under any of the losses."""

    options: NextItemOptions

    def item_vectors(self, e_IW: Tensor) -> Tensor:
        """What items are scored with, [I, D]; of length 1 where the loss compares by cosine."""
        cosine = self.options.similarity == "cosine" or self.options.loss == "cosine"
        return scored_items(e_IW[:, : self.width], "cosine" if cosine else "dot")

    @property
    def temperature(self) -> float:
        """Of the losses that divide by one."""
        return 1.0 if self.options.loss in ("bce", "bpr") else self.options.tau

    def loss(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """The loss of the next item at each input, a float32 scalar.

        Args:
            batch: sequences over distinct items.
            generator: of drawn negatives and of what pre-training makes up, on the batch's device.
        """
        found = self.encode_batch(batch)
        match self.options.loss:
            case "in_batch":
                return self._in_batch(found, batch)
            case "full":
                return self._full(found, batch)
            case "cosine":
                return self.cosine_loss(found, batch, given(generator))
            case "bce" | "bpr":
                return self._drawn(found, batch, given(generator))

    def cosine_loss(self, found: Encoded, batch: Batch, generator: Generator) -> Tensor:
        """Pre-training of UniSRec and VQ-Rec, at every input."""
        options, rows = self.options, prediction_rows(found.user_BLD, batch.slot_BS)
        # Every position is a row here, so a user's own later and earlier items are targets of other
        # rows, and would be his negatives: they are left out.
        own_BI = own_columns(batch.slot_BS, len(found.item_IW)) > 0
        return cosine_softmax(
            rows.user_ND,
            found.item_IW[:, : self.width],
            rows.target_N,
            tau=options.tau,
            same_target=options.same_target,
            barred_NI=own_BI[rows.owner_N],
            synthetic_ND=self.synthetic_negatives(rows, batch, generator),
        )

    def synthetic_negatives(
        self,
        rows: PredictionRows,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        generator: Generator,  # noqa: ARG002
    ) -> Tensor | None:
        """One more negative for each row of the cosine loss, [R, D]; None: there is none."""
        return None

    def _in_batch(self, found: Encoded, batch: Batch) -> Tensor:
        options = self.options
        return in_batch_softmax(
            found.user_BLD,
            found.item_IW[:, : self.width],
            batch.slot_BS,
            batch.log_p_I,
            logq=options.logq,
            reject=options.reject,
            similarity=options.similarity,
            tau=options.tau,
        )

    def _full(self, found: Encoded, batch: Batch) -> Tensor:
        every = torch.arange(1, self.n_items + 1, device=batch.slot_BS.device)
        return full_softmax(
            found.user_BLD,
            self.of_numbers(every)[:, : self.width],
            batch.numbers(),
            similarity=self.options.similarity,
            tau=self.options.tau,
        )

    def _drawn(self, found: Encoded, batch: Batch, generator: Generator) -> Tensor:
        """One negative at each input, from outside the user's items."""
        known_IW, place_BL = self.with_negatives(found.item_IW, batch, generator)
        compare = bpr if self.options.loss == "bpr" else binary_cross_entropy
        return compare(found.user_BLD, known_IW[:, : self.width], batch.slot_BS, place_BL)
