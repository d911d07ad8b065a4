"""Evaluation of a model on real shards, with small encoders."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pmm.errors import BrokenArtefact, InputError, MissingArtefact, PmmError, StaleArtefact
from pmm.evaluate.catalogue import embed_catalogue, user_vectors
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import (
    evaluate_model,
    evaluate_run,
    gallery_rows,
    questions,
    references,
)
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.runs import loading
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, frozen_digest, load_weights, save_weights
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.toml import dump


@pytest.fixture(scope="module")
def model(shop: Any) -> Pmmrec:
    torch.manual_seed(3)
    return Pmmrec(shop.options)


@pytest.fixture
def run_dir(shop: Any, model: Pmmrec, tmp_path: Path) -> Path:
    """A run's folder as training leaves it, with the weights of the start."""
    (tmp_path / "recipe.toml").write_text(dump(Recipe(target="hm", model=shop.options)))
    about = {"frozen": frozen_digest(model), "shards": shop.shards().fingerprint}
    about |= {"step": 0, "epoch": 0.0, "precision": "fp32"}
    save_weights(tmp_path / BEST, model, about)
    return tmp_path


def test_histories_and_targets_are_those_of_the_split(shop: Any) -> None:
    sequences = shop.shards().sequences()
    valid, test = questions(shop.shards(), "valid"), questions(shop.shards(), "test")
    for user in (0, 1, 9):
        train = sequences.train[user].tolist()
        assert valid.history[user].tolist() == train
        assert test.history[user].tolist() == [*train, valid.target_U[user]]
    assert test.target_U.tolist() == sequences.test.tolist()
    assert test.repeated().sum() == 1


def test_ranks_do_not_depend_on_chunks_of_items_or_users(shop: Any, model: Pmmrec) -> None:
    shards, whole = shop.shards(), EvaluateOptions(users_per_chunk=100, items_per_chunk=100)
    first = evaluate_model(model, shards, whole)
    for users, items in ((1, 7), (5, 30), (24, 11)):
        options = EvaluateOptions(users_per_chunk=users, items_per_chunk=items)
        # encoding in other batches moves a vector by 1e-7, which no pair of these items notices
        assert evaluate_model(model, shards, options).equals(first)


def test_user_vectors_come_from_the_most_recent_items_alone(shop: Any, model: Pmmrec) -> None:
    catalogue = embed_catalogue(model, shop.shards())
    asked = questions(shop.shards(), "test").rows(5, 6)  # eight items, of which six are read
    recent = asked.history[0][-model.max_length :].astype(np.int64)
    with torch.inference_mode():
        e_1LD = catalogue.input_ND[recent - 1][None]
        one = model.eval().user_vectors(e_1LD, torch.ones(1, len(recent), dtype=torch.bool))
    assert len(asked.history[0]) > model.max_length
    torch.testing.assert_close(user_vectors(model, catalogue, asked.history), one)


def test_evaluation_gives_the_model_its_mode_back(shop: Any, model: Pmmrec) -> None:
    model.train()
    evaluate_model(model, shop.shards(), EvaluateOptions())
    assert model.training
    assert model.user_encoder.training


def test_popularity_equals_a_literal_loop(shop: Any) -> None:
    shards = shop.shards()
    sequences, hits = shards.sequences(), 0
    counts: dict[int, int] = {}
    for user in range(len(sequences)):
        for item in sequences.train[user].tolist():
            counts[item] = counts.get(item, 0) + 1
    for user in range(len(sequences)):
        target = int(sequences.test[user])
        had = {*sequences.train[user].tolist(), int(sequences.valid[user])}
        others = [i for i in range(1, shards.n_items + 1) if i not in had and i != target]
        hits += sum(counts.get(i, 0) >= counts.get(target, 0) for i in others) < 10
    found = references(shards, EvaluateOptions())["popularity"]
    assert found["hr@10"] == hits / len(sequences)


def test_evaluating_twice_writes_the_same_bytes(shop: Any, run_dir: Path) -> None:
    names = ("ranks.parquet", "metrics.json", "gallery.png")
    evaluate_run(shop.home, run_dir)
    first = [(run_dir / name).read_bytes() for name in names]
    metrics = evaluate_run(shop.home, run_dir)
    assert [(run_dir / name).read_bytes() for name in names] == first
    assert json.loads((run_dir / "metrics.json").read_text()) == metrics
    assert read_table(run_dir / "ranks.parquet", RANKS).num_rows == 24
    assert {"model", "popularity", "random"} <= metrics.keys()
    assert [metrics[name] for name in ("users", "items", "repeated_targets")] == [24, 30, 1]


def test_validation_has_files_of_its_own(shop: Any, run_dir: Path) -> None:
    evaluate_run(shop.home, run_dir, EvaluateOptions(split="valid", gallery_users=0))
    assert {path.name for path in run_dir.iterdir()} == {
        *("recipe.toml", "checkpoint", "ranks-valid.parquet", "metrics-valid.json", ".sums"),
    }


