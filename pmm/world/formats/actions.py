"""The interaction log of a target: who took what when, in the order in which a shop writes it."""

from dataclasses import dataclass

import numpy as np

from pmm.arrays import Int64s
from pmm.world.generate import World, stream
from pmm.world.platforms import find_target

PERIOD = 732
"""Length of the log in units of time (days at H&M): the two years of the real one."""


@dataclass(frozen=True, kw_only=True)
class Actions:
    """A actions in order of time; a user's actions of one time are in the order of the sequence.

    Attributes:
        user, item: numbers in the collection [A].
        time: 0 .. PERIOD - 1 [A].
        tied: how many have the time of the same user's action before.
    """

    user: Int64s
    item: Int64s
    time: Int64s
    tied: int


def actions_of(world: World, target_name: str, *, user_order: Int64s | None = None) -> Actions:
    """The actions inside a target.

    Args:
        user_order: what comes first among the actions of one time, by user number; the number
            itself where none is given.
    """
    target = find_target(target_name)
    drawn = world.sequences(target.collection)
    lengths = np.diff(drawn.starts)
    user = np.repeat(np.arange(len(drawn)), lengths)
    time = _times(world, target.collection)
    if target.department is not None:
        inside = world.items(target.collection).department[drawn.items] == target.department
    else:
        inside = np.ones(len(user), dtype=bool)
    user, item, time = user[inside], drawn.items[inside], time[inside]
    tied = int(((np.diff(time) == 0) & (np.diff(user) == 0)).sum())
    place = user if user_order is None else user_order[user]
    order = np.lexsort((place, time))
    return Actions(user=user[order], item=item[order], time=time[order], tied=tied)


def _times(world: World, collection: str) -> Int64s:
    """Time of every action: each user starts at random and ends inside the period."""
    drawn = world.sequences(collection)
    lengths = np.diff(drawn.starts)
    gaps = drawn.gaps.copy()
    gaps[drawn.starts[:-1]] = 0
    passed = np.cumsum(gaps)
    passed -= np.repeat(passed[drawn.starts[:-1]], lengths)
    last = passed[drawn.starts[1:] - 1]
    rng = stream(collection, world.seed, "calendar")
    start = (rng.random(len(drawn)) * (PERIOD - last)).astype(np.int64)
    times: Int64s = np.repeat(start, lengths) + passed
    return times
