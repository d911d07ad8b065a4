"""Cold cuts against a literal reading of the sequences."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pmm.errors import StaleArtefact
from pmm.evaluate.catalogue import embed_catalogue, rank_mixes
from pmm.evaluate.cold import cold_cuts
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.evaluate.metrics import hit_rate
from pmm.evaluate.ranking import Queries
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, frozen_digest, save_weights
from pmm.shards.sequence_shards import Lists
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
    cold = json.loads((tmp_path / "metrics.json").read_text())["cold_start"]
    assert cold == metrics["cold_start"]
    ranks = read_table(tmp_path / "ranks-cold-all.parquet", RANKS)
    expected = literal_cuts(shop)
    assert cold["all"]["model"]["users"] == len(expected) == ranks.num_rows
    held = np.array([each[3] for each in expected])
    found = ranks["rank"].to_numpy()
    assert cold["held_out"]["model"]["hr@10"] == pytest.approx(hit_rate(found[held], 10))
    headline = read_table(tmp_path / "ranks-cold.parquet", RANKS)
    assert headline["rank"].to_pylist() == found[held].tolist()
    assert set(cold["all"]) == {"model", "popularity", "random"}
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
