"""A share of popularity in a ranking: the definition written out, what is chosen, what is told."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pmm.errors import InputError
from pmm.evaluate.catalogue import embed_catalogue, rank_mixes, score_catalogue
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run, questions
from pmm.evaluate.metrics import hit_rate
from pmm.evaluate.popularity_mix import (
    ALPHAS,
    KAPPA,
    NO_POPULARITY,
    ChosenMix,
    PopularityMix,
    choose,
)
from pmm.evaluate.report import metrics_table
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.model.build import build_model, features_of
from pmm.model.registry import entry
from pmm.runs.checkpoint import LAST
from pmm.runs.loading import load_run, saved_recipe
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_header
from pmm.storage.schemas import RANKS, read_table
from pmm.train.train_run import train

MIXES = [PopularityMix(alpha=-0.75), NO_POPULARITY, PopularityMix(alpha=0.5, kappa=1.0)]


def literal_ranks(model: Any, shards: Any, mix: PopularityMix) -> list[int]:
    """Score by score in double precision; ties count against the model."""
    asked = questions(shards, "test")
    catalogue = embed_catalogue(model, shards)
    count = [int(shards.train_count[item]) for item in range(1, shards.n_items + 1)]
    total = sum(each + mix.kappa for each in count)
    found = []
    for row in range(len(asked)):
        part = asked.rows(row, row + 1)
        score = score_catalogue(model, catalogue, part.history)[0].double()
        logit = score / model.temperature
        for item, times in enumerate(count):
            logit[item] += mix.alpha * np.log((times + mix.kappa) / total)
        target = int(part.target_U[0]) - 1
        others = set(range(len(count))) - {int(i) - 1 for i in part.history.values} - {target}
        found.append(1 + sum(bool(logit[i] >= logit[target]) for i in others))
    return found


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "carca", "unisrec"])
def test_ranks_are_those_of_logits_and_log_shares_added_up(name: str, shop: Any) -> None:
    shards = shop.shards()
    preset = entry(name).settings["default"].options
    sizes = {"width": 16, "max_length": 6, "user_heads": 2, "inner": 16, "tau": 0.3}
    encoders = {"text": shop.options.text, "vision": shop.options.vision}
    known = {each.name for each in fields(preset)}
    wanted = {key: value for key, value in {**sizes, **encoders}.items() if key in known}
    options = replace(preset, **wanted)
    torch.manual_seed(0)
    model = build_model(options, shards.n_items, features_of(options, [shards])).eval()
    assert model.temperature == 0.3
    found = rank_mixes(model, embed_catalogue(model, shards), questions(shards, "test"), MIXES)
    for mix, rank_U in zip(MIXES, found, strict=True):
        assert rank_U.tolist() == literal_ranks(model, shards, mix)
    assert found[0].tolist() != found[2].tolist()


def test_drawn_negatives_know_no_temperature() -> None:
    for name, loss in (("sasrec", "bpr"), ("sasrec", "bce")):
        options = replace(entry(name).settings["default"].options, loss=loss, tau=0.3)  # type: ignore[call-arg]
        assert build_model(options, 5).temperature == 1.0


def test_the_chosen_share_is_the_best_and_the_balanced_one_is_within_two_points() -> None:
    assert choose({0.0: 0.3}) == ChosenMix(chosen=0.0, balanced=0.0)
    assert choose({-0.25: 0.5, 0.25: 0.5, 0.0: 0.1}) == ChosenMix(chosen=0.25, balanced=0.25)
    assert choose({-0.5: 0.32, 0.0: 0.30, 1.0: 0.1}) == ChosenMix(chosen=-0.5, balanced=0.0)
    assert choose({-0.5: 0.33, -0.25: 0.31, 0.0: 0.309}) == ChosenMix(chosen=-0.5, balanced=-0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"popularity_alpha": float("nan")}, "popularity_alpha = nan is no number"),
        ({"popularity_kappa": 0.0}, "popularity_kappa = 0.0 must be above 0"),
        ({"popularity_kappa": float("inf")}, "popularity_kappa = inf"),
    ],
)
def test_shares_that_are_no_numbers_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluateOptions(**options)  # type: ignore[arg-type]


def trained(shop: Any, run_dir: Path, **changes: Any) -> dict[str, Any]:
    """The header of the best weights of a short run."""
    options = TrainOptions(epochs=3, batch_users=8, lr=5e-3, **changes)
    model = SasrecOptions(width=16, max_length=6, user_blocks=1)
    train(shop.home, run_dir, Recipe(target="HM", model=model, train=options))
    return read_header(run_dir / BEST, made_by="pmm train")


def test_training_stores_what_the_validation_items_choose_with_the_best_weights(
    shop: Any, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    stored = trained(shop, run_dir)["popularity"]
    model, shards, _ = load_run(shop.home, run_dir)
    asked = questions(shards, "valid")
    mixes = [PopularityMix(alpha=alpha) for alpha in ALPHAS]
    ranks = rank_mixes(model, embed_catalogue(model, shards), asked, mixes)
    rates = {f"{mix.alpha:g}": hit_rate(each, 10) for mix, each in zip(mixes, ranks, strict=True)}
    assert stored == {
        "kappa": KAPPA,
        "valid_hr@10": rates,
        **asdict(choose({float(alpha): rate for alpha, rate in rates.items()})),
    }
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["kind"] == "popularity"
    evaluations = [each for each in lines if each["kind"] == "evaluation"]
    reached = [max(each["hr@10"], each["mixed_hr@10"]) for each in evaluations]
    assert evaluations[-1]["best"] == max(reached)


def test_a_finished_run_chooses_once_and_going_on_keeps_its_log(shop: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trained(shop, run_dir)
    before = {p: p.read_bytes() for p in (run_dir / "log.jsonl", run_dir / BEST, run_dir / LAST)}
    model = SasrecOptions(width=16, max_length=6, user_blocks=1)
    recipe = Recipe(target="HM", model=model, train=TrainOptions(epochs=3, batch_users=8, lr=5e-3))
    train(shop.home, run_dir, recipe, existing="resume")
    assert {path: path.read_bytes() for path in before} == before


def test_an_evaluation_tells_of_all_shares_warm_and_cold(shop: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stored = trained(shop, run_dir)["popularity"]
    found = evaluate_run(shop.home, run_dir, EvaluateOptions(cold=True, gallery_users=0))
    mixes = found["popularity_mix"]
    assert {name: mix["alpha"] for name, mix in mixes.items()} == {
        "none": 0.0,
        "chosen": stored["chosen"],
        "balanced": stored["balanced"],
    }
    assert mixes["none"]["hr@10"] == found["model"]["hr@10"]
    assert mixes["none"]["cold_cuts"] == found["cold_start"]["held_out"]["model"]
    chosen = read_table(run_dir / "ranks-chosen.parquet", RANKS)
    assert mixes["chosen"]["hr@10"] == hit_rate(chosen["rank"].to_numpy(), 10)
    for mix in mixes.values():
        assert mix["warm"]["users"] + mix["cold"]["users"] == mix["users"]
    table = metrics_table(found)
    assert "share of popularity" in table
    assert f"alpha {stored['chosen']:g} (chosen on validation)" in table


def test_an_alpha_that_is_asked_for_is_ranked_with(shop: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    about = trained(shop, run_dir, choose_popularity=False)
    assert "popularity" not in about
    plain = evaluate_run(shop.home, run_dir, EvaluateOptions(gallery_users=0))
    assert "popularity_mix" not in plain
    asked = EvaluateOptions(gallery_users=0, popularity_alpha=-0.5, popularity_kappa=2.0)
    found = evaluate_run(shop.home, run_dir, asked)
    assert found["model"] == plain["model"]
    assert list(found["popularity_mix"]) == ["none", "chosen"]
    assert found["popularity_mix"]["chosen"]["alpha"] == -0.5
    assert found["popularity_mix"]["chosen"]["kappa"] == 2.0


def test_a_run_older_than_the_choice_means_what_it_meant(shop: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trained(shop, run_dir, choose_popularity=False)
    recipe = run_dir / "recipe.toml"
    new = ("choose_popularity", "user_positions", "user_convolution", "user_encoder")
    lines = recipe.read_text().splitlines()
    recipe.write_text("\n".join(line for line in lines if not line.startswith(new)) + "\n")
    (run_dir / ".sums" / "recipe.toml").unlink()
    before = saved_recipe(run_dir)
    assert before.train.choose_popularity is False
    assert isinstance(before.model, SasrecOptions)
    assert (before.model.user_positions, before.model.user_convolution) == ("absolute", 0)
