"""Draws the world: items with attributes and popularity, users with their sequences.

Every part has a generator of its own, seeded by (world version, seed, collection, part), and all
weights are integers: a part does not depend on which others were drawn, nor on the machine.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pmm.arrays import Int64s
from pmm.errors import InputError, nearest
from pmm.world import raw_ids
from pmm.world.attributes import ATTRIBUTES, LAGS, cells, step_weights
from pmm.world.platforms import Collection, Size, find_collection, find_target

WORLD_VERSION = 1
_LONGEST = 60
_SMALLEST = 20
_HOTTEST = 4096
_COLDEST = 205
# How many items and users there are, as multiples of the numbers in platforms.py.
_SCALES: dict[Size, tuple[float, float]] = {
    "tiny": (0.10, 0.065),
    "demo": (1.0, 1.0),
    "large": (10.0, 10.0),
}
_USERS_AT_ONCE = 1024
_TRIES = 32  # draws of items that the user has already, after which the action stays as it is


@dataclass(frozen=True, kw_only=True)
class WorldItems:
    """The catalogue of a collection, N items.

    Attributes:
        department: number of the department [N].
        values: attribute values [N, attributes].
        weight: popularity weight inside the department [N].
    """

    department: npt.NDArray[np.int8]
    values: npt.NDArray[np.int8]
    weight: Int64s

    def __len__(self) -> int:
        return len(self.weight)

    def of(self, numbers: Int64s) -> "WorldItems":
        """Some of the items, in the order of their numbers given."""
        return WorldItems(
            department=self.department[numbers],
            values=self.values[numbers],
            weight=self.weight[numbers],
        )


@dataclass(frozen=True, kw_only=True)
class WorldSequences:
    """What U users took, A actions in all, user by user in order.

    Attributes:
        starts: user u has the actions starts[u] .. starts[u + 1] [U + 1].
        items: item numbers, 0 .. N - 1 [A].
        gaps: time since the user's action before, in 0 .. 9 units of the platform; 0 is a tie [A].
    """

    starts: Int64s
    items: Int64s
    gaps: Int64s

    def __len__(self) -> int:
        return len(self.starts) - 1


def stream(collection: str, seed: int, part: str, *numbers: int) -> np.random.Generator:
    """The generator of one part of one collection; no part shares its stream with another."""
    words = [WORLD_VERSION, seed, zlib.crc32(collection.encode()), zlib.crc32(part.encode())]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*words, *numbers])))


def draw_items(collection: Collection, size: Size, seed: int) -> WorldItems:
    """Draw the catalogue: attributes uniform and independent, popularity with a cold end."""
    scale = _SCALES[size][0]
    counts = [max(_SMALLEST, round(part.items * scale)) for part in collection.departments]
    rng = stream(collection.name, seed, "items")
    values = [rng.integers(0, attribute.size, size=sum(counts)) for attribute in ATTRIBUTES]
    weights = [rng.permutation(_popularity(count, collection.tail)) for count in counts]
    return WorldItems(
        department=np.repeat(np.arange(len(counts), dtype=np.int8), counts),
        values=np.stack(values, axis=1).astype(np.int8),
        weight=np.concatenate(weights),
    )


def _popularity(count: int, tail: int) -> Int64s:
    """Weights (1 - rank / count) ** tail, plus five percent of the largest.

    A catalogue of hundreds cannot have the long tail of one of 85,000 without ten hits that
    everybody takes; a flat head with a cold end has the share of cold items without the hits.
    """
    left = np.arange(count, 0, -1, dtype=np.int64)
    weights: Int64s = _COLDEST + _HOTTEST * left**tail // count**tail
    return weights


def department_odds(collection: Collection) -> tuple[Int64s, Int64s]:
    """How users choose departments, in integers.

    Returns:
        the weight of each department as the favourite [D], and the weights of the departments of
        an action by the user's favourite [favourite, D]; each row has the same sum.
    """
    share = np.asarray([part.share for part in collection.departments], dtype=np.int64)
    loyal = np.eye(len(share), dtype=np.int64) * collection.loyalty * share.sum()
    return share, loyal + (100 - collection.loyalty) * share[None, :]


def draw_sequences(
    collection: Collection, items: WorldItems, size: Size, seed: int
) -> WorldSequences:
    """Draw every user's sequence: its length, its departments, a walk inside each department."""
    rng = stream(collection.name, seed, "users")
    users = max(20, round(collection.users * _SCALES[size][1]))
    excess = rng.geometric(1 / (1 + collection.mean_length - collection.shortest), size=users) - 1
    # No user can empty a department, so none has to take an item again.
    longest = min(_LONGEST, int(np.bincount(items.department).min()) - 1)
    lengths = np.minimum(collection.shortest + excess, longest)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    departments = _draw_departments(collection, lengths, rng)
    gaps = np.maximum(rng.integers(-4, 10, size=len(departments)), 0)
    taken = np.zeros(len(departments), dtype=np.int64)
    for number in range(len(collection.departments)):
        inside = departments == number
        owners = np.repeat(np.arange(users), lengths)[inside]
        counts = np.bincount(owners, minlength=users)
        walk_rng = stream(collection.name, seed, "walk", number)
        taken[inside] = _walk(items, number, counts, collection.noise, walk_rng)
    return WorldSequences(starts=starts, items=taken, gaps=gaps)


def _draw_departments(collection: Collection, lengths: Int64s, rng: np.random.Generator) -> Int64s:
    share, odds = department_odds(collection)
    favourite = _pick(np.broadcast_to(share, (len(lengths), len(share))), rng)
    return _pick(odds[np.repeat(favourite, lengths)], rng)


