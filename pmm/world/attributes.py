"""The latent attributes of items and the transition kernel that every platform shares.

An item is a point in attribute space. What a user takes next depends on what they took before,
attribute by attribute: `lag` says which earlier item an attribute follows (1 the last, 2 the one
before it), `moves` how it follows. No single earlier item decides the next one, so counts of item
pairs say little, while a model that reads the attributes off titles and pictures can learn each of
them from every user.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Channel = Literal["text", "picture"]
Sees = Literal["both", "text", "picture"]
Lag = Literal[1, 2]
LAGS: tuple[Lag, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One latent attribute; its values are 0 .. len(moves) - 1.

    Attributes:
        moves: integer weights of the steps, by (next value - earlier value) modulo the number of
            values. Integers, so that every machine draws the same sequences.
        lag: the earlier item that it follows, counted back inside the same department.
        shows: the modalities from which a reader can tell its value.
    """

    name: str
    moves: tuple[int, ...]
    lag: Lag
    shows: tuple[Channel, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.moves)

    def visible(self, sees: Sees) -> bool:
        """Whether somebody who sees this much can tell the value."""
        return sees == "both" or sees in self.shows


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(name="kind", moves=(8, 1, 2, 1), lag=1, shows=("text",)),
    Attribute(name="mood", moves=(1, 8, 1, 2), lag=2, shows=("text",)),
    Attribute(name="colour", moves=(6, 2, 1, 1, 1, 1), lag=2, shows=("text", "picture")),
    Attribute(name="motif", moves=(2, 1, 8, 1), lag=1, shows=("picture",)),
    Attribute(name="texture", moves=(8, 2, 1, 1), lag=2, shows=("picture",)),
)


def kernel(attribute: Attribute) -> npt.NDArray[np.int64]:
    """Weights of an attribute's next value given its earlier one: [earlier, next].

    >>> kernel(Attribute(name="x", moves=(5, 2, 1), lag=1, shows=("text",)))
    array([[5, 2, 1],
           [1, 5, 2],
           [2, 1, 5]])
    """
    value = np.arange(attribute.size)
    moves = np.asarray(attribute.moves, dtype=np.int64)
    weights: npt.NDArray[np.int64] = moves[(value - value[:, None]) % attribute.size]
    return weights


def cells(values: npt.NDArray[np.int8], lag: Lag, sees: Sees) -> npt.NDArray[np.int64]:
    """Number the combinations of the attributes with this lag that can be seen: [items].

    Args:
        values: attribute values [items, attributes].
    """
    cell = np.zeros(len(values), dtype=np.int64)
    for column, attribute in enumerate(ATTRIBUTES):
        if attribute.lag == lag and attribute.visible(sees):
            cell = cell * attribute.size + values[:, column]
    return cell


def step_weights(values: npt.NDArray[np.int8], lag: Lag, sees: Sees) -> npt.NDArray[np.int64]:
    """Weights of every item as the next one, by the cell of the earlier item: [cells + 1, items].

    The last row is all ones: it stands for "there is no earlier item". A cell in the sense of
    `cells`.
    """
    table = np.ones((1, len(values)), dtype=np.int64)
    for column, attribute in enumerate(ATTRIBUTES):
        if attribute.lag == lag and attribute.visible(sees):
            step = kernel(attribute)[:, values[:, column]]
            table = (table[:, None, :] * step[None, :, :]).reshape(-1, len(values))
    return np.concatenate([table, np.ones((1, len(values)), dtype=np.int64)])
