"""The best that any model could do: the generator's own distribution of the next item.

**What is exact.** A step inside a department draws item j with probability
``(1 - noise) * w_j k(h, j) / sum + noise * w_j / sum`` over the items not in the history, where w
is the item's popularity weight and k the product of the attribute kernels, each from the item that
its lag points to. The department of the next action follows from the departments of the history by
Bayes' rule over the user's unknown favourite. `sees="both"` computes exactly this, so on raw
sequences no ranking has a higher expected HR@k. A carved target is exact too: a walk in one
department depends on nothing outside it.

**Titles only, pictures only.** The reader knows departments and popularity, and of the attributes
those that the modality shows. Attributes are uniform and independent, and a kernel's columns have
equal sums; so the expected kernel of an unseen attribute is the same for every candidate, whatever
is believed of the history, and drops out: k keeps the visible attributes. Exact but for the
normaliser ``sum``, whose dependence on the unseen attributes of the whole catalogue is replaced by
its expectation (relative error about 1 / sqrt(items)); it touches only the balance between the
kernel and the noise term: where the noise is nil the order of the items is exact for any catalogue,
because unseen attributes are exchangeable between candidates. Nothing here learns hidden attributes
from ids.

**After an ingest** histories miss the items that its filters dropped. The oracle then conditions on
what is left, as a model does; it treats the neighbours of a gap as neighbours.

Shapes: U users, N items of the collection, C candidates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pmm.arrays import Float64s, Int64s
from pmm.errors import InputError
from pmm.world.attributes import LAGS, Sees, cells, step_weights
from pmm.world.generate import World, WorldItems, department_odds
from pmm.world.platforms import find_collection, find_target

Ranks = npt.NDArray[np.int32]

# Bounds the memory: users at once times items of float64.
_USERS_AT_ONCE = 512


class WalkOracle:
    """The distribution of the next item of a walk inside one department of M items.

    Args:
        items: the department's items.
        noise: percent of the steps that ignore the history.
        sees: what the reader sees.
    """

    def __init__(self, items: WorldItems, noise: int, sees: Sees) -> None:
        self._weight = items.weight
        # By cell, not by item: items that look alike to the reader have one row, so a step for all
        # candidates is a row of a small table and not a product over attributes.
        self._tables = [step_weights(items.values, lag, sees) for lag in LAGS]
        self._cells = [cells(items.values, lag, sees) for lag in LAGS]
        self._noise = noise / 100

    def probabilities(self, histories: Sequence[Sequence[int]]) -> Float64s:
        """P(next item | history): [U, M].

        Args:
            histories: earlier items of each user, by number in the department, oldest first.
        """
        # A repeated item is a planted defect: no walk comes back.
        chains = [list(dict.fromkeys(past)) for past in histories]
        free = np.broadcast_to(self._weight, (len(chains), len(self._weight))).astype(np.float64)
        for row, chain in enumerate(chains):
            free[row, chain] = 0.0
        # Taken items have weight 0 in both terms before these are normalised, as in the generator:
        # a walk draws from what is left.
        steps = free.copy()
        for lag, table, cell in zip(LAGS, self._tables, self._cells, strict=True):
            rows = [cell[chain[-lag]] if len(chain) >= lag else len(table) - 1 for chain in chains]
            steps *= table[rows]
        return (1 - self._noise) * _normalised(steps) + self._noise * _normalised(free)


def _normalised(weights: Float64s) -> Float64s:
    """Rows that sum to one; a row without weight (everything taken) stays zero."""
    total = weights.sum(axis=1, keepdims=True)
    shares: Float64s = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return shares


class Oracle:
    """The true distribution of a user's next item, for a reader of both modalities or of one."""

    def __init__(self, world: World, target_name: str, sees: Sees = "both") -> None:
        target = find_target(target_name)
        collection = find_collection(target.collection)
        items = world.items(target.collection)
        self._department_of = items.department
        count = len(collection.departments)
        self._numbers = range(count) if target.department is None else [target.department]
        self._members = [np.flatnonzero(self._department_of == number) for number in self._numbers]
        self._walks = [
            WalkOracle(items.of(members), collection.noise, sees) for members in self._members
        ]
        share, odds = department_odds(collection)
        self._favourite = share / share.sum()
        self._odds = odds / odds.sum(axis=1, keepdims=True)

    def probabilities(self, histories: Sequence[Sequence[int]]) -> Float64s:
        """P(next item | history), zero for items of the history and outside the target: [U, N].

        Args:
            histories: earlier items by number in the collection, oldest first. Of a carved target
                only those inside it matter.
        """
        found = np.zeros((len(histories), len(self._department_of)))
        chance = self._next_department(histories)
        for number, members, walk in zip(self._numbers, self._members, self._walks, strict=True):
            place = {int(item): place for place, item in enumerate(members)}
            inside = [[place[item] for item in past if item in place] for past in histories]
            found[:, members] = chance[:, number, None] * walk.probabilities(inside)
        return found

    def _next_department(self, histories: Sequence[Sequence[int]]) -> Float64s:
        """P(department of the next item | history), ones for a carved target: [U, D]."""
        size = len(self._odds)
        if len(self._walks) == 1:
            return np.ones((len(histories), size))
        counts = np.stack(
            [np.bincount(self._department_of[list(past)], minlength=size) for past in histories]
        )
        # How often each department was visited is all that counts of a history: departments are
        # drawn independently given the favourite. In logarithms, for a long history underflows.
        likelihood = self._favourite * np.exp(counts @ np.log(self._odds).T)
        chance: Float64s = _normalised(likelihood) @ self._odds
        return chance


