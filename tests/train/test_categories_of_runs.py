"""Runs with negatives of the own category and sequences of one: defaults, resuming, storage."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pmm.cli import main
from pmm.data.category_tables import read_categories
from pmm.errors import MissingArtefact, RecipeError
from pmm.evaluate.catalogue import embed_catalogue
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_mixes, evaluate_run, references
from pmm.evaluate.metrics import summarise
from pmm.evaluate.popularity_mix import NO_POPULARITY, PopularityMix
from pmm.evaluate.ranking import Queries
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES
from pmm.runs.checkpoint import LAST
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.storage.home import Home
from pmm.train import trainer
from pmm.train.category_validation import inside, popularity_inside, rank_inside
from pmm.train.train_run import train
from pmm.train.trainer import VALID

CATEGORIES = [["Shoes"] if k % 3 else ["Bags"] for k in range(20)]


@pytest.fixture(scope="module")
def shop(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """HM without tables (of before), Fashion with categories, Films whose tables have none."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("shop"), n_items=20, n_users=16)
    shop.add_target("Fashion", n_items=20, n_users=14, categories=CATEGORIES)
    shop.add_target("Films", n_items=12, n_users=10, categories=[[]] * 12)
    return shop


def recipe(shop: Any, *sources: str, **changes: Any) -> Recipe:
    options = {"epochs": 2, "batch_users": 8, "lr": 2e-3, "save_every": 2, "log_every": 1}
    return Recipe(
        stage="pretrain",
        sources=sources or ("Fashion", "Films"),
        model=shop.with_options(weights=ALL_OBJECTIVES, negatives="category"),
        train=TrainOptions(**{**options, "sequences": "by category", **changes}),
    )


class Broken(BaseException):
    """Nothing in the program catches this."""


def same(one: Path, two: Path) -> bool:
    found = [read_tensors(run / BEST, made_by="")[0] for run in (one, two)]
    return all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("changes", [{}, {"micro_batches": 2, "windows": "random"}])
