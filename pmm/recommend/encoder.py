"""What answers need of a model, whatever runs it: torch here, ONNX where there is no torch.

All arrays are NumPy's, so that nothing behind this file knows what computes them.

Shape suffixes: B users, L positions of a window, W what the user encoder is given of an item, D
width, N items of the catalogue, R new items.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s
from pmm.recommend.answers import NewItem


class Encoder(Protocol):
    """A trained model, asked for vectors."""

    max_length: int
    """L: the most recent items of a history that count."""
    temperature: float
    """What a score is divided by to be a logit."""
    by_product: bool
    """Whether a score is the inner product of user and item; else `scores` has it."""
    cannot_add: str
    """Why no item can be added; "": some can."""

    def users(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_]) -> Float32s:
        """What users are scored with, [B, D], of left-padded windows with zeros at padding."""
        ...

    def scores(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_], item_ND: Float32s) -> Float32s:
        """Scores [B, N] where they are no inner products."""
        ...

    def new_items(self, items: Sequence[NewItem]) -> tuple[Float32s, Float32s]:
        """What the user encoder reads of new items [R, W], and what they are scored with [R, D].

        Raises:
            InputError: a picture that is none, or nothing that the model reads.
        """
        ...
