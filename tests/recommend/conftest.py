"""Runs of every model on the small shop, as training leaves them, with the weights of the start."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pmm.model import registry
from pmm.model.build import build_model, features_of
from pmm.model.model_entry import DEFAULT
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, frozen_digest, save_weights
from pmm.shards.read import Shards
from pmm.storage.toml import dump, merge, resolve

POPULARITY = {"chosen": 0.75, "balanced": 0.25, "kappa": 5.0}


def options_of(shop: Any, name: str, **changes: Any) -> Any:
    """Small options of a model on the shop's encoders."""
    entry = registry.entry(name)
    default = entry.settings[DEFAULT].options
    known = set(default.__dataclass_fields__)
    usual = {"width": 32, "max_length": 6, "user_blocks": 1, "parts": 4, "centroids": 8}
    usual = {key: value for key, value in usual.items() if key in known}
    if "text" in known:
        usual["text"] = {"encoder": shop.options.text.encoder, "train_blocks": 1}
    if "vision" in known:
        usual["vision"] = {"encoder": shop.options.vision.encoder, "train_blocks": 1}
    return resolve(entry.options, merge({"name": name}, usual, changes), origin="test")


def make_run(shop: Any, place: Path, options: Any, target: str = "HM") -> Path:
    """A run's folder."""
    torch.manual_seed(3)
    shards = Shards.of(shop.home, target)
    features = features_of(options, [shards])
    model = build_model(options, shards.n_items, features, train_count=shards.train_count[1:])
    place.mkdir(parents=True, exist_ok=True)
    (place / "recipe.toml").write_text(dump(Recipe(target=target.lower(), model=options)))
    about = {"frozen": frozen_digest(model), "shards": shards.fingerprint}
    about |= {"step": 0, "epoch": 0.0, "precision": "fp32", "popularity": POPULARITY}
    save_weights(place / BEST, model, about)
    return place


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    return SimpleNamespace(options_of=options_of, make_run=make_run)
