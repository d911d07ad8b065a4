"""The best items of a large catalogue without a look at all of them, as good as was measured.

A core looks through a hundred thousand items in ten milliseconds; up to there every answer is
exact. Above, an index proposes items and the defining score orders them, so that only an item that
was not proposed can be missed. How many are is measured on users of the target when the index is
made: one that finds less than `FLOOR` is refused.

A wide filter makes it look further, until it has seen as many items that are allowed as without
one; what a narrow one leaves is scanned, and so are items that were added after the index was made.
A share of popularity is searched with up to the one that the validation items chose; with it the
most popular items are scanned beside, since lists are of items that are alike, and popular ones lie
in all of them. Everything is scanned for what was not measured: for answers deeper than
`pmm.recommend.search_strength.DEPTHS` and other shares of popularity; and whenever the index
proposes fewer items than are wanted.

Shape suffixes: N items, D width, Q users, C lists, R rows of some items.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int64s
from pmm.errors import InputError, PmmError
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.recommend.catalogue_state import CatalogueState
from pmm.recommend.inverted_lists import InvertedLists, make_lists
from pmm.recommend.search_strength import (
    NOTHING,
    Strength,
    best_of_all,
    share_found,
    slack_of,
    strengths,
    stronger,
)
from pmm.recommend.top_k import top_k

IndexChoice = Literal["auto", "exact", "approximate"]
"""How items are searched: "auto" scans what a core reads in 10 ms and has an index above that."""

SCAN_BYTES = 80_000_000
"""What a core reads in 10 ms. Its product of all items with one user reads 8 GB/s and more, as
`python -m benchmarks.serve` measures it. Items x width x 4 bytes: 156,250 items of width 128. A
constant, so that a catalogue is answered in one way on all machines."""
FLOOR = 0.99
"""Of the ten best items, that an index finds at least."""
FLOOR_K = 10
USERS = 512
"""By whom an index is measured: one half says how much is looked at, the other what it finds."""
_MOST = 0.5
"""Of the catalogue, that is looked at for ten items: who looks at more had better scan."""
_SPARE = 16
_PARTS = (0.0, 0.25, 0.5, 1.0)
"""Of the chosen share of popularity, that are measured."""

logger = logging.getLogger(__name__)


class IndexRefused(InputError):
    """An index that would miss more than it may, or be no quicker than a scan."""


class _Held(NamedTuple):
    """What answers are found in, replaced as one."""

    lists: InvertedLists
    popular: Int64s
    """Rows of the most popular items, rising."""
    popular_items: Float32s


class ItemIndex:
    """A user's best items by inverted lists; exact where those do not reach.

    One thread at a time may call `follow`; any number may search meanwhile.
    """

    def __init__(
        self,
        state: CatalogueState,
        users_QD: Float32s,
        *,
        mix: PopularityMix | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Make lists of a state's items and measure what they find.

        Args:
            state: the catalogue.
            users_QD: users of the target; of more than `USERS` the first.
            mix: the share of popularity that the validation items chose.
            temperature: of the model's scores.

        Raises:
            IndexRefused: it finds less than `FLOOR` of the `FLOOR_K` best items however hard it
                searches, or has to look at most of the catalogue.
            InputError: faiss is not installed.
        """
        start, mix = time.perf_counter(), mix or PopularityMix()
        self._kappa, self._centre = mix.kappa, 0.0
        self._centre = float(self._share(state.count_N).mean())
        self._few = SCAN_BYTES // (4 * state.score_ND.shape[1]) // 8
        """Items that are gathered and scanned in little time."""
        share_N = self._share(state.count_N)
        rows = self._most_popular(state)
        lists = make_lists(state.score_ND, share_N, most=float(share_N[rows].min(initial=np.inf)))
        self._held = _Held(lists, rows, state.score_ND[rows])
        self._made_of = len(state)
        self._chosen = mix.alpha * temperature
        self._strength_of: dict[float, Strength] = {}
        """By the factor of the log share of popularity that was measured."""
        users_QD = users_QD[:USERS]
        self.recall = self._measured(state, users_QD, [0.0])
        """The share of the ten best items that was found, without popularity or with as much as
        was chosen, whichever is lower; of users that had no say in how hard it searches."""
        if self._chosen:
            try:
                mixed = [part * self._chosen for part in _PARTS]
                self.recall = min(self.recall, self._measured(state, users_QD[::2], mixed))
            except IndexRefused as error:
                logger.info("Items are scanned where popularity is mixed in: %s", error)
        self.seconds = time.perf_counter() - start
        """That it took to make and to measure."""

    @property
    def looks_at(self) -> float:
        """The share of the items that is looked at for an answer of ten."""
        return min(self._strength_of[0.0].items_of.values()) / self._made_of

    @property
    def nbytes(self) -> int:
        """Of memory, about."""
        return self._held.lists.nbytes

    def __len__(self) -> int:
        """Items in the lists; those behind are scanned."""
        return len(self._held.lists)

    # --- Answers.

    def best(
        self,
        state: CatalogueState,
        user_D: Float32s,
        allowed_N: NDArray[np.bool_],
        k: int,
        *,
        hidden: int = 0,
        factor: float = 0.0,
        added_N: Float32s | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Rows of the k best items and their scores, best first; of equal ones the earlier first.

        Args:
            state: the catalogue that is asked; the index may know more of its rows, or fewer.
            user_D: a user's vector.
            allowed_N: items that may come. Where fewer than k are allowed, so many come.
            k: how many.
            hidden: how many of the best are not allowed, at most, because the user had them.
            factor: of the log share of popularity.
            added_N: added to the scores: the factor times the log share, and a constant.
        """
        rows_R = self.candidates(
            state, user_D, k, allowed_N=allowed_N, hidden=hidden, factor=factor, added_N=added_N
        )
        longest = state.longest
        if rows_R is None:
            return top_k(user_D, state.score_ND, allowed_N, k, longest=longest, added_N=added_N)
        added_R = None if added_N is None else added_N[rows_R]
        all_R = np.ones(len(rows_R), np.bool_)
        places, scores = top_k(
            user_D, state.score_ND[rows_R], all_R, k, longest=longest, added_N=added_R
        )
        return rows_R[places], scores

    def candidates(
        self,
        state: CatalogueState,
        user_D: Float32s,
        count: int,
        *,
        allowed_N: NDArray[np.bool_] | None = None,
        hidden: int = 0,
        factor: float = 0.0,
        added_N: Float32s | None = None,
    ) -> Int64s | None:
        """Rows among which the best `count` are, rising; None where every item must be scanned.

        All of them are allowed: by `allowed_N`, or where it is None by the state. The rest as of
        `best`.
        """
        allowed_N = state.offered_N if allowed_N is None else allowed_N
        if np.count_nonzero(allowed_N) <= max(count, self._few):
            return np.flatnonzero(allowed_N)
        strength = self._strength(factor)
        deep = next((each for each in strength.items_of if each >= count + hidden), None)
        if deep is None:
            return None
        now = self._held  # once: `follow` may put another in its place meanwhile
        lists, held = now.lists, len(now.lists)
        order_C = lists.in_order(user_D, factor)
        looked_C = np.cumsum(lists.allowed_in(allowed_N[:held])[order_C])
        # A catalogue that has grown holds more items that are as near.
        wanted = strength.items_of[deep] * max(1.0, held / self._made_of)
        last = int(np.searchsorted(looked_C, wanted))
        spare = strength.spare * count + _SPARE
        found = lists.search(user_D, factor, order_C[: last + 1], allowed_N[:held], spare)
        if len(found) < min(count, looked_C[-1]):
            return None

        def scanned(items_RD: Float32s, rows: Int64s | slice) -> Int64s:
            added_R = None if added_N is None else added_N[rows]
            return top_k(
                user_D, items_RD, allowed_N[rows], count, longest=state.longest, added_N=added_R
            )[0]

        parts = [found, held + scanned(state.score_ND[held:], slice(held, None))]
        if factor:
            there = int(np.searchsorted(now.popular, len(state)))
            popular = now.popular[:there]
            parts.append(popular[scanned(now.popular_items[:there], popular)])
        return np.unique(np.concatenate(parts))

    def follow(self, state: CatalogueState) -> None:
        """Put items into the lists that were added since, once they are many.

        Until then they are scanned with every answer.
        """
        held = len(self)
        if len(state) - held > self._few:
            share_R = self._share(state.count_N[held:])
            lists, rows = self._held.lists, self._most_popular(state)
            lists = lists.grown(state.score_ND[held:], share_R)
            self._held = _Held(lists, rows, state.score_ND[rows])

    # --- Making.

    def _share(self, count_N: Int64s) -> Float32s:
        """The log of each item's share, less what is the same for all."""
        share_N: Float32s = (np.log(count_N + self._kappa) - self._centre).astype(np.float32)
        return share_N

    def _most_popular(self, state: CatalogueState) -> Int64s:
        """Rows of the items that are scanned where popularity is mixed in, rising."""
        offered_R = np.flatnonzero(state.offered_N)
        few = min(self._few, len(offered_R))
        order_R = np.argsort(-state.count_N[offered_R], kind="stable")
        rows: Int64s = np.sort(offered_R[order_R[:few]])
        return rows

    def _strength(self, factor: float) -> Strength:
        """What was measured for a share of popularity."""
        if not factor:
            return self._strength_of[0.0]
        within = min(0.0, self._chosen) <= factor <= max(0.0, self._chosen)
        return self._strength_of.get(self._chosen, NOTHING) if within else NOTHING

    def _measured(
        self, state: CatalogueState, users_QD: Float32s, factors: Sequence[float]
    ) -> float:
        """Keep the weakest strength that is strong enough for each of some shares; its recall."""
        if len(users_QD) < 2 or np.count_nonzero(state.offered_N) < FLOOR_K:
            raise IndexRefused("an index is measured by users, and there are too few")
        first, second = users_QD[::2], users_QD[1::2]
        share_N, added_of = self._share(state.count_N), {}
        for factor in factors:
            added_of[factor] = np.float32(factor) * share_N if factor else None
        true_of = {
            factor: [score_K for _, score_K in best_of_all(state, second, FLOOR_K, added_N)]
            for factor, added_N in added_of.items()
        }
        attempts = [
            strengths(
                self._held.lists,
                state,
                first,
                factor=factor,
                added_N=added_N,
                scanned=self._held.popular if factor else None,
            )
            for factor, added_N in added_of.items()
        ]
        recall = None
        for attempt in zip(*attempts, strict=True):
            strength = stronger(attempt)
            if min(strength.items_of.values()) > max(_MOST * len(state), self._few):
                break
            self._strength_of[factors[-1]] = strength
            recall = min(
                self._recall(state, second, factor, added_of[factor], true)
                for factor, true in true_of.items()
            )
            if recall >= FLOOR:
                return recall
        self._strength_of.pop(factors[-1], None)
        found = "would look at most of them" if recall is None else f"finds {recall:.3f}"
        raise IndexRefused(
            f"an index of these items {found} for the {FLOOR_K} best, of which {FLOOR} is the "
            'least: search with index="exact"'
        )

    def _recall(
        self,
        state: CatalogueState,
        users_QD: Float32s,
        factor: float,
        added_N: Float32s | None,
        true: Sequence[Float32s],
    ) -> float:
        """The share of the ten best items that is found."""
        found = [
            self.best(state, each, state.offered_N, FLOOR_K, factor=factor, added_N=added_N)[1]
            for each in users_QD
        ]
        return share_found(found, true, slack_of(state, users_QD, added_N))


def open_index(
    choice: IndexChoice,
    state: CatalogueState,
    users: Callable[[], Float32s],
    *,
    by_product: bool,
    mix: PopularityMix | None = None,
    temperature: float = 1.0,
) -> ItemIndex | None:
    """The index of a catalogue; None where every item is scanned.

    Args:
        choice: "auto" makes one above `SCAN_BYTES` and warns where it cannot.
        state: the catalogue.
        users: gives users of the target, [Q, D]; asked for an index alone.
        by_product: whether a score is the inner product of user and item.
        mix, temperature: as of `ItemIndex`.

    Raises:
        InputError: "approximate" is asked for and cannot be had, or the choice is another word.
    """
    if choice not in ("auto", "exact", "approximate"):
        raise InputError(f'index must be "auto", "exact" or "approximate", found {choice!r}')
    if choice == "exact" or (choice == "auto" and state.score_ND.nbytes <= SCAN_BYTES):
        return None
    try:
        if not by_product:
            raise IndexRefused(
                "the scores of this model are no inner products, and an index finds no others: "
                'search with index="exact"'
            )
        return ItemIndex(state, users(), mix=mix, temperature=temperature)
    except PmmError as error:
        if choice == "approximate":
            raise
        logger.warning("All %s items are scanned for every answer: %s", f"{len(state):,}", error)
        return None
