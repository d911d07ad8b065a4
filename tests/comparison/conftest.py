"""Runs that were evaluated, made of ranks that a test chooses; nothing is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import questions, rankers, ranks_table
from pmm.evaluate.metrics import summarise, summarise_mix
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, write_table

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(shop: Any, tmp_path: Path) -> MakeRun:
    """Writes a run on the shop's target, or on another one of as many users as it has ranks."""

    def make(name: str, rank_U: np.ndarray | None, *, home: Path | None = None, **how: Any) -> Path:
        place = (home or tmp_path) / "runs" / name
        place.mkdir(parents=True)
        target, model = how.get("target", "HM"), how.get("model", "sasrec")
        recipe = [f'target = "{target}"', f'stage = "{how.get("stage", "scratch")}"']
        if "start" in how:
            recipe += ["[start]", f'run = "{how["start"]}"']
        recipe += ["[model]", f'name = "{model}"', *how.get("model_values", ())]
        recipe += ["[train]", f"seed = {how.get('seed', 0)}", *how.get("train", ())]
        (place / "recipe.toml").write_text("\n".join(recipe))
        (place / "run.json").write_text(json.dumps({"shards": how.get("shards", "s" * 64)}))
        if rank_U is not None:
            table = ranks(rank_U, how.get("counts"), shop.shards() if target == "HM" else None)
            write_table(place / "ranks.parquet", table, RANKS)
            found: dict[str, Any] = {"model": summarise(table), "keep_history": False}
            if "chosen" in how:
                chosen = ranks(how["chosen"], how.get("counts"), None)
                write_table(place / "ranks-chosen.parquet", chosen, RANKS)
                found["popularity_mix"] = {"chosen": {"alpha": 1, **summarise_mix(chosen)}}
            found |= how.get("metrics", {})
            (place / "metrics.json").write_text(json.dumps(found))
        return place

    return make


def ranks(rank_U: np.ndarray, counts: np.ndarray | None, shards: Shards | None) -> pa.Table:
    """A ranks table; where the shards have as many users, of their questions."""
    if shards is not None and len(shards.sequences()) == len(rank_U):
        asked = questions(shards, "test")
        return ranks_table(asked, rank_U.astype(np.int32), shards, keep_history=False)
    n = len(rank_U)
    columns = {
        "user": np.arange(n),
        "target": np.ones(n),
        "rank": rank_U,
        "candidates": np.full(n, 200),
        "train_count": np.full(n, 50) if counts is None else counts,
    }
    return pa.table({k: pa.array(v.astype(np.int32)) for k, v in columns.items()})


@pytest.fixture
def floor_metrics(shop: Any) -> dict[str, Any]:
    """What an evaluation with neighbours says of the shop's floors."""
    asked = questions(shop.shards(), "test")
    options = EvaluateOptions(neighbours=True)
    return {
        name: summarise(ranks_table(asked, rank(asked), shop.shards(), keep_history=False))
        for name, rank in rankers(shop.shards(), options).items()
        if name != "random"
    }


@pytest.fixture
def users(shop: Any) -> int:
    return len(shop.shards().sequences())


@pytest.fixture
def home_of_shop(shop: Any) -> Home:
    return shop.home  # type: ignore[no-any-return]