def test_the_gallery_shows_hits_and_misses_with_the_ranks_of_the_table(
    shop: Any, model: Pmmrec
) -> None:
    shards, options = shop.shards(), EvaluateOptions(gallery_users=4)
    catalogue = embed_catalogue(model, shards)
    ranks = evaluate_model(model, shards, options, catalogue=catalogue)
    rows = gallery_rows(model, shards, ranks, options, catalogue)
    assert len({row.user for row in rows}) == 4
    assert sum(row.rank <= 10 for row in rows) == min(2, sum(np.array(ranks["rank"]) <= 10))
    for row in rows:
        assert row.rank == ranks["rank"][row.user].as_py()
        assert not {*row.history} & {*row.top} - {row.target}
        if row.rank <= 10:
            assert row.top[row.rank - 1] == row.target


def test_keeping_the_history_makes_every_item_a_candidate(shop: Any, run_dir: Path) -> None:
    evaluate_run(shop.home, run_dir, EvaluateOptions(keep_history=True, gallery_users=0))
    assert set(read_table(run_dir / "ranks.parquet", RANKS)["candidates"].to_pylist()) == {30}


def test_a_model_without_numbers_is_refused(shop: Any, run_dir: Path) -> None:
    broken = Pmmrec(shop.options)
    with torch.no_grad():
        broken.text_projection.weight.fill_(torch.nan)
    about = {"frozen": frozen_digest(broken), "shards": shop.shards().fingerprint}
    save_weights(run_dir / BEST, broken, {**about, "step": 1, "epoch": 1.0, "precision": "fp32"})
    with pytest.raises(PmmError, match=r"of 24 user vectors hold NaN|of 30 item vectors hold NaN"):
        evaluate_run(shop.home, run_dir)
    assert not (run_dir / "ranks.parquet").exists()


def test_missing_and_damaged_checkpoints_name_the_command(shop: Any, run_dir: Path) -> None:
    with pytest.raises(MissingArtefact, match=r"no recipe.toml. Run: pmm train"):
        evaluate_run(shop.home, run_dir / "nowhere")
    (run_dir / BEST).write_bytes(b"\x10\0\0\0\0\0\0\0{not a header at all")
    with pytest.raises(BrokenArtefact, match=r"is damaged.*--overwrite"):
        evaluate_run(shop.home, run_dir)
    (run_dir / BEST).unlink()
    with pytest.raises(MissingArtefact, match=r"pmm train --stage scratch --target .*--resume"):
        evaluate_run(shop.home, run_dir)


def test_weights_of_another_model_or_on_other_encoders_are_refused(
    shop: Any, run_dir: Path
) -> None:
    wider = Pmmrec(shop.with_options(width=64))
    with pytest.raises(BrokenArtefact, match="does not fit the recipe's model"):
        load_weights(run_dir / BEST, wider, made_by="")
    other = Pmmrec(shop.options)
    with torch.no_grad():
        next(other.text.stem.parameters()).add_(1e-6)
    with pytest.raises(StaleArtefact, match="frozen encoder weights"):
        load_weights(run_dir / BEST, other, made_by="")


def test_loaded_weights_are_the_saved_ones(shop: Any, model: Pmmrec, run_dir: Path) -> None:
    torch.manual_seed(99)
    fresh = Pmmrec(shop.options)
    load_weights(run_dir / BEST, fresh, made_by="")
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def test_new_shards_make_a_run_stale(shop_maker: ModuleType, tmp_path: Path, model: Pmmrec) -> None:
    shop = shop_maker.open_shop(tmp_path)
    run_dir = shop.home.run("old")
    run_dir.mkdir(parents=True)
    (run_dir / "recipe.toml").write_text(dump(Recipe(target="HM", model=shop.options)))
    about = {"frozen": "", "shards": "former", "step": 0, "epoch": 0.0, "precision": "fp32"}
    save_weights(run_dir / BEST, model, about)
    with pytest.raises(StaleArtefact, match="was trained on shards former, but"):
        evaluate_run(Home(tmp_path), run_dir)
    assert isinstance(shop.shards(), Shards)


def test_a_recipe_that_was_cut_off_is_named(shop: Any, run_dir: Path) -> None:
    (run_dir / "recipe.toml").write_text('target = "HM"\n')
    with pytest.raises(BrokenArtefact, match=r"recipe.toml names no target or has no table"):
        evaluate_run(shop.home, run_dir)


def test_options_out_of_range_are_named_together_for_an_evaluation() -> None:
    with pytest.raises(InputError, match="seed must be at least 0; users_per_chunk must be at"):
        EvaluateOptions(seed=-1, users_per_chunk=0)


def test_the_step_is_that_of_the_weights_when_training_replaces_them_meanwhile(
    shop: Any, model: Pmmrec, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_slowly(options: Any, *_: Any, **__: Any) -> Pmmrec:
        about = {"frozen": frozen_digest(model), "shards": shop.shards().fingerprint}
        about |= {"step": 7, "epoch": 2.0, "precision": "fp32"}
        save_weights(run_dir / BEST, model, about)
        return Pmmrec(options)

    monkeypatch.setattr(loading, "build_model", build_slowly)
    found = evaluate_run(shop.home, run_dir, EvaluateOptions(gallery_users=0))
    assert (found["step"], found["epoch"]) == (7, 2.0)


def test_a_single_user_and_a_catalogue_smaller_than_the_cutoffs_are_ranked(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=7, n_users=1)
    torch.manual_seed(0)
    ranks = evaluate_model(Pmmrec(shop.options), shop.shards(), EvaluateOptions())
    (row,) = ranks.to_pylist()
    assert (row["user"], row["target"], row["candidates"]) == (0, 4, 4)
    assert 1 <= row["rank"] <= 4
