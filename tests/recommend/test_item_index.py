"""An approximate index: what it finds is measured, and what it was not measured for is scanned."""

import logging
import sys
import threading
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.recommend import item_index
from pmm.recommend.answers import NewItem, Wanted
from pmm.recommend.catalogue_state import CatalogueState, GrowingCatalogue
from pmm.recommend.inverted_lists import InvertedLists
from pmm.recommend.item_index import IndexRefused, ItemIndex, open_index
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.open_run import open_model
from pmm.recommend.top_k import defined_scores, top_k

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of faiss' own bindings
    pytest.importorskip("faiss")

ITEMS, WIDTH, FEW = 6_000, 16, 100
MIX = PopularityMix(alpha=1.0, kappa=5.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that scans 800 items in its 10 ms, and a hundred beside an index."""
    monkeypatch.setattr(item_index, "SCAN_BYTES", 4 * WIDTH * 8 * FEW)


def drawn(n: int, seed: int, *, lengths: float = 0.3) -> Any:
    """Items around 40 tastes, of different lengths."""
    draw = np.random.default_rng(seed)
    tastes = np.random.default_rng(99).standard_normal((40, WIDTH))
    x = tastes[np.arange(n) % 40] + 0.6 * draw.standard_normal((n, WIDTH))
    return (x * np.exp(lengths * draw.standard_normal((n, 1)))).astype(np.float32)


def catalogue(**how: Any) -> GrowingCatalogue:
    vectors = drawn(ITEMS, 0, **how)
    count = np.minimum(np.random.default_rng(1).zipf(1.7, ITEMS), 5_000).astype(np.int64)
    return GrowingCatalogue([f"i{k}" for k in range(ITEMS)], vectors, vectors, count)


def others() -> Any:
    """Users that no index was measured by."""
    return drawn(200, 7)


@pytest.fixture(scope="module")
def made() -> SimpleNamespace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_index, "SCAN_BYTES", 4 * WIDTH * 8 * FEW)
        grown = catalogue()
        index = ItemIndex(grown.state, drawn(400, 5), mix=MIX, temperature=0.7)
    return SimpleNamespace(state=grown.state, index=index)


def exact(state: CatalogueState, user: Any, allowed: Any, k: int, added: Any = None) -> Any:
    return top_k(user, state.score_ND, allowed, k, longest=state.longest, added_N=added)


def found(made: Any, allowed: Any, k: int, added: Any = None, **how: Any) -> float:
    """Of the k best allowed items, the share that the index finds; what it gives is in order."""
    hits, asked = 0, 0
    for user in others():
        rows, scores = made.index.best(made.state, user, allowed, k, added_N=added, **how)
        best, _ = exact(made.state, user, allowed, k, added)
        assert len(rows) == len(best) == min(k, int(allowed.sum()))
        assert allowed[rows].all()
        more = None if added is None else added[rows]
        assert scores.tolist() == defined_scores(user, made.state.score_ND[rows], more).tolist()
        assert np.lexsort((rows, -scores)).tolist() == list(range(len(rows)))
        hits, asked = hits + len(np.intersect1d(rows, best)), asked + len(best)
    return hits / asked if asked else 1.0


def test_recall_is_what_the_other_half_of_the_users_finds(made: Any) -> None:
    users = drawn(400, 5)
    plain = ItemIndex(made.state, users)
    hits = 0
    for user in users[1::2]:
        scores = made.state.score_ND.astype(np.float64) @ user
        best = np.argsort(-scores, kind="stable")[:10]
        rows, _ = plain.best(made.state, user, made.state.offered_N, 10)
        hits += len(set(best.tolist()) & set(rows.tolist()))
    assert plain.recall == pytest.approx(hits / 2_000, abs=1e-3)
    assert made.index.recall <= plain.recall
    assert made.index.recall >= 0.99
    assert 0.01 < made.index.looks_at < 0.5  # it does not look at all items, or the rest is vain
    assert 0 < made.index.nbytes < 8 * made.state.score_ND.nbytes


@pytest.mark.parametrize("k", [1, 10, 100, 700])
def test_users_that_it_was_not_measured_by_find_as_much(made: Any, k: int) -> None:
    assert found(made, made.state.offered_N, k) > 0.98


@pytest.mark.parametrize("lengths", [0.0, 0.6])
def test_long_items_are_found_from_afar(lengths: float) -> None:
    state = catalogue(lengths=lengths).state
    index = ItemIndex(state, drawn(400, 5))
    assert index.recall >= 0.99
    assert found(SimpleNamespace(state=state, index=index), state.offered_N, 10) > 0.98


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.02, 0.002, 0.0])
def test_filters_leave_k_items_and_their_best(made: Any, share: float) -> None:
    allowed = np.random.default_rng(2).random(ITEMS) < share
    assert found(made, allowed, 10) > 0.98


@pytest.mark.parametrize("far", [False, True])
def test_filters_of_one_taste_do_too(made: Any, far: bool) -> None:
    """Also where none of the lists that are near to a user hold an item that is allowed."""
    near = made.state.score_ND @ others().mean(0)
    allowed = near < np.quantile(near, 0.3) if far else near > np.quantile(near, 0.7)
    assert found(made, allowed, 10) > 0.98


def test_items_that_a_user_had_hide_the_best_of_the_rest(made: Any) -> None:
    for user in others()[:50]:
        seen, _ = exact(made.state, user, made.state.offered_N, 90)
        allowed = made.state.offered_N.copy()
        allowed[seen] = False
        rows, _ = made.index.best(made.state, user, allowed, 10, hidden=90)
        best, _ = exact(made.state, user, allowed, 10)
        assert len(np.intersect1d(rows, best)) >= 9


@pytest.mark.parametrize("part", [0.1, 0.6, 1.0])
def test_popularity_up_to_the_chosen_is_searched(made: Any, part: float) -> None:
    factor = part * MIX.alpha * 0.7
    added = np.float32(factor) * MIX.log_share(made.state.count_N)
    how = {"factor": factor, "added_N": added}
    offered = made.state.offered_N
    assert made.index.candidates(made.state, others()[0], 10, allowed_N=offered, **how) is not None
    assert found(made, offered, 10, added, factor=factor) > 0.98


@pytest.mark.parametrize(("k", "factor"), [(1_001, 0.0), (10, 0.8), (10, -0.1)])
def test_what_was_not_measured_is_scanned(made: Any, k: int, factor: float) -> None:
    added = np.float32(factor) * MIX.log_share(made.state.count_N) if factor else None
    user, offered = others()[0], made.state.offered_N
    assert made.index.candidates(made.state, user, k, factor=factor, added_N=added) is None
    rows, scores = made.index.best(made.state, user, offered, k, factor=factor, added_N=added)
    best, true = exact(made.state, user, offered, k, added)
    assert rows.tolist() == best.tolist()
    assert scores.tolist() == true.tolist()


def test_an_index_that_proposes_too_few_scans(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InvertedLists, "search", lambda *_: np.arange(5))
    assert found(made, made.state.offered_N, 10) == 1.0


# --- Items come and go.


def test_new_items_are_found_at_once_and_withdrawn_ones_never() -> None:
    grown = catalogue()
    index = ItemIndex(grown.state, drawn(400, 5))
    users, before = others()[:20], grown.state
    for turn in range(1, 8):  # the lists take in what was added after a hundred
        new = users / np.linalg.norm(users, axis=1, keepdims=True) * before.longest * (1 + turn / 9)
        state = grown.add([f"n{turn}-{k}" for k in range(20)], new, new)
        index.follow(state)
        for k, user in enumerate(users):
            rows, _ = index.best(state, user, state.offered_N, 5)
            assert exact(state, user, state.offered_N, 1)[0][0] == rows[0]
            assert state.ids[rows[0]] == f"n{turn}-{k}"
            old, _ = index.best(before, user, before.offered_N, 5)
            assert old.max() < len(before)  # who began before does not see them
    assert len(index) > ITEMS
    gone = np.flatnonzero(np.random.default_rng(3).random(len(state)) < 0.3)
    state = grown.withdraw(gone.tolist())
    for user in users:
        rows, _ = index.best(state, user, state.offered_N, 50)
        assert len(rows) == 50
        assert not np.isin(rows, gone).any()
    again = grown.add(["i5"], 50 * users[:1], 50 * users[:1])  # the old content of i5 is gone too
    rows, _ = index.best(again, users[0], again.offered_N, 100)
    assert again.ids[rows[0]] == "i5"
    assert 5 not in rows


@pytest.mark.parametrize("far", [1.0, 3.0])
def test_new_items_unlike_all_others_are_found_in_the_lists_too(far: float) -> None:
    """Lists are asked for what they hold by then; a byte holds numbers beyond those there were."""
    grown = catalogue()
    index = ItemIndex(grown.state, drawn(400, 5))
    draw = np.random.default_rng(6)
    tastes = far * draw.standard_normal((4, WIDTH))

    def alike(n: int, spread: float) -> Any:
        noise = spread * draw.standard_normal((n, WIDTH))
        return (tastes[np.arange(n) % 4] + noise).astype(np.float32)

    new = alike(600, 0.6)
    state = grown.add([f"n{k}" for k in range(len(new))], new, new)
    index.follow(state)
    assert len(index) == len(state)
    hits = 0
    for user in alike(80, 0.5):
        found, _ = index.best(state, user, state.offered_N, 10)
        hits += len(np.intersect1d(found, exact(state, user, state.offered_N, 10)[0]))
    assert hits / 800 > 0.98


def test_a_catalogue_that_has_grown_is_looked_at_as_far() -> None:
    grown = catalogue()
    index = ItemIndex(grown.state, drawn(400, 5))
    for turn in range(3):
        more = drawn(ITEMS, 20 + turn)
        state = grown.add([f"n{turn}-{k}" for k in range(ITEMS)], more, more)
        index.follow(state)
    assert len(index) == 4 * ITEMS
    assert found(SimpleNamespace(state=state, index=index), state.offered_N, 10) > 0.98


def test_popular_items_with_new_content_are_found_by_popularity() -> None:
    """They keep their count, and lie in lists of items that have none."""
    grown = catalogue()
    index = ItemIndex(grown.state, drawn(400, 5), mix=MIX, temperature=5.0)
    before = grown.state
    top = np.argsort(-before.count_N, kind="stable")[:FEW]
    far = np.zeros((FEW, WIDTH), np.float32)
    rest = drawn(2 * FEW, 12)
    grown.add([f"i{k}" for k in top], far, far)
    state = grown.add([f"n{k}" for k in range(2 * FEW)], rest, rest)
    index.follow(state)
    assert len(index) == len(state)
    factor = MIX.alpha * 5.0
    added = np.float32(factor) * MIX.log_share(state.count_N)
    share = found(
        SimpleNamespace(state=state, index=index), state.offered_N, 10, added, factor=factor
    )
    assert share > 0.98
    old = np.float32(factor) * MIX.log_share(before.count_N)
    for user in others()[:20]:  # who began before does not see them
        rows, _ = index.best(before, user, before.offered_N, 10, factor=factor, added_N=old)
        assert rows.max() < len(before)


class _Means:
    """An encoder whose users are the mean of what they had."""

    max_length, temperature, by_product, cannot_add = 20, 0.7, True, ""

    def users(self, e_BLW: Any, valid_BL: Any) -> Any:
        return e_BLW.sum(1) / valid_BL.sum(1, keepdims=True).astype(np.float32)

    def scores(self, *_: Any) -> Any:
        raise AssertionError("they are products")

    def new_items(self, items: Sequence[NewItem]) -> Any:
        x = np.stack([np.frombuffer(each.text.encode(), np.uint8)[:WIDTH] for each in items])
        made = x.astype(np.float32) / 16 - 4
        return made, made


class _Nothing:
    """A source of items that look like nothing."""

    def text(self, *_: int) -> str:
        return ""

    def picture(self, *_: int) -> bytes | None:
        return None

    def categories(self, row: int) -> tuple[str, ...]:
        return (f"c{row % 3}",)


def model_of(index: Any) -> LoadedModel:
    draw = np.random.default_rng(8)
    asked = [k % 40 + 40 * draw.integers(0, ITEMS // 40, 12) for k in range(300)]
    return LoadedModel(
        _Means(),
        catalogue(),
        _Nothing(),
        version="v",
        chosen=MIX,
        index=index,
        sample=lambda: asked,
    )


HISTORIES = [[f"i{k % 40 + 40 * (k + j)}" for j in range(12)] for k in range(60)]
"""Each of one taste."""


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"k": 60},
        {"keep_history": True},
        {"categories": ["c1"]},
        {"exclude": [f"i{k}" for k in range(0, ITEMS, 40)]},
        {"allow": [f"i{k}" for k in range(0, ITEMS, 90)]},
        {"popularity": "chosen"},
        {"popularity": -1.0},
    ],
)
def test_a_model_answers_nearly_as_without_an_index(asked: Any) -> None:
    scans, searches = model_of("exact"), model_of("auto")
    assert scans.index is None
    assert searches.index is not None
    same = of = 0
    for left, right in zip(
        scans.recommend(HISTORIES, Wanted(**asked)),
        searches.recommend(HISTORIES, Wanted(**asked)),
        strict=True,
    ):
        assert len(left.items) == len(right.items)
        same, of = same + len({*left.items} & {*right.items}), of + len(left.items)
    assert same / of > 0.98


def test_answers_while_items_come_and_go() -> None:
    model, wrong = model_of("approximate"), []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                for answer in model.recommend(HISTORIES[:5], Wanted(k=20)):
                    assert len({each.item_id for each in answer.items}) == 20
            except BaseException as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for each in readers:
        each.start()
    draw = np.random.default_rng(4)
    for turn in range(60):
        text = "".join(map(chr, draw.integers(32, 127, WIDTH)))
        model.add_items([NewItem(item_id=f"n{turn}-{k}", text=text) for k in range(5)])
        model.remove_items([f"n{turn}-0", f"i{turn}"])
        if turn % 20 == 0:
            history, answer = [f"n{turn}-1"], Wanted(k=4, keep_history=True)
            found = {each.item_id for each in model.recommend([history], answer)[0].items}
            alone = Wanted(k=9, allow=[f"n{turn}-{k}" for k in range(5)])
            assert len(model.recommend([history], alone)[0].items) == 3  # one is gone, one is had
            assert f"n{turn}-0" not in found
    stop.set()
    for each in readers:
        each.join()
    assert not wrong
    assert model.index is not None
    assert len(model.index) > ITEMS


# --- Which index is opened.


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists that lose each second item."""
    search = InvertedLists.search
    monkeypatch.setattr(
        InvertedLists, "search", lambda *given: (rows := search(*given))[rows % 2 == 0]
    )
    monkeypatch.setattr(item_index, "_SPARE", 40)


@pytest.mark.usefixtures("spoilt")
def test_below_the_floor_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(IndexRefused, match=r"finds 0\.[2-6]\d* for the 10 best, of which 0.99"):
        model_of("approximate")
    with caplog.at_level(logging.WARNING, logger="pmm"):
        model = model_of("auto")
    assert "All 6,000 items are scanned for every answer: an index of these" in caplog.text
    assert model.index is None
    answer = model.recommend(HISTORIES[:1])[0]
    assert answer == model_of("exact").recommend(HISTORIES[:1])[0]


def test_a_stronger_search_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    search = InvertedLists.search

    def lame(self: Any, user: Any, factor: float, lists: Any, allowed: Any, count: int) -> Any:
        lost = user.sum().astype(np.float64) * 1e4 % 10 < 4  # of four users in ten, when quick
        rows = search(self, user, factor, lists, allowed, count)
        return rows[rows % 2 == 0] if lost and count < 50 else rows

    state, users = catalogue().state, drawn(400, 5)
    quick = ItemIndex(state, users)
    monkeypatch.setattr(InvertedLists, "search", lame)
    index = ItemIndex(state, users)
    assert index.recall >= 0.99
    assert index._strength_of[0.0].spare > quick._strength_of[0.0].spare


def test_items_that_no_list_holds_together_are_scanned() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((ITEMS, 120)).astype(np.float32)  # nothing is near anything
    state = GrowingCatalogue(["x"] * ITEMS, vectors, vectors, np.ones(ITEMS, np.int64)).state
    users = draw.standard_normal((200, 120)).astype(np.float32)
    with pytest.raises(IndexRefused, match="would look at most of them"):
        ItemIndex(state, users)


def test_auto_scans_what_is_scanned_in_ten_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError("no user is asked for")

    state = catalogue().state
    monkeypatch.setattr(item_index, "SCAN_BYTES", state.score_ND.nbytes)
    assert open_index("auto", state, never, by_product=True) is None
    assert open_index("exact", state, never, by_product=True) is None
    monkeypatch.setattr(item_index, "SCAN_BYTES", state.score_ND.nbytes - 1)
    assert open_index("auto", state, lambda: drawn(400, 5), by_product=True) is not None


def test_what_cannot_be_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state, wrong = catalogue().state, "fast"
    with pytest.raises(InputError, match='index must be "auto", "exact" or "approximate"'):
        open_index(wrong, state, others, by_product=True)  # type: ignore[arg-type]
    with pytest.raises(IndexRefused, match="no inner products"):
        open_index("approximate", state, others, by_product=False)
    with pytest.raises(IndexRefused, match="too few"):
        open_index("approximate", state, lambda: others()[:1], by_product=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"Run: pip install 'pmmrec\[faiss\]'"):
        open_index("approximate", state, others, by_product=True)
    with caplog.at_level(logging.WARNING, logger="pmm"):
        assert open_index("auto", state, others, by_product=True) is None
    assert "pip install" in caplog.text


def test_a_run_is_opened_with_an_index(shop: Any, runs: Any, tmp_path: Any) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "pmmrec"))
    model, scans = open_model(shop.home, run, index="approximate"), open_model(shop.home, run)
    assert model.index is not None
    assert model.index.recall == 1.0  # of so few items all are proposed
    histories = [list(scans.state.ids[k : k + 3]) for k in range(10)]
    assert model.recommend(histories) == scans.recommend(histories)
