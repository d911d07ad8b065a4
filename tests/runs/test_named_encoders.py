"""`--encoders small` chooses two published encoders, found in the hub's cache on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import InputError
from pmm.runs.request import CacheRequest, TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.shards.shard_options import ENCODERS, ShardRequest
from pmm.storage.home import Home
from pmm.storage.toml import read_recipe_beside

SMALL = ENCODERS["small"]


def put(cache: Path, repository: str, source: Path) -> Path:
    """A folder as the hub's client keeps a repository that was downloaded."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(source, place / "snapshots" / ("0" * 40)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Encoders of the two names, of the same families but a few thousand weights."""
    sizes = SmallSizes(width=32, blocks=2, heads=2, vocabulary=300)
    text, _ = save_small_encoders(tmp_path / "made", ["article number sort"], seed=1, sizes=sizes)
    folder = put(tmp_path / "cache", SMALL.text, text)
    pooling = [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(pooling))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = Dinov2Model(Dinov2Config(**size, image_size=518, patch_size=14, mlp_ratio=2))
    tower.save_pretrained(tmp_path / "tower")
    pixels = {"image_processor_type": "BitImageProcessor", "do_center_crop": True}
    pixels |= {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}}
    pixels |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "tower" / "preprocessor_config.json").write_text(json.dumps(pixels))
    put(tmp_path / "cache", SMALL.vision, tmp_path / "tower")
    return tmp_path / "cache"


def pmm(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pmm", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_word_shards_and_trains_with_encoders_of_the_cache(
    cache: Path, shop_maker: ModuleType, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shop_maker.open_shop(home, n_items=12, n_users=8)
    common: tuple[Any, ...] = ("--target", "HM", "--encoders", "small", "--home", home)
    sharded = pmm(cache, "shard", *common)
    assert sharded.returncode == 0, sharded.stderr
    assert "--encoders small" in sharded.stdout.splitlines()[-1]
    trained = pmm(cache, "train", *common, "--epochs", 1, "--set", "model.items=vectors")
    assert trained.returncode == 0, trained.stderr
    (recipe,) = (home / "runs").glob("*/recipe.toml")
    model = read_recipe_beside(recipe)["model"]
    assert model["text"]["encoder"] == SMALL.text
    assert model["vision"]["encoder"] == SMALL.vision


def test_what_is_not_in_the_cache_is_told_at_once(shop_maker: ModuleType, tmp_path: Path) -> None:
    shop_maker.open_shop(tmp_path / "home", n_items=12, n_users=8)
    arguments = ("--target", "HM", "--encoders", "small", "--home", tmp_path / "home")
    found = pmm(tmp_path / "empty", "shard", *arguments)
    assert found.returncode == 1
    assert SMALL.text in found.stderr
    assert "Traceback" not in found.stderr


def test_an_encoder_that_is_named_goes_before_the_word() -> None:
    request = TrainRequest(target="HM", encoders="small", vision_encoder="ViT-B-32")
    assert request.values()["model"] == {
        "text": {"encoder": SMALL.text},
        "vision": {"encoder": "ViT-B-32"},
    }
    assert CacheRequest(target=("HM",)).values() == {"train": {"cache": "fp16"}}
    assert ShardRequest(target="HM", encoders="small").text_encoder == SMALL.text
    assert ShardRequest(target="HM", encoders="small", text_encoder="x/y").text_encoder == "x/y"


def test_the_word_is_refused_where_no_content_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave out --encoders"):
        ShardRequest(target="HM", encoders="small", no_content=True)
    request = TrainRequest(target="HM", model="sasrec", encoders="small")
    with pytest.raises(InputError, match="leave out --encoders"):
        resolve_run(Home(tmp_path), tmp_path / "runs" / "x", request, {})
