"""What the world promises, measured: per target its size, its oracles and its floors.

The protocol is the product's own in small: core 5 on the whole collection, a carved target keeps
the users with five actions inside, the last action is the test, the last two are kept from
training, the whole catalogue is ranked without the history, ties count against. (A second core
beside ingest's on purpose: the world stands upstream of it.)
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pmm.arrays import Float64s, Int64s
from pmm.world.attributes import LAGS, Sees
from pmm.world.generate import World
from pmm.world.oracle import Ranks, hit_rate, ndcg, oracle_ranks
from pmm.world.platforms import TARGETS, find_target

CORE = 5
COLD_BELOW = 10


@dataclass(frozen=True, kw_only=True)
class TargetCore:
    """A target as its readers will see it: what is left of the sequences, by item number.

    Attributes:
        items: the item numbers that are ranked, ascending [C].
        sequences: each user's items in order, every one with at least five.
    """

    items: Int64s
    sequences: list[list[int]]


def core(world: World, target_name: str) -> TargetCore:
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
    return TargetCore(items=np.unique(item), sequences=sequences)


def popularity_ranks(kept: TargetCore) -> Ranks:
    """Ranks of the last items by the number of training actions: [U]."""
    return _ranks(kept, itertools.repeat(train_counts(kept).astype(np.float64)))


def pair_ranks(kept: TargetCore) -> Ranks:
    """Ranks of the last items by counts of item pairs alone: [U].

    An item scores the number of times it came one step after the last item in training, plus the
    number of times it came two steps after the one before: the two distances at which the world's
    kernel works, the strongest of the count models that we tried. Ties go by popularity.
    """
    places = [np.searchsorted(kept.items, sequence) for sequence in kept.sequences]
    training = [one[:-2] for one in places]
    followers = [_followers(training, lag, len(kept.items)) for lag in LAGS]
    counts = train_counts(kept)
    popularity = counts / (2 * max(counts.max(initial=0), 1))

    def score(one: Int64s) -> Float64s:
        seen = [after[one[-1 - lag]] for lag, after in zip(LAGS, followers, strict=True)]
        row: Float64s = np.bincount(np.concatenate(seen), minlength=len(counts)) + popularity
        return row

    return _ranks(kept, map(score, places))


def _followers(training: Sequence[Int64s], lag: int, size: int) -> list[Int64s]:
    """For each item, what came `lag` steps after it, as often as it did."""
    earlier = np.concatenate([one[:-lag] for one in training])
    later = np.concatenate([one[lag:] for one in training])
    order = np.argsort(earlier, kind="stable")
    return np.split(later[order], np.cumsum(np.bincount(earlier, minlength=size))[:-1])


def train_counts(kept: TargetCore) -> Int64s:
    """Occurrences of each item in the training part, all but each user's last two items: [C]."""
    training = [item for sequence in kept.sequences for item in sequence[:-2]]
    places = np.searchsorted(kept.items, np.asarray(training, dtype=np.int64))
    return np.bincount(places, minlength=len(kept.items))


def _ranks(kept: TargetCore, scores: Iterable[Float64s]) -> Ranks:
    """Ranks of the last items, the earlier ones out of the contest, ties against.

    Args:
        scores: each user's scores of all items [C].
    """
    ranks = []
    for sequence, row in zip(kept.sequences, scores, strict=False):
        places = np.searchsorted(kept.items, sequence)
        ranks.append((np.delete(row, places[:-1]) >= row[places[-1]]).sum())
    return np.asarray(ranks, dtype=np.int32)


def kept_oracle_ranks(
    world: World, target_name: str, kept: TargetCore, sees: Sees = "both"
) -> Ranks:
    """The oracle's ranks of the last items: [U]."""
    raw = world.item_ids(find_target(target_name).collection)
    histories = [[raw[item] for item in sequence[:-1]] for sequence in kept.sequences]
    truths = [raw[sequence[-1]] for sequence in kept.sequences]
    return oracle_ranks(world, target_name, [raw[i] for i in kept.items], histories, truths, sees)


def describe(
    world: World, targets: Sequence[str] | None = None
) -> list[dict[str, str | int | float]]:
    """One row a target: its sizes after the core, and the HR@10 of the oracles and the floors.

    Keys: target, users, items, actions, length (actions a user) and density (actions an item) with
    the paper's beside, cold_share (of the items, under ten training actions), oracle, oracle_ndcg
    (NDCG@10), text_oracle, picture_oracle, popularity, pairs (counts of item pairs). A target that
    the core empties has the sizes only.

    Args:
        targets: names; all four sources and ten targets where none are given.

    Raises:
        InputError: no such target.
    """
    names = [find_target(name).name for name in targets or [target.name for target in TARGETS]]
    return [_row(world, name) for name in names]


def _row(world: World, name: str) -> dict[str, str | int | float]:
    kept, target = core(world, name), find_target(name)
    actions = sum(len(sequence) for sequence in kept.sequences)
    row: dict[str, str | int | float] = {
        "target": name,
        "users": len(kept.sequences),
        "items": len(kept.items),
        "actions": actions,
        "length": round(actions / max(len(kept.sequences), 1), 2),
        "paper_length": target.paper_length,
        "density": round(actions / max(len(kept.items), 1), 1),
        "paper_density": target.paper_density,
    }
    if not kept.sequences:
        return row
    both = kept_oracle_ranks(world, name, kept)
    figures = {
        "cold_share": float((train_counts(kept) < COLD_BELOW).mean()),
        "oracle": hit_rate(both, 10),
        "oracle_ndcg": ndcg(both, 10),
        "text_oracle": hit_rate(kept_oracle_ranks(world, name, kept, "text"), 10),
        "picture_oracle": hit_rate(kept_oracle_ranks(world, name, kept, "picture"), 10),
        "popularity": hit_rate(popularity_ranks(kept), 10),
        "pairs": hit_rate(pair_ranks(kept), 10),
    }
    return row | {key: round(value, 4) for key, value in figures.items()}
