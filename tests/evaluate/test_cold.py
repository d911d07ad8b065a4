"""Cold cuts against a literal reading of the sequences."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pmm.errors import BrokenArtefact, StaleArtefact
from pmm.evaluate import catalogue as catalogue_module
from pmm.evaluate import cold, ranking
from pmm.evaluate.catalogue import embed_catalogue, rank_mixes
from pmm.evaluate.cold import cold_cuts
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run, rankers, ranks_table
from pmm.evaluate.metrics import hit_rate
from pmm.evaluate.ranking import Queries, count_candidates
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, frozen_digest, save_weights
from pmm.shards.sequence_shards import Lists, Prefixes
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.toml import dump


def literal_cuts(shop: Any) -> list[tuple[int, list[int], int, bool]]:
    """(user, history, cold item, held out) of every cut, from the shards' sequences."""
    sequences, count = shop.shards().sequences(), shop.shards().train_count
    found = []
    for user in range(len(sequences)):
        train = sequences.train[user].tolist()
        whole = [*train, int(sequences.valid[user]), int(sequences.test[user])]
        for at in range(1, len(whole)):
            if count[whole[at]] < 3:
                found.append((user, whole[:at], whole[at], at >= len(train)))
    return found


def test_cuts_and_what_is_held_out_are_those_of_a_literal_reading(shop: Any) -> None:
    cuts, expected = cold_cuts(shop.home, shop.shards()), literal_cuts(shop)
    asked = cuts.queries
    found = [
        (int(asked.user_U[k]), asked.history[k].tolist(), int(asked.target_U[k]), bool(held))
        for k, held in enumerate(cuts.held_out_C)
    ]
    assert found == expected
    assert 0 < cuts.held_out_C.sum() < len(found)


def test_an_evaluation_ranks_the_cuts_beside_popularity_and_chance(
    shop: Any, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = Pmmrec(shop.options)
    (tmp_path / "recipe.toml").write_text(dump(Recipe(target="HM", model=shop.options)))
    about = {"frozen": frozen_digest(model), "shards": shop.shards().fingerprint}
    save_weights(tmp_path / BEST, model, {**about, "step": 0, "epoch": 0.0, "precision": "fp32"})
    metrics = evaluate_run(shop.home, tmp_path, EvaluateOptions(cold=True, gallery_users=0))
    told = json.loads((tmp_path / "metrics.json").read_text())["cold_start"]
    assert told == metrics["cold_start"]
    ranks = read_table(tmp_path / "ranks-cold-all.parquet", RANKS)
    expected = literal_cuts(shop)
    assert told["all"]["model"]["users"] == len(expected) == ranks.num_rows
    held = np.array([each[3] for each in expected])
    found = ranks["rank"].to_numpy()
    assert told["held_out"]["model"]["hr@10"] == pytest.approx(hit_rate(found[held], 10))
    headline = read_table(tmp_path / "ranks-cold.parquet", RANKS)
    assert headline["rank"].to_pylist() == found[held].tolist()
    assert set(told["all"]) == {"model", "popularity", "random"}
    alone = [rank_alone(model.eval(), shop, each) for each in expected[:5]]
    assert found[:5].tolist() == alone


def rank_alone(model: Pmmrec, shop: Any, cut: tuple[int, list[int], int, bool]) -> int:
    user, history, item, _ = cut
    asked = Queries(
        user_U=np.array([user], np.int32),
        target_U=np.array([item], np.int32),
        history=Lists(offsets=np.array([0, len(history)]), values=np.array(history, np.int32)),
    )
    return int(rank_mixes(model, embed_catalogue(model, shop.shards()), asked)[0, 0])


def test_cuts_of_another_ingest_are_refused(shop_maker: ModuleType, tmp_path: Path) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=8)
    shards = shop.shards()
    shop_maker._make_target(shop.home, "HM", [f"changed {k}" for k in range(12)], 8)
    with pytest.raises(StaleArtefact, match=r"Run: pmm shard --target"):
        cold_cuts(shop.home, shards)


