"""Shards without content: no tokenizer, no picture; enough for models on ids, refused by others."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pmm.errors import InputError, StaleArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.inspect import describe
from pmm.model import registry
from pmm.runs.recipe import Recipe
from pmm.runs.request import CacheRequest, TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards import write
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.stream_items import stream_items
from pmm.shards.write import write_shards
from pmm.storage.home import Home
from pmm.train.train_run import store_as_asked, train

Make = Callable[..., Home]
BARE = ShardOptions(no_content=True, items_per_shard=10, workers=1)
ON_IDS = [
    name
    for name in registry.models()
    if registry.entry(name).settings["default"].options.content == "none"
]
ON_CONTENT = [name for name in registry.models() if name not in ON_IDS]


@pytest.fixture
def bare(make_home: Make, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose shards hold no content, made where there is neither tokenizer nor picture."""
    home = make_home(n_users=33)
    for picture in (home.root / "pictures").iterdir():
        picture.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(write, "load_tokenizer", lambda *_: pytest.fail("a tokenizer was loaded"))
        built = write_shards(home, "HM", BARE)
    assert built.manifest.counts == {"items": 34, "users": 33}
    return home


def test_which_models_read_no_content() -> None:
    assert ON_IDS == ["sasrec", "gru4rec", "nextitnet"]


def test_shards_without_content_have_records_and_sequences_alone(
    bare: Home, make_home: Make, options: ShardOptions
) -> None:
    full_home = make_home(n_users=33)
    write_shards(full_home, "HM", options)
    full, shards = Shards.of(full_home, "HM"), Shards.of(bare, "HM")
    assert np.array_equal(shards.sequences().train.values, full.sequences().train.values)
    assert shards.record(7)["item_id"] == full.record(7)["item_id"]
    assert shards.record(7)["text"] == full.record(7)["text"]
    assert (shards.record(7)["picture"], shards.record(7)["reason"]) == (False, "no-content")
    assert not shards.has_picture.any()
    assert not shards.has_text.any()
    assert len(shards.tokens) == shards.n_items
    items = shards.items(np.array([1, 5, 34]), read="none")
    assert items.item_I.tolist() == [1, 5, 34]
    assert not items.has_text_I.any()
    sums = [part.stat().st_size for part in sorted(shards.place.glob("items-*.tar"))]
    assert sum(sums) < sum(p.stat().st_size for p in full.place.glob("items-*.tar")) / 2


def test_the_same_bytes_come_from_any_number_of_processes(bare: Home) -> None:
    place = bare.shards("HM")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    options = ShardOptions(no_content=True, items_per_shard=10, workers=2)
    assert not write_shards(bare, "HM", options).fresh
    write_shards(bare, "HM", options, force=True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_they_are_shown_and_streamed(bare: Home, tmp_path: Path) -> None:
    place = bare.shards("HM")
    assert "no-content" in describe(place, sheet=tmp_path / "sheet.png")
    assert "first of 34 items" in describe(place.as_uri(), sheet=tmp_path / "other.png")
    numbers = [each.item_I.tolist() for each in stream_items(place, 20, read="none")]
    assert [*itertools.chain.from_iterable(numbers)] == list(range(1, 35))
    with pytest.raises(InputError, match="neither texts nor pictures"):
        next(stream_items(place, 20))


@pytest.mark.parametrize("name", ON_IDS)
def test_a_model_on_ids_is_as_on_shards_with_content(
    bare: Home, make_home: Make, options: ShardOptions, name: str
) -> None:
    full = make_home(n_users=33)
    write_shards(full, "HM", options)
    found = []
    for home in (bare, full):
        request = TrainRequest(target="HM", model=name)
        values = {"train": {"epochs": 1, "batch_users": 8}, "model": {"width": 8}}
        run = home.run("x")
        train(home, run, resolve_run(home, run, request, values))
        metrics = evaluate_run(home, run, EvaluateOptions(gallery_users=2))
        found.append((read_tensors(run / BEST, made_by="")[0], metrics["model"]))
    (one, metrics), (two, others) = found
    assert metrics == others
    assert all((one[key] == two[key]).all() for key in two)


@pytest.mark.parametrize("name", ON_CONTENT)
def test_a_model_that_reads_content_refuses_them_and_says_what_to_run(
    bare: Home, name: str
) -> None:
    with pytest.raises(InputError) as refused:
        resolve_run(bare, bare.run("x"), TrainRequest(target="HM", model=name), {})
    said = str(refused.value)
    assert "were made without content" in said
    assert (
        f"pmm shard --target HM --allow-no-pictures --text-encoder FOLDER --home {bare.root}"
        in (said)
    )
    assert f"pmm train --target HM --model sasrec --home {bare.root}" in said
    options = registry.entry(name).settings["default"].options
    recipe = Recipe(target="HM", model=options, train=TrainOptions())
    with pytest.raises(InputError, match="were made without content"):
        train(bare, bare.run("x"), recipe)
    assert not (bare.run("x") / "recipe.toml").exists()


def test_activations_of_them_are_refused(bare: Home) -> None:
    with pytest.raises(InputError, match="were made without content"):
        store_as_asked(CacheRequest(target=("HM",), home=bare.root))


def test_a_run_that_reads_content_is_not_ranked_on_them(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop: Any = shop_maker.open_shop(tmp_path)
    recipe = Recipe(target="HM", model=shop.options, train=TrainOptions(epochs=1, batch_users=8))
    train(shop.home, shop.home.run("x"), recipe)
    shop.add_target("Kwai Food", n_items=12, n_users=8)
    write_shards(shop.home, "Kwai Food", BARE, force=True)
    with pytest.raises(InputError, match="shards of Kwai Food were made without content"):
        evaluate_run(shop.home, shop.home.run("x"), target="Kwai Food")


def test_content_is_not_replaced_by_nothing_unless_forced(
    make_home: Make, options: ShardOptions
) -> None:
    home = make_home()
    full = write_shards(home, "HM", options)
    with pytest.raises(InputError, match=r"holds the content .* --no-content .*--force"):
        write_shards(home, "HM", BARE)
    assert Shards.of(home, "HM").fingerprint == full.manifest.fingerprint
    run = home.run("x")
    values = {"train": {"epochs": 1, "batch_users": 8}, "model": {"width": 8}}
    train(home, run, resolve_run(home, run, TrainRequest(target="HM", model="sasrec"), values))
    write_shards(home, "HM", BARE, force=True)
    assert not Shards.of(home, "HM").has_content
    with pytest.raises(StaleArtefact):  # other shards than it was trained on
        evaluate_run(home, run)
    assert write_shards(home, "HM", options).manifest.fingerprint == full.manifest.fingerprint


def test_options_that_mean_nothing_without_content_are_refused() -> None:
    for given in ({"text_encoder": "x"}, {"max_tokens": 9}, {"pictures": Path("x")}):
        with pytest.raises(InputError, match=r"--no-content reads no text .*leave out --"):
            ShardOptions(no_content=True, **given)  # type: ignore[arg-type]


def test_index_and_manifest_say_that_there_is_no_content(bare: Home) -> None:
    place = bare.shards("HM")
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["config"] == {"content": "none", "items_per_shard": 10}
    assert json.loads((place / "index.json").read_text())["content"] == "none"