def test_a_killed_run_goes_on_to_the_same_bits(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    train(shop.home, tmp_path / "whole", recipe(shop, **changes))
    real = trainer.Trainer._step

    def cut(self: trainer.Trainer, batch: Any) -> None:
        if self.state.step == 3:
            raise Broken
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", cut)
        with pytest.raises(Broken):
            train(shop.home, tmp_path / "cut", recipe(shop, **changes))
    train(shop.home, tmp_path / "cut", recipe(shop, **changes), existing="resume")
    for name in (BEST, LAST):
        (one, _), (two, _) = (
            read_tensors(tmp_path / run / name, made_by="") for run in ("whole", "cut")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_stored_activations_train_to_the_same_weights(shop: Any, tmp_path: Path) -> None:
    for name, cache in (("fresh", "off"), ("stored", "fp32")):
        train(shop.home, tmp_path / name, recipe(shop, cache=cache))
    found = [read_tensors(tmp_path / run / BEST, made_by="")[0] for run in ("fresh", "stored")]
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name


def test_groups_and_sequences_change_what_is_learnt(shop: Any, tmp_path: Path) -> None:
    """So that the runs above would not be equal without them."""
    both = recipe(shop, epochs=1)
    whole = recipe(shop, epochs=1, sequences="whole")
    batch = dataclasses.replace(both, model=shop.with_options(weights=ALL_OBJECTIVES))
    runs = {"both": both, "whole": whole, "batch": batch}
    for name, each in runs.items():
        train(shop.home, tmp_path / name, each)
    assert not same(tmp_path / "both", tmp_path / "whole")
    assert not same(tmp_path / "both", tmp_path / "batch")


def test_a_run_says_its_groups_and_is_evaluated_like_any_other(
    shop: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    told = "\n".join(caplog.messages)
    assert "sequences by category: those of 24 users are " in told
    assert "negatives are of the own group of 3 (Films " in told
    assert "Fashion: Bags" in told
    first = json.loads((tmp_path / "run" / "first_batch.json").read_text())
    assert first["tensors"]["group_I"]["shape"] == [first["distinct_items"]]
    home = Home(tmp_path / "home")  # tables are asked for in training alone
    shutil.copytree(shop.home.root, home.root)
    shutil.rmtree(home.tables("Fashion"))
    options = EvaluateOptions(gallery_users=0)
    assert evaluate_run(home, tmp_path / "run", options, target="Fashion")["users"] == 14
    with pytest.raises(MissingArtefact, match="tables/fashion is not there") as error:
        train(home, tmp_path / "run", recipe(shop, epochs=2), existing="resume")
    assert "Run: pmm ingest csv --name Fashion" in str(error.value)


def resolved(shop: Any, *sources: str, **changes: Any) -> tuple[str, str]:
    """negatives and sequences of a training that nobody said more of."""
    text, vision = shop.options.text.encoder, shop.options.vision.encoder
    asked = {"stage": "pretrain", "sources": sources, **changes}
    request = TrainRequest(home=shop.home.root, text_encoder=text, vision_encoder=vision, **asked)
    found = resolve_run(shop.home, shop.home.run("new"), request, {})
    return found.model.negatives, found.train.sequences


@pytest.mark.parametrize(
    ("sources", "changes", "expected"),
    [
        (("Fashion", "Films"), {}, ("category", "by category")),
        (("Films",), {}, ("source", "whole")),
        (("Fashion", "HM"), {}, ("source", "whole")),  # HM has no tables
        (("Fashion",), {"preset": "paper"}, ("batch", "whole")),
        (("Fashion",), {"preset": "official"}, ("batch", "whole")),
        (("Fashion",), {"set": ("model.negatives=batch",)}, ("batch", "whole")),
        (("Fashion",), {"set": ("model.negatives=source",)}, ("source", "whole")),
        (("Fashion",), {"set": ("train.sequences=whole",)}, ("category", "whole")),
        (("Films",), {"set": ("train.sequences=by category",)}, ("source", "by category")),
        ((), {"stage": "scratch", "target": "Fashion"}, ("batch", "whole")),
    ],
)
def test_what_a_training_takes_where_nobody_says(
    shop: Any, sources: tuple[str, ...], changes: Any, expected: tuple[str, str]
) -> None:
    assert resolved(shop, *sources, **changes) == expected


def test_missing_tables_are_told_and_what_was_taken_in_their_place(
    shop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    resolved(shop, "Fashion", "HM")
    (said,) = [each for each in caplog.messages if "negatives of the own source" in each]
    assert "tables/hm is not there" in said
    assert f"Run: pmm ingest hm --home {shop.home.root}" in said


def test_a_baseline_keeps_whole_sequences(shop: Any) -> None:
    request = TrainRequest(
        stage="pretrain",
        sources=("Fashion",),
        model="unisrec",
        home=shop.home.root,
        text_encoder=shop.options.text.encoder,
    )
    found = resolve_run(shop.home, shop.home.run("new"), request, {})
    assert (found.model.negatives, found.train.sequences) == ("batch", "whole")


def test_a_resumed_run_keeps_what_it_was_started_with(shop: Any, tmp_path: Path) -> None:
    """Though its tables have categories now."""
    home = Home(tmp_path / "home")
    shutil.copytree(shop.home.root, home.root)
    tables = shutil.move(home.tables("Fashion"), tmp_path / "aside")
    run = home.run("run")
    request = {
        "stage": "pretrain",
        "sources": ("Fashion",),
        "home": home.root,
        "text_encoder": shop.options.text.encoder,
        "vision_encoder": shop.options.vision.encoder,
        "set": ("model.max_length=6", "model.user_blocks=1", "train.batch_users=8"),
    }
    first = resolve_run(home, run, TrainRequest(epochs=1, **request), {})
    train(home, run, first)
    shutil.move(tables, home.tables("Fashion"))
    again = TrainRequest(epochs=2, resume=True, **request)
    found = resolve_run(home, run, again, {}, resume=True)
    assert (found.model.negatives, found.train.sequences) == ("source", "whole")
    assert train(home, run, found, existing="resume")["epochs"] == 2
    anew = resolve_run(home, home.run("new"), TrainRequest(epochs=2, **request), {})
    assert anew.model.negatives == "category"
    with pytest.raises(RecipeError, match=r"model\.negatives was 'source', is 'category'"):
        train(home, run, anew, existing="resume")


def test_a_fine_tuning_of_such_a_run_takes_the_whole_batch(shop: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(shop.home, run, recipe(shop, epochs=1))
    request = TrainRequest(stage="finetune", target="HM", start=run, home=shop.home.root)
    found = resolve_run(shop.home, shop.home.run("new"), request, {})
    assert (found.model.negatives, found.train.sequences) == ("batch", "whole")


def test_categories_that_are_not_there_end_the_command_with_one_message(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "--stage", "pretrain", "--home", str(shop.home.root), "--name", "none"]
    asked += ["--text-encoder", shop.options.text.encoder, "--set", "model.negatives=category"]
    for sources, said in (("Films", "no item of Films is in a category"), ("HM", "tables/hm is")):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--sources", sources])
        assert ended.value.code == 1
        error = capsys.readouterr().err
        assert said in error
        assert "--set model.negatives=source --set train.sequences=whole" in error
        assert "Traceback" not in error


@given(
    st.lists(st.lists(st.integers(1, 8), min_size=2, max_size=7), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), min_size=8, max_size=8),
)
def test_validation_asks_inside_a_category(rows: list[list[int]], category: list[int]) -> None:
    """Against a loop over users: target and history by their place among the category's items."""
    lists = [row[:-1] for row in rows]
    asked = Queries(
        user_U=np.arange(len(rows), dtype=np.int32),
        target_U=np.array([row[-1] for row in rows], np.int32),
        history=Lists(
            offsets=np.cumsum([0, *map(len, lists)]).astype(np.int64),
            values=np.array([item for row in lists for item in row], np.int32),
        ),
    )
    found = {}
    for each in inside(asked, np.array(category)):
        for at, user in enumerate(each.queries.user_U.tolist()):
            names = [int(item) + 1 for item in each.item_C]
            history = [names[k - 1] for k in each.queries.history[at].tolist()]
            found[user] = (names[each.queries.target_U[at] - 1], history, names)
    expected = {}
    for user, row in enumerate(rows):
        own = category[row[-1] - 1]
        history = [item for item in row[:-1] if category[item - 1] == own]
        if history:
            names = [item for item in range(1, 9) if category[item - 1] == own]
            expected[user] = (row[-1], history, names)
    assert found == expected


def test_one_category_is_validated_as_the_whole(shop_maker: Any, tmp_path: Path) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=20, n_users=16)
    shards = shop.add_target("Plain", n_items=20, n_users=14, categories=[["Shoes"]] * 20)
    torch.manual_seed(0)
    model = Pmmrec(shop.options).eval()
    mixes = [NO_POPULARITY, PopularityMix(alpha=0.5)]
    of_N, options = np.ones(20, dtype=np.int64), EvaluateOptions(split="valid")
    whole = evaluate_mixes(model, shards, options, mixes)
    how: Any = {"dtype": torch.float32, "catalogue": embed_catalogue(model, shards)}
    for one, two in zip(
        whole, rank_inside(model, shards, of_N, options, mixes, **how), strict=True
    ):
        assert one.equals(two)
    popular = references(shards, options)["popularity"]["hr@10"]
    assert summarise(popularity_inside(shards, of_N, options))["hr@10"] == popular


def test_a_training_by_category_is_validated_inside_them(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe(shop, "Fashion", epochs=1))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (found,) = [each for each in log if each["kind"] == "evaluation"]
    shards = Shards.of(shop.home, "Fashion")
    model, _, _ = load_run(shop.home, tmp_path / "run", target="Fashion")
    of_N = read_categories(shards).of_N
    how: Any = {"dtype": torch.float32, "catalogue": embed_catalogue(model, shards)}
    (table,) = rank_inside(model, shards, of_N, VALID, [NO_POPULARITY], **how)
    assert found["users"] == table.num_rows
    assert found["ndcg@10"] == pytest.approx(summarise(table)["ndcg@10"])
    popular = summarise(popularity_inside(shards, of_N, VALID))
    assert found["popularity_hr@10"] == popular["hr@10"]
