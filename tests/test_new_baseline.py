"""A baseline from outside the package: one file of the how-to page is all that it takes."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pmm.errors import InputError, RecipeError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model import registry
from pmm.model.model_entry import DEFAULT, ModelEntry, Settings
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.weights import BEST, read_tensors
from pmm.storage.toml import dump, resolve
from pmm.train.train_run import train

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "add-a-baseline.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
VALUES: dict[str, Any] = {"train": {"epochs": 2, "batch_users": 8}}


@pytest.fixture
def _clean_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered here is forgotten afterwards."""
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def toy(_clean_table: None, tmp_path: Path) -> Iterator[ModuleType]:
    """The page's baseline, imported from a file of its own, which registers it."""
    path = tmp_path / "mean_baseline.py"
    path.write_text(BLOCKS[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mean_baseline", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mean_baseline"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mean_baseline"]


def asked(shop: Any, name: str = "new", **values: Any) -> Recipe:
    request = TrainRequest(target="HM", model="mean")
    return resolve_run(shop.home, shop.home.run(name), request, {**VALUES, **values})


@pytest.mark.usefixtures("toy")
def test_it_is_trained_resumed_and_ranked(shop: Any) -> None:
    whole, stopped = shop.home.run("mean-whole"), shop.home.run("mean-stopped")
    train(shop.home, whole, asked(shop))
    train(shop.home, stopped, asked(shop, train={**VALUES["train"], "max_steps": 1}))
    train(shop.home, stopped, asked(shop), existing="resume")
    (one, _), (other, _) = (read_tensors(run / BEST, made_by="") for run in (whole, stopped))
    assert one.keys() == other.keys() == {"table.weight"}
    assert all(torch.equal(one[key], other[key]) for key in one)
    metrics = evaluate_run(shop.home, whole, EvaluateOptions(cold=True, neighbours=True))
    assert 0 <= metrics["model"]["hr@10"] <= 1
    assert "item kNN" in metrics


def test_a_saved_run_is_read_by_its_own_options(shop: Any, toy: ModuleType) -> None:
    run = shop.home.run("mean-saved")
    train(shop.home, run, asked(shop, model={"width": 16}))
    model, _, _ = load_run(shop.home, run)
    assert model.options == toy.MeanOptions(width=16)
    assert asked(shop).train.lr == 1e-2
    with pytest.raises(RecipeError, match=r'unknown key "model.widht" \(did you mean "width"'):
        asked(shop, model={"widht": 16})


@pytest.mark.usefixtures("toy")
def test_it_is_tuned_as_the_others_are(shop: Any) -> None:
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    from pmm.tune.search import tune

    found = tune(shop.home, TrainRequest(target="HM", model="mean"), VALUES, budget=2)
    assert found["rows"][0]["parameters"] == {"train.lr": 1e-2, "model.width": 32}
    assert len(found["rows"]) == 2


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"stage": "pretrain"}, "mean knows items by their numbers"),
        ({"target": "HM", "modality": "text"}, "--modality text .mean has none."),
        ({"target": "HM", "preset": "original"}, "--preset original .mean has default."),
    ],
)
def test_what_it_does_not_have_is_refused(
    shop: Any, request_: dict[str, Any], message: str
) -> None:
    request = TrainRequest(model="mean", **request_)
    with pytest.raises(InputError, match=message):
        resolve_run(shop.home, shop.home.run("x"), request, VALUES)


@pytest.mark.usefixtures("_clean_table")
def test_registering_adds_a_line_and_touches_no_other() -> None:
    before = dict(registry.models())
    sasrec = registry.entry("sasrec")
    with pytest.raises(InputError, match='the model "sasrec" is part of pmm'):
        registry.register(sasrec)
    exec(BLOCKS[0], {"__name__": "__main__"})  # as in a notebook
    exec(BLOCKS[0], {"__name__": "__main__"})  # a cell that is run again replaces it
    after = dict(registry.models())
    assert list(after) == [*before, "mean"]
    assert {name: after[name] for name in before} == before
    assert registry.entry("sasrec") is sasrec


def test_nothing_of_it_is_left_without_registering(shop: Any) -> None:
    with pytest.raises(InputError, match='there is no model "mean"'):
        asked(shop)


@pytest.mark.parametrize("name", list(registry.models()))
def test_every_entry_declares_everything(name: str) -> None:
    entry = registry.entry(name)
    assert registry.models()[name].knows
    assert entry.knows_by
    for settings in entry.settings.values():
        recipe = resolve(Recipe, {"model": {"name": name}, "train": dict(settings.training)})
        assert type(settings.options) is type(recipe.model) is entry.options
        assert settings.options.name == name
    defaults = Recipe(model=entry.settings[DEFAULT].options)
    assert resolve(Recipe, {"model": {"name": name}}) == defaults
    known = {f"model.{each.name}" for each in fields(entry.options)}
    known |= {f"train.{each.name}" for each in fields(type(defaults.train))}
    assert entry.space.keys() <= known
    assert all(path in known for each in entry.space.values() for path in each.only)
    assert f'name = "{name}"' in dump(defaults)


def test_an_entry_without_defaults_or_with_options_of_two_kinds_is_refused() -> None:
    one, other = (registry.entry(name).settings[DEFAULT] for name in ("sasrec", "gru4rec"))
    rest: dict[str, Any] = {"knows_by": "ids", "space": {}, "build": registry.entry("sasrec").build}
    with pytest.raises(ValueError, match='needs settings for the preset "default"'):
        ModelEntry(settings={"original": Settings(options=one.options)}, **rest)
    with pytest.raises(ValueError, match="options of one class"):
        ModelEntry(settings={DEFAULT: one, "original": other}, **rest)


def test_the_table_is_read_without_torch() -> None:
    import subprocess

    program = "import sys, pmm.model.registry as r; r.models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