def _pick(weights: Int64s, rng: np.random.Generator) -> Int64s:
    """Draw a column for each row, with probability proportional to the integer weights."""
    upto = np.cumsum(weights, axis=1)
    drawn = (rng.random(len(weights)) * upto[:, -1]).astype(np.int64)
    picked: Int64s = (upto > drawn[:, None]).argmax(axis=1)
    return picked


def _walk(
    items: WorldItems, department: int, counts: Int64s, noise: int, rng: np.random.Generator
) -> Int64s:
    """Walk each user `counts[u]` steps through a department; all steps, user by user."""
    members = np.flatnonzero(items.department == department)
    values, weight = items.values[members], items.weight[members]
    tables = [step_weights(values, lag, "both") for lag in LAGS]
    own_cell = [cells(values, lag, "both") for lag in LAGS]
    starts = np.concatenate([[0], np.cumsum(counts)])
    taken = np.zeros(starts[-1], dtype=np.int64)
    for first in range(0, len(counts), _USERS_AT_ONCE):
        users = np.arange(first, min(first + _USERS_AT_ONCE, len(counts)))
        for step in range(int(counts[users].max(initial=0))):
            users = users[counts[users] > step]
            free = np.broadcast_to(weight, (len(users), len(weight))).copy()
            past = taken[starts[users][:, None] + np.arange(step)]
            heed = rng.random(len(users)) * 100 >= noise
            for lag, table, cell in zip(LAGS, tables, own_cell, strict=True):
                if step >= lag:
                    row = np.where(heed, cell[past[:, step - lag]], len(table) - 1)
                    free *= table[row]
            np.put_along_axis(free, past, 0, axis=1)
            taken[starts[users] + step] = _pick(free, rng)
    return members[taken]


def with_strays(
    drawn: WorldSequences, items: WorldItems, percent: int, rng: np.random.Generator
) -> WorldSequences:
    """The same sequences with some actions replaced by strays: clicks that mean nothing.

    A stray is an item of the same department, drawn by popularity, that its user has not taken
    otherwise. What came after still follows the action that is gone.

    Args:
        drawn: what the users took.
        items: the catalogue.
        percent: of the actions that are replaced.
        rng: where it is drawn from.
    """
    owners = np.repeat(np.arange(len(drawn)), np.diff(drawn.starts))
    found = drawn.items.copy()
    taken = set(zip(owners.tolist(), found.tolist(), strict=True))
    strays = np.flatnonzero(rng.random(len(owners)) * 100 < percent)
    upto = {}
    for number in np.unique(items.department).tolist():
        members = np.flatnonzero(items.department == number)
        upto[number] = members, np.cumsum(items.weight[members])
    for action in strays.tolist():
        members, weight = upto[int(items.department[drawn.items[action]])]
        for point in (rng.random(_TRIES) * weight[-1]).astype(np.int64):
            item = int(members[np.searchsorted(weight, point, side="right")])
            if (pair := (int(owners[action]), item)) not in taken:
                found[action] = item
                taken.add(pair)
                break
    return WorldSequences(starts=drawn.starts, items=found, gaps=drawn.gaps)


@dataclass(frozen=True)
class World:
    """A size, a seed, and the per cent of strays among the actions (`with_strays`).

    The rest is drawn when asked for, a collection at a time, and kept.
    """

    size: Size
    seed: int
    strays: int = 0

    def items(self, collection: str) -> WorldItems:
        """The catalogue of a collection."""
        return _items(self, collection)

    def sequences(self, collection: str) -> WorldSequences:
        """What the users of a collection took."""
        return _sequences(self, collection)

    def item_ids(self, collection: str) -> tuple[str, ...]:
        """The raw ids of the items, in the order of `items`."""
        return _item_ids(self, collection)

    def user_ids(self, collection: str) -> tuple[str, ...]:
        """The raw ids of the users, in the order of `sequences`."""
        return _user_ids(self, collection)

    def target_items(self, name: str) -> Int64s:
        """The item numbers of a target, in its collection's catalogue."""
        target = find_target(name)
        items = self.items(target.collection)
        if target.subject is None:
            return np.arange(len(items))
        return np.flatnonzero(items.department == target.department)


@lru_cache(maxsize=16)
def _items(world: World, collection: str) -> WorldItems:
    return draw_items(find_collection(collection), world.size, world.seed)


@lru_cache(maxsize=16)
def _sequences(world: World, collection: str) -> WorldSequences:
    items = world.items(collection)
    drawn = draw_sequences(find_collection(collection), items, world.size, world.seed)
    if not world.strays:
        return drawn
    rng = stream(collection, world.seed, "strays")
    return with_strays(drawn, items, world.strays, rng)


@lru_cache(maxsize=16)
def _item_ids(world: World, collection: str) -> tuple[str, ...]:
    rng = stream(collection, world.seed, "item ids")
    platform = find_collection(collection).platform
    return raw_ids.item_ids(platform, len(world.items(collection)), rng)


@lru_cache(maxsize=16)
def _user_ids(world: World, collection: str) -> tuple[str, ...]:
    rng = stream(collection, world.seed, "user ids")
    platform = find_collection(collection).platform
    return raw_ids.user_ids(platform, len(world.sequences(collection)), rng)


def generate(size: Size = "demo", seed: int = 0, strays: int = 0) -> World:
    """The world of this size and seed. Nothing is drawn until it is asked for.

    Raises:
        InputError: an unknown size, a negative seed, or strays outside 0 to 100.
    """
    if size not in _SCALES:
        raise InputError(f'the embedded world has no size "{size}" ({nearest(size, _SCALES)})')
    if seed < 0:
        raise InputError(f"the seed of the embedded world must be 0 or more, not {seed}")
    if not 0 <= strays <= 100:
        raise InputError(f"strays are a per cent of the actions, 0 to 100, not {strays}")
    return World(size=size, seed=seed, strays=strays)
