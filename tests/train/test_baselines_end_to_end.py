"""Every baseline from shards to ranks; those that transfer, transferred."""

import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pmm.check.check_home import check_and_repair
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import InputError, RecipeError, StaleArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model import registry
from pmm.model.baselines import vqrec
from pmm.model.baselines.gru4rec import Gru4recOptions
from pmm.model.baselines.morec import MorecOptions
from pmm.model.baselines.unisrec import UnisrecOptions
from pmm.model.baselines.vqrec import Vqrec, VqrecOptions
from pmm.model.encoders.specs import TextSpec
from pmm.model.features.frozen_vectors import frozen_vectors
from pmm.model.text_encoders.load_text import load_text
from pmm.runs.checkpoint import LAST
from pmm.runs.folder import LOG
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe, Start
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.transfer import REPORT
from pmm.runs.weights import BEST, kept_tensors, read_tensors
from pmm.shards.read import Shards
from pmm.shards.tokens import TokenEncoder, load_tokenizer
from pmm.storage.home import Home
from pmm.storage.toml import resolve
from pmm.train.curves import read_log
from pmm.train.train_run import train

SMALL = {"width": 16, "max_length": 6, "user_blocks": 1, "parts": 4, "centroids": 8, "inner": 32}
BASELINES = [name for name in registry.models() if name not in ("pmmrec", "morec")]
TRANSFER = [name for name in BASELINES if registry.entry(name).transfers]


