"""Many users are ranked together as each would be alone: the same items, the same scores."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.recommend import many_users
from pmm.recommend.answers import Wanted
from pmm.recommend.catalogue_state import GrowingCatalogue
from pmm.recommend.many_users import HistoryRanker
from pmm.recommend.open_run import open_model


def ranker_of(user_BD: Any, item_ND: Any, **how: Any) -> HistoryRanker:
    """One whose user encoder gives these users, in order."""
    ids = [str(each) for each in range(len(item_ND))]
    coming = iter(user_BD)

    def users(e_BLW: Any, valid_BL: Any) -> Any:
        assert len(e_BLW) == len(valid_BL)
        return np.stack([next(coming) for _ in e_BLW])

    encoder: Any = SimpleNamespace(users=users, by_product=True, max_length=3)
    state = GrowingCatalogue(ids, item_ND[:, :2], item_ND, np.arange(len(ids))).state
    usual = {"allowed_N": np.ones(len(ids), bool), "added_N": None, "keep_history": False}
    return HistoryRanker(encoder=encoder, state=state, **{**usual, **how})


def alone(user_BD: Any, item_ND: Any, histories: Any, **how: Any) -> list[Any]:
    return [
        ranker_of(user_BD[b : b + 1], item_ND, **how).rank([history_H]).each()[0]
        for b, history_H in enumerate(histories)
    ]


def require_same(together: list[Any], one_by_one: list[Any]) -> None:
    assert len(together) == len(one_by_one)
    for (rows, scores), (rows_alone, scores_alone) in zip(together, one_by_one, strict=True):
        assert rows.tolist() == rows_alone.tolist()
        assert scores.tolist() == scores_alone.tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([40, 700, 2_049, 5_000]),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["apart", "ties", "few", "equal"]),
)
def test_together_is_as_alone(
    seed: int, n: int, k: int, mixed: bool, keep: bool, kind: str
) -> None:
    draw = np.random.default_rng(seed)
    item_ND = draw.standard_normal((n, 6)).astype(np.float32)
    user_BD = draw.standard_normal((9, 6)).astype(np.float32)
    if kind == "ties":
        item_ND, user_BD = np.rint(item_ND), np.rint(user_BD)
    if kind == "equal":
        item_ND[:] = item_ND[0]
    how = {
        "k": k,
        "keep_history": keep,
        "allowed_N": draw.random(n) < (0.01 if kind == "few" else 0.8),
        "added_N": draw.standard_normal(n).astype(np.float32) if mixed else None,
    }
    histories = [draw.integers(0, n, draw.integers(1, 30)) for _ in user_BD]
    together = ranker_of(user_BD, item_ND, **how).rank(histories).each()
    require_same(together, alone(user_BD, item_ND, histories, **how))


def test_items_that_products_cannot_tell_apart_are_ranked_by_the_definition_for_many_too() -> None:
    draw = np.random.default_rng(2)
    item_ND = np.repeat(draw.standard_normal((1, 256)).astype(np.float32), 3_000, axis=0)
    steps = draw.integers(0, 256, 3_000)
    rows = np.arange(3_000)
    item_ND[rows, steps] = np.nextafter(item_ND[rows, steps], np.float32(9), dtype="f4")
    user_BD = draw.standard_normal((4, 256)).astype(np.float32) * 100
    histories = [np.array([7]), np.array([8, 9]), np.array([1]), np.array([0])]
    together = ranker_of(user_BD, item_ND, k=10).rank(histories).each()
    require_same(together, alone(user_BD, item_ND, histories, k=10))


def test_a_large_catalogue_is_scored_by_few_users_at_a_time(monkeypatch: Any) -> None:
    """However many users come, the memory of their scores stays."""
    sizes = []
    take = many_users._Memory.take

    def counted(memory: Any, rows: int, columns: int) -> Any:
        sizes.append(4 * rows * columns)
        return take(memory, rows, columns)

    monkeypatch.setattr(many_users._Memory, "take", counted)
    monkeypatch.setattr(many_users, "SCORE_BYTES", 5 * 4 * 3_000)
    draw = np.random.default_rng(3)
    item_ND = draw.standard_normal((3_000, 4)).astype(np.float32)
    user_BD = draw.standard_normal((70, 4)).astype(np.float32)
    histories = [np.array([b]) for b in range(70)]
    together = ranker_of(user_BD, item_ND, k=5).rank(histories).each()
    require_same(together, alone(user_BD, item_ND, histories, k=5))
    assert len(sizes) == 14
    assert max(sizes) <= 5 * 4 * (3_000 + many_users.BLOCK)


@pytest.mark.parametrize("name", ["pmmrec", "sasrec", "carca"])
def test_a_model_answers_many_as_it_answers_one(
    shop: Any, runs: Any, tmp_path: Any, name: str
) -> None:
    model = open_model(
        shop.home, runs.make_run(shop, tmp_path / "run", runs.options_of(shop, name))
    )
    ids = list(model.state.ids)
    histories = [ids[k : k + 4] for k in range(20)] + [[], ["?"], ["?", ids[3]]]
    wanted = Wanted(k=5, exclude=ids[9:11], popularity=0.5)
    for history, answer in zip(histories, model.recommend(histories, wanted), strict=True):
        one = model.recommend([history], wanted)[0]
        assert [each.item_id for each in answer.items] == [each.item_id for each in one.items]
        scores = [each.score for each in one.items]
        assert [each.score for each in answer.items] == pytest.approx(scores, abs=1e-5)
        assert (answer.unknown, answer.popular) == (one.unknown, one.popular)
