"""What a run answers: as it was evaluated, filtered as asked, with reasons."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model import registry
from pmm.recommend.answers import Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.open_run import open_model
from pmm.storage.schemas import RANKS, SEQUENCES, read_table

MODELS = [*registry.models()]


def histories(shop: Any, model: LoadedModel) -> tuple[list[list[str]], list[str]]:
    """What each test user had before, and what came next, by raw ids."""
    table = read_table(shop.home.target("HM") / "sequences.parquet", SEQUENCES).to_pydict()
    ids = model.state.ids
    before = [
        [ids[item - 1] for item in (*train, valid)]
        for train, valid in zip(table["train"], table["valid"], strict=True)
    ]
    return before, [ids[item - 1] for item in table["test"]]


def ranks_of(
    model: LoadedModel, before: list[list[str]], after: list[str], **how: Any
) -> list[int]:
    """The rank of each true item in the whole served list, ties against the model."""
    wanted = Wanted(k=len(model.state), keep_history=True, **how)
    found = []
    for answer, history, target in zip(model.recommend(before, wanted), before, after, strict=True):
        scores = {each.item_id: each.score for each in answer.items}
        others = set(scores) - set(history) | {target}
        found.append(sum(scores[each] >= scores[target] for each in others))
    return found


@pytest.fixture(scope="module", params=[*MODELS, "pmmrec on vectors"])
def case(shop: Any, runs: Any, request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, _, vectors = request.param.partition(" on ")
    options = runs.options_of(shop, name, **({"items": "vectors"} if vectors else {}))
    made: Path = runs.make_run(shop, tmp_path_factory.mktemp(name) / "run", options)
    return made


def test_what_is_served_is_what_was_evaluated(shop: Any, case: Path) -> None:
    run = case
    evaluate_run(shop.home, run, EvaluateOptions(gallery_users=0))
    model = open_model(shop.home, run)
    before, after = histories(shop, model)
    served = ranks_of(model, before, after)
    assert served == read_table(run / "ranks.parquet", RANKS)["rank"].to_pylist()
    served = ranks_of(model, before, after, popularity="chosen")
    assert served == read_table(run / "ranks-chosen.parquet", RANKS)["rank"].to_pylist()
    assert [ranks_of(model, [b], [a]) for b, a in zip(before, after, strict=True)] == [
        [each] for each in ranks_of(model, before, after)
    ]  # one history at a time


@pytest.fixture(scope="module")
def model(shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    options = runs.options_of(shop, "pmmrec")
    return open_model(shop.home, runs.make_run(shop, tmp_path_factory.mktemp("answers"), options))


def ids(answer: Any) -> list[str]:
    return [each.item_id for each in answer.items]


def test_filters_leave_k_items(model: LoadedModel) -> None:
    every = list(model.state.ids)
    history = every[:3]
    whole = ids(model.recommend([history], Wanted(k=30))[0])
    assert set(whole) == set(every) - set(history)
    without = ids(model.recommend([history], Wanted(k=5, exclude=whole[:4]))[0])
    assert without == whole[4:9]
    allowed = ids(model.recommend([history], Wanted(k=5, allow=[*whole[::-3], "nobody"]))[0])
    assert allowed == [each for each in whole if each in whole[::-3]][:5]
    kept = ids(model.recommend([history], Wanted(k=30, keep_history=True))[0])
    assert set(kept) == set(every)
    nothing = model.recommend([history], Wanted(allow=["nobody"]))[0]
    assert not nothing.items


def test_unknown_ids_are_said_and_skipped(model: LoadedModel) -> None:
    every = model.state.ids
    plain = model.recommend([[every[0], every[1]]])[0]
    found = model.recommend([["?", every[0], "<b>", every[1]]])[0]
    assert found.items == plain.items
    assert found.unknown == ("?", "<b>")
    assert not found.popular


def test_a_history_of_nothing_known_gets_the_popular_items(model: LoadedModel) -> None:
    count = model.state.count_N
    for history in ([], ["?"]):
        found = model.recommend([history], Wanted(k=4))[0]
        assert found.popular
        assert found.unknown == tuple(history)
        served = [model.card(each).count for each in ids(found)]
        assert served == sorted(count.tolist(), reverse=True)[:4]


def test_no_history_gets_no_answer(model: LoadedModel) -> None:
    assert model.recommend([]) == []


def test_only_the_most_recent_items_count_but_all_are_left_out(model: LoadedModel) -> None:
    every = list(model.state.ids)
    long, recent = every[:10], every[10 - model.encoder.max_length : 10]
    left = Wanted(k=30, exclude=long)
    assert model.recommend([long], left)[0].items == model.recommend([recent], left)[0].items
    assert not set(long) & set(ids(model.recommend([long], Wanted(k=30))[0]))


def test_reasons_are_what_the_score_loses_without_an_item(model: LoadedModel) -> None:
    every = list(model.state.ids)
    history, target = every[2:6], every[9]

    def score(items: list[str]) -> float:
        found = model.recommend([items], Wanted(k=30, keep_history=True))[0].items
        return next(each.score for each in found if each.item_id == target)

    reasons = {each.item_id: each.effect for each in model.explain(history, target)}
    for place, item in enumerate(history):
        without = [*history[:place], *history[place + 1 :]]
        assert reasons[item] == pytest.approx(score(history) - score(without), abs=1e-4)
    effects = [each.effect for each in model.explain(history, target)]
    assert effects == sorted(effects, reverse=True)
    with pytest.raises(InputError, match="no item of the history"):
        model.explain(["?"], target)


def test_similar_items_are_the_nearest_by_cosine(model: LoadedModel) -> None:
    vector_ND = model.state.score_ND.astype(np.float64)
    unit_ND = vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
    cosine_N = unit_ND @ unit_ND[7]
    cosine_N[7] = -2
    found = model.similar(model.state.ids[7], 5)
    assert [each.score for each in found] == pytest.approx(sorted(cosine_N)[::-1][:5], abs=1e-6)
    with pytest.raises(InputError, match='there is no item "no"'):
        model.similar("no")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"k": -1}, "k must be"),
        ({"k": 10**9}, "k must be"),
        ({"k": True}, "k must be"),
        ({"popularity": float("nan")}, "finite"),
        ({"popularity": "much"}, "chosen"),
        ({"exclude": "0001"}, "list of ids"),
    ],
)
def test_a_wrong_wish_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Wanted(**wrong)


def test_categories_that_no_item_has_are_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match='no item is of the category "Shoes"'):
        model.recommend([[]], Wanted(categories=["Shoes"]))