@pytest.fixture(scope="module")
def world(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two sources and a target."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("world"), n_items=20, n_users=16)
    shop.add_target("Kwai", n_items=14, n_users=12)
    shop.add_target("HM Shoes", n_items=12, n_users=10)
    return shop


def fitting(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values that a model has an option for."""
    own = {each.name for each in fields(registry.entry(name).options)}
    return {key: value for key, value in values.items() if key in own}


def options(shop: Any, name: Any) -> Any:
    encoders = {"text": shop.options.text, "vision": shop.options.vision}
    return registry.entry(name).options(**fitting(name, {**SMALL, **encoders}))


def recipe(shop: Any, name: Any, **changes: Any) -> Recipe:
    training = TrainOptions(epochs=2, batch_users=8, lr=2e-3, log_every=2)
    return Recipe(target="HM Shoes", model=options(shop, name), train=replace(training, **changes))


@pytest.mark.parametrize("name", BASELINES)
def test_each_is_trained_stopped_resumed_and_ranked(world: Any, name: str) -> None:
    whole, stopped = world.home.run(f"{name}-whole"), world.home.run(f"{name}-stopped")
    train(world.home, whole, recipe(world, name))
    train(world.home, stopped, recipe(world, name, max_steps=1))
    train(world.home, stopped, recipe(world, name), existing="resume")
    (one, _), (other, _) = (read_tensors(run / LAST, made_by="") for run in (whole, stopped))
    assert all(torch.equal(one[key], other[key]) for key in one)
    metrics = evaluate_run(world.home, whole, EvaluateOptions(cold=True, neighbours=True))
    assert 0 <= metrics["model"]["hr@10"] <= 1
    assert 0 < metrics["item kNN"]["hr@10"] <= 1
    assert ("content kNN" in metrics) == (registry.entry(name).knows_by != "ids")
    assert set(metrics["cold_start"]["all"]) == set(metrics) & {
        *("model", "popularity", "random", "item kNN", "content kNN")
    }


def test_a_run_keeps_the_codes_of_its_items(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.home.run("vqrec-codes")
    train(world.home, run, recipe(world, "vqrec"))
    tensors, _ = read_tensors(run / BEST, made_by="")
    assert tensors["codes.codes_NK"].dtype == torch.uint8
    assert len(tensors["codes.codes_NK"].unique()) > 2
    monkeypatch.setattr(vqrec, "learned_codes", None)  # which is not called again
    model, _, _ = load_run(world.home, run)
    assert isinstance(model, Vqrec)
    assert torch.equal(kept_tensors(model)["codes.codes_NK"], tensors["codes.codes_NK"])
    longer = recipe(world, "vqrec", epochs=3)
    train(world.home, run, longer, existing="resume")
    with pytest.raises(InputError, match="one by one, which says nothing of Kwai"):
        evaluate_run(world.home, run, target="Kwai")


def test_codes_by_faiss_are_asked_for_by_an_option(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(world, "vqrec")
    assert isinstance(asked.model, VqrecOptions)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"Run: pip install 'pmmrec\[faiss\]'"):
        train(
            world.home,
            world.home.run("vqrec-faiss"),
            replace(asked, model=replace(asked.model, quantiser="faiss")),
        )
    with pytest.raises(RecipeError, match='unknown key "quantiser"'):
        resolve(UnisrecOptions, {"quantiser": "faiss"})


def test_vectors_of_another_encoder_are_refused(world: Any, tmp_path: Path) -> None:
    text = tmp_path / "text"
    shutil.copytree(world.options.text.encoder, text)
    made = recipe(world, "unisrec", epochs=1)
    assert isinstance(made.model, UnisrecOptions)
    spec = replace(made.model.text, encoder=str(text))
    made = replace(made, model=replace(made.model, text=spec))
    run, after = world.home.run("unisrec-text"), world.home.run("unisrec-after")
    train(world.home, run, made)
    evaluate_run(world.home, run, EvaluateOptions(gallery_users=0))
    weights = load_file(text / "model.safetensors")
    save_file({name: each + 0.01 for name, each in weights.items()}, text / "model.safetensors")
    with pytest.raises(StaleArtefact, match="frozen encoder weights"):
        evaluate_run(world.home, run)
    longer = replace(made, train=replace(made.train, epochs=2))
    with pytest.raises(StaleArtefact, match="frozen"):
        train(world.home, run, longer, existing="resume")
    start = Start(run=str(run))
    with pytest.raises(StaleArtefact, match="Give the same --text-encoder"):
        train(world.home, after, replace(made, stage="finetune", start=start))


@pytest.mark.parametrize("name", TRANSFER)
def test_what_was_pre_trained_is_taken_over(world: Any, name: str) -> None:
    _, after, request = pre_trained(world, name)
    before = request.start
    assert before is not None
    values = {"train": {"epochs": 3, "batch_users": 8}}
    found = resolve_run(world.home, after, request, values)
    assert found.model.name == name
    train(world.home, after, found, existing="overwrite")
    report = json.loads((after / REPORT).read_text())
    assert any(each.startswith("user_encoder.") for each in report["loaded"])
    assert all(".adapter." in each or each.startswith("permutation") for each in report["fresh"])
    (one, _), (other, _) = (read_tensors(run / BEST, made_by="") for run in (before, after))
    model, _, _ = load_run(world.home, after)
    frozen = {key for key, each in model.named_parameters() if not each.requires_grad}
    assert frozen
    assert all(torch.equal(one[key], other[key]) for key in frozen)
    assert np.isfinite(evaluate_run(world.home, after)["model"]["ndcg@10"])


def test_morec_is_pmmrec_with_another_fusion(world: Any) -> None:
    request = TrainRequest(target="HM Shoes", model="morec")
    encoder = {"model": {"text": {"encoder": world.options.text.encoder}}}
    found = resolve_run(world.home, world.home.run("new"), request, encoder)
    assert isinstance(found.model, MorecOptions)
    assert (found.model.name, found.model.fusion) == ("morec", "concat")
    with pytest.raises(
        InputError, match=r"--objectives all .morec has dap. cannot be had with --model morec"
    ):
        resolve_run(world.home, world.home.run("new"), replace(request, objectives="all"), encoder)


def test_the_settings_of_the_papers_are_asked_for_by_name(world: Any) -> None:
    request = TrainRequest(target="HM Shoes", model="gru4rec", preset="original")
    found = resolve_run(world.home, world.home.run("new"), request, {})
    assert isinstance(found.model, Gru4recOptions)
    assert (found.model.width, found.model.loss, found.train.batch_users) == (100, "bpr", 50)
    with pytest.raises(InputError, match=r"--preset original .pmmrec has default, paper"):
        resolve_run(
            world.home,
            world.home.run("new"),
            TrainRequest(target="HM Shoes", preset="original"),
            {},
        )


ORIGINAL = {
    "sasrec": (50, 50, "bce", 128, 1e-3, 0.98),
    "gru4rec": (100, 20, "bpr", 50, 1e-3, 0.999),
    "nextitnet": (100, 20, "full", 128, 1e-3, 0.999),
    "fdsa": (64, 50, "full", 128, 1e-3, 0.999),
    "carca": (390, 35, "bce", 128, 1e-4, 0.98),
    "unisrec": (300, 50, "full", 128, 1e-3, 0.999),
    "vqrec": (300, 50, "full", 128, 1e-3, 0.999),
    "peterrec": (256, 20, "full", 32, 1e-3, 0.999),
}
"""Width, window, loss, users a step, learning rate, beta2: docs/paper.md, Baselines."""


@pytest.mark.parametrize("name", BASELINES)
def test_each_has_the_settings_of_its_paper(world: Any, name: Any) -> None:
    request = TrainRequest(target="HM Shoes", model=name, preset="original")
    of_text = registry.entry(name).knows_by != "ids"
    values = {"model": {"text": {"encoder": world.options.text.encoder}}} if of_text else {}
    found = resolve_run(world.home, world.home.run("new"), request, values)
    model, train = found.model, found.train
    assert ORIGINAL[name] == (
        *(model.width, model.max_length, model.loss),
        *(train.batch_users, train.lr, train.beta2),
    )


def test_vqrec_from_scratch_is_as_published_with_the_preset_original_alone(world: Any) -> None:
    """The published code fixes the user encoder whether or not it was trained before."""
    values = {"model": {"text": {"encoder": world.options.text.encoder}}}
    for preset, expected in ((None, ("none", False)), ("original", ("official", True))):
        request = TrainRequest(target="HM Shoes", model="vqrec", preset=preset)
        model = resolve_run(world.home, world.home.run("new"), request, values).model
        assert isinstance(model, VqrecOptions)
        assert (model.permutation, model.freeze_users) == expected


@pytest.mark.parametrize(("epochs", "expected"), [(2, 0), (7, 2), (60, 5), (0, 5)])
def test_the_order_of_codes_has_at_most_a_third_of_the_epochs(
    world: Any, epochs: int, expected: int
) -> None:
    found = resolve_run(*pre_trained(world, "vqrec"), {"train": {"epochs": epochs}})
    assert isinstance(found.model, VqrecOptions)
    assert found.model.permutation_epochs == expected
    given = {"model": {"permutation_epochs": 4}, "train": {"epochs": epochs}}
    found = resolve_run(*pre_trained(world, "vqrec"), given)
    assert isinstance(found.model, VqrecOptions)
    assert found.model.permutation_epochs == 4


def test_patience_waits_until_the_order_of_codes_is_fixed(world: Any) -> None:
    home, run, request = pre_trained(world, "vqrec")
    values = {"model": {"permutation_epochs": 3}, "train": {"epochs": 6, "patience": 1, "lr": 0.0}}
    found = train(home, run, resolve_run(home, run, request, values), existing="overwrite")
    waited = [each["waited"] for each in read_log(run / LOG) if each["kind"] == "evaluation"]
    assert waited[:3] == [0, 0, 0]
    assert found["ended"] == "patience"
    assert found["epochs"] >= 4


def pre_trained(world: Any, name: Any) -> tuple[Home, Path, TrainRequest]:
    """The home, the run to come and what is wished: to fine-tune one that was pre-trained."""
    before = world.home.run(f"before-{name}")
    if not before.exists():
        sides = {
            side: {"encoder": getattr(world.options, side).encoder, "random_seed": 0}
            for side in ("text", "vision")
        }
        values = {
            "model": fitting(name, {**SMALL, **sides}),
            "train": {"epochs": 2, "batch_users": 8},
        }
        request = TrainRequest(stage="pretrain", model=name, sources=("HM", "Kwai"))
        train(world.home, before, resolve_run(world.home, before, request, values))
    request = TrainRequest(stage="finetune", target="HM Shoes", start=before)
    return world.home, world.home.run(f"after-{name}"), request


def test_an_encoder_of_other_words_reads_the_texts_with_its_own_tokens(
    world: Any, tmp_path: Path
) -> None:
    texts = ["quite other words than those of the shop"]
    other, _ = save_small_encoders(tmp_path / "other", texts, seed=1, sizes=SmallSizes())
    spec = TextSpec(encoder=str(other), train_blocks=0)
    shards, tokenizer = Shards.of(world.home, "HM Shoes"), load_tokenizer(str(other))
    assert tokenizer.digest != shards.tokenizer["sha256"]
    found = frozen_vectors(shards, text=spec, vision=None).text_ND
    assert found is not None
    encoder = load_text(spec).eval()
    words = TokenEncoder(tokenizer, shards.tokenizer["max_tokens"])
    for item in np.flatnonzero(shards.has_text).tolist():
        token_1T = torch.tensor(words.encode([shards.record(item)["text"]])[0])[None].long()
        hidden_1TD = encoder.trunk(token_1T, torch.ones_like(token_1T, dtype=torch.bool))
        torch.testing.assert_close(found[item - 1], hidden_1TD[0].mean(0), atol=2e-3, rtol=2e-3)
    assert found[~shards.has_text[1:]].count_nonzero() == 0

    changed = replace(options(world, "unisrec"), text=replace(spec, train_blocks=1))
    run = world.home.run("other-words")
    train(world.home, run, replace(recipe(world, "unisrec"), model=changed))
    assert evaluate_run(world.home, run, EvaluateOptions(gallery_users=0))["model"]["users"] > 0
    places = world.home.activations("HM Shoes").glob("text-*/manifest.json")
    (file,) = [each for each in places if "tokens" in json.loads(each.read_text())["config"]]
    before = (file.parent / "00000.npy").read_bytes()
    (file.parent / "00000.npy").write_bytes(before[:-1])
    check_and_repair(world.home)
    assert (file.parent / "00000.npy").read_bytes() == before
