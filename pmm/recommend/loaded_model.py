"""A finished run that answers: recommendations, similar items, reasons; items come and go.

Shape suffixes: B users, L positions of a window, W what the user encoder is given of an item, N
items, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int64s
from pmm.errors import InputError, nearest
from pmm.evaluate.popularity_mix import KAPPA, PopularityMix
from pmm.recommend.answers import Contribution, ItemCard, NewItem, Recommended, Scored, Wanted
from pmm.recommend.catalogue_state import CatalogueState, GrowingCatalogue
from pmm.recommend.encoder import Encoder
from pmm.recommend.item_index import IndexChoice, ItemIndex, open_index
from pmm.recommend.many_users import ENCODED_USERS, HistoryRanker, windows_of
from pmm.recommend.top_k import defined_scores, top_k


class ItemSource(Protocol):
    """Texts and pictures of the items that were trained on, by row."""

    def text(self, row: int) -> str:
        """The whole text."""
        ...

    def picture(self, row: int) -> bytes | None:
        """A JPEG, or None."""
        ...

    def categories(self, row: int) -> tuple[str, ...]:
        """The categories that are known."""
        ...


class LoadedModel:
    """Answers for histories of raw ids. Safe to ask from several threads."""

    def __init__(
        self,
        encoder: Encoder,
        catalogue: GrowingCatalogue,
        source: ItemSource,
        *,
        version: str,
        chosen: PopularityMix | None = None,
        index: IndexChoice = "auto",
        sample: Callable[[], Sequence[Int64s]] = tuple,
    ) -> None:
        """Put a model together.

        Args:
            encoder: the model.
            catalogue: what it made of its items.
            source: what they look like.
            version: of the weights; answers of two versions are not alike.
            chosen: the share of popularity that the validation items chose, if they did.
            index: how items are searched, as of `pmm.recommend.item_index`.
            sample: gives histories of the target's users, by row, on which an approximate index is
                measured; not asked for where all items are scanned.

        Raises:
            InputError: an approximate index is asked for and cannot be had.
        """
        self.version, self.encoder, self.chosen = version, encoder, chosen
        self._catalogue, self._source = catalogue, source
        self._added: dict[str, NewItem] = {}
        self._withdrawn: set[str] = set()
        self._writing = Lock()
        self._rows_of_category: dict[str, list[int]] | None = None
        self._log_share: tuple[CatalogueState, Float32s] | None = None
        self.sample = sample
        """Histories of some of the target's users."""
        self.index: ItemIndex | None = open_index(
            index,
            catalogue.state,
            lambda: self.user_vectors(sample()),
            by_product=encoder.by_product,
            mix=chosen,
            temperature=encoder.temperature,
        )
        """None: every answer looks at all items."""

    @property
    def state(self) -> CatalogueState:
        """The newest items."""
        return self._catalogue.state

    # --- Answers.

    def recommend(
        self, histories: Sequence[Sequence[str]], wanted: Wanted | None = None
    ) -> list[Recommended]:
        """The best items for each history of raw ids, oldest first."""
        ranker = self.ranker(wanted or Wanted())
        state = ranker.state
        rows = [[state.find(each) for each in history] for history in histories]
        known = [np.array([r for r in each if r is not None], dtype=np.int64) for each in rows]
        answers: list[Recommended] = []
        for history, found, row_H, best in zip(
            histories, rows, known, ranker.rank(known).each(), strict=True
        ):
            pairs = zip(history, found, strict=True)
            unknown = tuple(item_id for item_id, row in pairs if row is None)
            items = _scored(state, *best)
            answers.append(Recommended(items=items, unknown=unknown, popular=not len(row_H)))
        return answers

    def ranker(self, wanted: Wanted) -> HistoryRanker:
        """What ranks histories of rows of the newest state, as wanted; for many of them.

        Raises:
            InputError: a category that no item has.
        """
        state = self.state
        factor, added_N = self._of_popularity(state, wanted)
        return HistoryRanker(
            encoder=self.encoder,
            state=state,
            allowed_N=self._allowed(state, wanted),
            added_N=added_N,
            k=wanted.k,
            keep_history=wanted.keep_history,
            index=self.index,
            factor=factor,
            hidden=len(wanted.exclude),
        )

    def similar(self, item_id: str, k: int = 10) -> list[Scored]:
        """The items nearest to one, by the cosine of what items are scored with.

        Raises:
            InputError: there is no such item.
        """
        state = self.state
        row = _row_of(state, item_id)
        length_N = np.sqrt(np.einsum("nd,nd->n", state.score_ND, state.score_ND))
        unit_ND = state.score_ND / np.maximum(length_N, 1e-12)[:, None]
        allowed_N = state.offered_N.copy()
        allowed_N[row] = False
        k = Wanted(k=k).k
        return list(_scored(state, *top_k(unit_ND[row], unit_ND, allowed_N, k, longest=1.0)))

    def explain(self, history: Sequence[str], item_id: str) -> list[Contribution]:
        """Which items of a history carried a recommendation, the one that did most first.

        The effect of an item is how much lower the score is when the user encoder reads the history
        without it. Items before the window of the most recent L have none and are left out.

        Raises:
            InputError: there is no such item, or none of the history is known.
        """
        return self.reasons(history, [item_id])[0]

    def reasons(self, history: Sequence[str], ids: Sequence[str]) -> list[list[Contribution]]:
        """The same of several recommendations of one history, whose encodings they share.

        Raises:
            InputError: as `explain`.
        """
        state = self.state
        rows = [_row_of(state, each) for each in ids]
        found = [state.find(each) for each in history]
        known = [each for each in found if each is not None][-self.encoder.max_length :]
        if not known:
            raise InputError("no item of the history is known, so there is nothing to explain by")
        whole = np.array(known, dtype=np.int64)
        places = list(dict.fromkeys(known))
        without = [whole[whole != each] for each in places]
        scorer = _Scorer(self.encoder, state, [whole, *without], None)
        reasons = []
        for row in rows:
            score, *lower = (scorer.of_item(k, row) for k in range(1 + len(without)))
            effects = [
                Contribution(state.ids[place], float(score - other))
                for place, other in zip(places, lower, strict=True)
            ]
            reasons.append(sorted(effects, key=lambda each: -each.effect))
        return reasons

    # --- Items.

    def card(self, item_id: str) -> ItemCard:
        """What is known of an item.

        Raises:
            InputError: there is none.
        """
        state = self.state
        row = _row_of(state, item_id)
        added = self._added.get(item_id)
        return ItemCard(
            item_id=item_id,
            text=added.text if added else self._source.text(row),
            categories=added.categories if added else self._source.categories(row),
            has_picture=self.picture(item_id) is not None,
            count=int(state.count_N[row]),
            new=row >= state.trained,
            withdrawn=not state.offered_N[row],
        )

    def require(self, item_id: str) -> None:
        """Refuse an id that no item has.

        Raises:
            InputError: there is none.
        """
        _row_of(self.state, item_id)

    def trained_items(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Id, text and categories of the items that were trained on, by row; no picture is read."""
        for row in range(self.state.trained):
            yield self.state.ids[row], self._source.text(row), self._source.categories(row)

    def picture(self, item_id: str) -> bytes | None:
        """An item's picture file; None where it has none.

        Raises:
            InputError: there is no such item.
        """
        row, added = _row_of(self.state, item_id), self._added.get(item_id)
        return added.image if added else self._source.picture(row)

    def encode_items(self, items: Sequence[NewItem]) -> tuple[Float32s, Float32s]:
        """What `add_items` would put in: what users read [R, W], and what is scored with [R, D].

        Nothing is added, so that whoever keeps items can write them down in between.

        Raises:
            InputError: as `add_items`.
        """
        ids = [each.item_id for each in items]
        if "" in ids or len(set(ids)) < len(ids):
            raise InputError("new items need ids of their own: one is empty or there twice")
        input_RW, score_RD = self.encoder.new_items(items)
        if not (np.isfinite(input_RW).all() and np.isfinite(score_RD).all()):
            raise InputError("the model makes no numbers of these items")
        return input_RW, score_RD

    def add_items(
        self,
        items: Sequence[NewItem],
        encoded: tuple[Float32s, Float32s] | None = None,
        *,
        keep_pictures: bool = True,
    ) -> None:
        """Let items be recommended from now on; one that is there already gets new content.

        Args:
            items: which.
            encoded: what `encode_items` made of them, if it was asked before.
            keep_pictures: hold their files for `picture`.

        Raises:
            InputError: an id is empty or there twice, the model knows items one by one, or it can
                make nothing of one; then none is added.
        """
        if not items:
            return
        input_RW, score_RD = encoded or self.encode_items(items)
        ids = [each.item_id for each in items]
        with self._writing:
            kept = items if keep_pictures else [replace(each, image=None) for each in items]
            self._added |= {each.item_id: each for each in kept}
            self._withdrawn -= set(ids)
            state = self._catalogue.add(ids, input_RW, score_RD)
            if self.index is not None:
                self.index.follow(state)

    def remove_items(self, ids: Sequence[str]) -> None:
        """Recommend items no more; histories keep them.

        Raises:
            InputError: there is no such item; then none is removed.
        """
        with self._writing:
            rows = [_row_of(self.state, each) for each in ids]
            self._withdrawn |= set(ids)
            self._catalogue.withdraw(rows)

    # --- What may come.

    def _allowed(self, state: CatalogueState, wanted: Wanted) -> NDArray[np.bool_]:
        allowed_N = state.offered_N
        if wanted.allow is not None:
            allowed_N = allowed_N & _mask(state, wanted.allow)
        if wanted.categories:
            allowed_N = allowed_N & self._of_categories(state, wanted.categories)
        if wanted.exclude:
            allowed_N = allowed_N & ~_mask(state, wanted.exclude)
        return allowed_N

    def _of_categories(self, state: CatalogueState, names: Sequence[str]) -> NDArray[np.bool_]:
        """Items of one of these categories.

        Raises:
            InputError: no item has one of that name.
        """
        if self._rows_of_category is None:
            trained: dict[str, list[int]] = {}
            for row in range(state.trained):
                for name in self._source.categories(row):
                    trained.setdefault(name, []).append(row)
            self._rows_of_category = trained
        found_N = np.zeros(len(state), dtype=np.bool_)
        added = list(self._added.items())  # items may come meanwhile
        of_added = {name for _, each in added for name in each.categories}
        for name in names:
            rows = self._rows_of_category.get(name, [])
            if not rows and name not in of_added:
                known = sorted({*self._rows_of_category, *of_added})
                raise InputError(f'no item is of the category "{name}" ({nearest(name, known)})')
            found_N[rows] = True
        for item_id, each in added:
            place = state.find(item_id)
            if place is not None:
                found_N[place] = bool(set(each.categories) & set(names))
        return found_N

    def _of_popularity(
        self, state: CatalogueState, wanted: Wanted
    ) -> tuple[float, Float32s | None]:
        """What the log share is multiplied by, and the products."""
        mix = self.chosen or PopularityMix()
        if wanted.popularity != "chosen":
            mix = PopularityMix(
                alpha=float(wanted.popularity), kappa=self.chosen.kappa if self.chosen else KAPPA
            )
        if mix.alpha == 0:
            return 0.0, None
        kept = self._log_share  # counts change with a state alone, and so many logs take long
        if kept is None or kept[0] is not state:
            self._log_share = kept = state, mix.log_share(state.count_N)
        factor = mix.alpha * self.encoder.temperature
        return factor, np.float32(factor) * kept[1]

    def user_vectors(self, histories: Sequence[Int64s]) -> Float32s:
        """What users are scored with, [B, D], of histories by row; empty ones are left out."""
        state, longest = self.state, self.encoder.max_length
        known = [each for each in histories if len(each)]
        found = [np.zeros((0, state.score_ND.shape[1]), np.float32)]
        for start in range(0, len(known), ENCODED_USERS):
            windows = windows_of(state, known[start : start + ENCODED_USERS], longest)
            found.append(self.encoder.users(*windows))
        return np.concatenate(found)


class _Scorer:
    """The scores of a few histories."""

    def __init__(
        self,
        encoder: Encoder,
        state: CatalogueState,
        histories: Sequence[Int64s],
        added_N: Float32s | None,
    ) -> None:
        self._state, self._added = state, added_N
        windows = windows_of(state, histories, encoder.max_length)
        if encoder.by_product:
            self._user_BD: Float32s | None = encoder.users(*windows)
        else:
            self._user_BD = None
            score_BN = encoder.scores(*windows, state.score_ND)
            self._score_BN = score_BN if added_N is None else score_BN + added_N

    def of_item(self, k: int, row: int) -> float:
        """The score of one item for the k-th history."""
        if self._user_BD is None:
            return float(self._score_BN[k, row])
        added = None if self._added is None else self._added[row : row + 1]
        item_1D = self._state.score_ND[row : row + 1]
        return float(defined_scores(self._user_BD[k], item_1D, added)[0])


def _row_of(state: CatalogueState, item_id: str) -> int:
    """An item's row in the state that is asked: a newer one may have rows that this one has not."""
    row = state.find(item_id)
    if row is None:
        raise InputError(f'there is no item "{item_id}"')
    return row


def _mask(state: CatalogueState, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Rows of these ids; those that nobody knows are no item."""
    mask_N = np.zeros(len(state), dtype=np.bool_)
    rows = [row for each in ids if (row := state.find(each)) is not None]
    mask_N[rows] = True
    return mask_N


def _scored(state: CatalogueState, rows: Int64s, scores: Float32s) -> tuple[Scored, ...]:
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return tuple(Scored(state.ids[row], score) for row, score in pairs)


def popularity_of(stored: Mapping[str, float] | None) -> PopularityMix | None:
    """The share of popularity that a run's weights say its validation items chose."""
    if stored is None:
        return None
    return PopularityMix(alpha=float(stored["chosen"]), kappa=float(stored["kappa"]))