def written_out(shop: Any) -> Queries:
    """The cuts with every history in full, as former versions held them."""
    users, histories, items, _ = zip(*literal_cuts(shop), strict=True)
    return Queries(
        user_U=np.array(users, np.int32),
        target_U=np.array(items, np.int32),
        history=Lists(
            offsets=np.concatenate([[0], np.cumsum([len(each) for each in histories])]),
            values=np.concatenate(histories).astype(np.int32),
        ),
    )


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("held", [1, 7, 2_000_000])
def test_cuts_by_position_rank_as_cuts_with_their_histories(
    shop: Any, held: int, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    model = Pmmrec(shop.options).eval()
    catalogue, shards = embed_catalogue(model, shop.shards()), shop.shards()
    options = EvaluateOptions(neighbours=True, keep_history=keep)
    ranked_by = {
        "model": lambda asked: rank_mixes(model, catalogue, asked, keep_history=keep)[0],
        **rankers(shards, options, shop.options),
    }
    old = written_out(shop)
    expected = {name: rank(old).tolist() for name, rank in ranked_by.items()}
    table = ranks_table(old, np.ones(len(old), np.int32), shards, keep_history=keep)
    monkeypatch.setattr(ranking, "HISTORY_AT_ONCE", held)
    monkeypatch.setattr(catalogue_module, "HISTORY_AT_ONCE", held)
    new = cold_cuts(shop.home, shards).queries
    assert {name: rank(new).tolist() for name, rank in ranked_by.items()} == expected
    assert len(expected) == 5
    assert ranks_table(new, np.ones(len(new), np.int32), shards, keep_history=keep) == table
    assert new.repeated().tolist() == old.repeated().tolist()


def test_a_table_with_histories_is_still_read(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, histories, items, _ = zip(*literal_cuts(shop), strict=True)
    pq.write_table(
        pa.table(
            {
                "user": pa.array(users, pa.int32()),
                "history": pa.array(histories, pa.list_(pa.int32())),
                "target": pa.array(items, pa.int32()),
            }
        ),
        tmp_path / "cold.parquet",
    )
    monkeypatch.setattr(cold, "_FORMER_ROWS", 3)
    found = cold._read(tmp_path / "cold.parquet")
    now = cold._read(shop.home.target("HM") / "cold.parquet")
    assert [each.tolist() for each in found] == [each.tolist() for each in now]


@pytest.mark.parametrize(
    ("row", "message"),
    [((10**6, 1, 1), "no item"), ((0, 99, 1), "no item"), ((0, 1, 99), "other items")],
)
def test_cuts_that_are_not_of_these_sequences_are_refused(
    shop: Any, row: tuple[int, int, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, position, target = (np.array([each]) for each in row)
    monkeypatch.setattr(cold, "_read", lambda _: (user, position, target))
    with pytest.raises(BrokenArtefact, match=message):
        cold_cuts(shop.home, shop.shards())


def test_the_histories_of_one_user_are_never_held_all_at_once() -> None:
    """Written out, the histories of these cuts are 200 million items."""
    n = 20_000
    values = np.arange(n, dtype=np.int32) % 300 + 1
    asked = Queries(
        user_U=np.zeros(n - 1, np.int32),
        target_U=values[1:],
        history=Prefixes(
            lists=Lists(offsets=np.array([0, n]), values=values),
            row=np.zeros(n - 1, np.int32),
            lengths=np.arange(1, n),
        ),
    )
    most = 0
    for part in asked.pieces(500):
        assert len(part) <= 500
        most = max(most, len(part.history.take(np.arange(len(part))).values))
    assert n < most <= ranking.HISTORY_AT_ONCE
    some = asked.rows(400, 900)
    assert count_candidates(some, 400).tolist() == [
        400 - len(set(values[: k + 1].tolist()) - {int(values[k + 1])}) for k in range(400, 900)
    ]