def oracle_ranks(
    world: World,
    target_name: str,
    candidates: Sequence[str],
    histories: Sequence[Sequence[str]],
    truths: Sequence[str],
    sees: Sees = "both",
) -> Ranks:
    """The rank that the oracle gives to each true next item, among the candidates not in the
    history: [U].

    Args:
        candidates: raw ids of the items that are ranked, those that an ingest kept.
        histories: for each user the raw ids of the earlier items, oldest first.
        truths: for each user the raw id of the next item; it must be a candidate.

    Raises:
        InputError: an id that this world's target does not have, or a truth that is no candidate.
    """
    numbers = _numbering(world, target_name)
    columns = _translate(candidates, numbers, target_name)
    column_of = {raw: column for column, raw in enumerate(candidates)}
    places = _translate(truths, column_of, "the candidates")
    oracle = Oracle(world, target_name, sees)
    ranks = np.zeros(len(truths), dtype=np.int32)
    for first in range(0, len(truths), _USERS_AT_ONCE):
        users = slice(first, first + _USERS_AT_ONCE)
        past = [_translate(h, numbers, target_name).tolist() for h in histories[users]]
        scores = oracle.probabilities(past)[:, columns]
        for row, history in enumerate(histories[users]):
            # Below zero, not at zero: an item that cannot come next has probability zero as well,
            # and would tie with those that are out of the contest.
            scores[row, [column_of[raw] for raw in history if raw in column_of]] = -1.0
        ranks[users] = _pessimistic_ranks(scores, places[users])
    return ranks


def _numbering(world: World, target_name: str) -> dict[str, int]:
    raw = world.item_ids(find_target(target_name).collection)
    return {raw[number]: int(number) for number in world.target_items(target_name)}


def _translate(raw_ids: Sequence[str], numbers: Mapping[str, int], where: str) -> Int64s:
    """Numbers of raw ids; an id without a number is an error that shows it."""
    unknown = [raw for raw in raw_ids if raw not in numbers]
    if unknown:
        raise InputError(
            f"{len(unknown)} item ids are not among {where} of the embedded world, the first: "
            f"{unknown[0]!r}; were they made with another size or seed?"
        )
    return np.asarray([numbers[raw] for raw in raw_ids], dtype=np.int64)


def _pessimistic_ranks(scores: Float64s, places: Int64s) -> Ranks:
    """1 + how many others score at least as high as the one at `places`; masked ones score below
    zero.

    A true item that is masked itself (taken before) has probability zero: it goes behind all
    others.

    >>> _pessimistic_ranks(np.array([[0.5, 0.3, 0.3, -1.0]]), np.array([1])).tolist()
    [3]
    """
    rows = np.arange(len(scores))
    own = np.maximum(scores[rows, places], 0.0)
    above: Ranks = (scores >= own[:, None]).sum(axis=1, dtype=np.int32)
    return above + (scores[rows, places] < 0).astype(np.int32)


def hit_rate(ranks: npt.NDArray[np.integer], k: int) -> float:
    """HR@k: the share of users whose true item is among the first k.

    >>> hit_rate(np.array([1, 10, 11, 400]), k=10)
    0.5
    """
    return float(np.mean(ranks <= k))


def ndcg(ranks: npt.NDArray[np.integer], k: int) -> float:
    """NDCG@k with one true item a user: the mean of 1 / log2(1 + rank) over ranks up to k, else 0.

    >>> ndcg(np.array([1, 3, 11, 400]), k=10)
    0.375
    """
    return float(np.mean(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)))
