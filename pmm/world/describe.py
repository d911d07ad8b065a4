"""What the world promises, measured: per target its size, its oracles and its floors.

The protocol is the product's own in small: core 5 on the whole collection, a carved target keeps the users
with five actions inside, the last action is the test, the last two are kept from training, the whole
catalogue is ranked without the history, ties count against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmm.world.generate import World
from pmm.world.oracle import hit_rate, ndcg, oracle_ranks
from pmm.world.platforms import TARGETS, find_target

CORE = 5
COLD_BELOW = 10

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Core:
    """A target as its readers will see it: what is left of the sequences, by item number.

    Attributes:
        items: the item numbers that are ranked, ascending [C].
        sequences: each user's items in order, every one with at least five.
    """

    items: Ints
    sequences: list[list[int]]


def core(world: World, target_name: str) -> Core:
    """Filter the whole collection to its 5-core, then carve the target out of it."""
    target = find_target(target_name)
    drawn = world.sequences(target.collection)
    user = np.repeat(np.arange(len(drawn)), np.diff(drawn.starts))
    item = drawn.items
    while True:
        keep = (np.bincount(user)[user] >= CORE) & (np.bincount(item)[item] >= CORE)
        if keep.all():
            break
        user, item = user[keep], item[keep]
    if target.department is not None:
        inside = world.items(target.collection).department[item] == target.department
        user, item = user[inside], item[inside]
        keep = np.bincount(user)[user] >= CORE
        user, item = user[keep], item[keep]
    bounds = np.flatnonzero(np.diff(user)) + 1
    sequences = [part.tolist() for part in np.split(item, bounds)] if len(item) else []
    return Core(items=np.unique(item), sequences=sequences)


def popularity_ranks(kept: Core) -> npt.NDArray[np.int32]:
    """Ranks by the number of training actions: [U]."""
    counts = _train_counts(kept)
    return _ranks(kept, [counts] * len(kept.sequences))


def _train_counts(kept: Core) -> Ints:
    places = [np.searchsorted(kept.items, sequence[:-2]) for sequence in kept.sequences]
    return np.bincount(np.concatenate(places), minlength=len(kept.items))
