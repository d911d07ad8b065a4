"""Three evaluated runs on the small shop: two seeds of one system, and one that knows ids alone."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.evaluate.metrics import summarise
from pmm.evaluate.publish import publish
from pmm.runs.folder import Log
from pmm.storage.artefact import write_json
from pmm.storage.json_files import parse_json
from pmm.storage.schemas import RANKS, read_table

HERE = Path(__file__).parent
VALIDATION = {0: (0.10, 0.04), 1: (0.25, 0.11), 2: (0.30, 0.16)}
"""Epoch -> HR@10 and NDCG@10 in the logs."""
ABOUT = {"seed": 0, "device": "cpu", "parameters": 123_456, "command": "pmm train --target hm"}


def make_reported_runs(shop: Any, load_file: Any, place: Path) -> SimpleNamespace:
    """The runs' folders; `write` publishes other ranks for one of them."""
    runs = load_file(HERE.parent / "recommend" / "conftest.py")
    first = runs.make_run(shop, place / "model-seed-0", runs.options_of(shop, "pmmrec"))
    ids = runs.make_run(shop, place / "ids", runs.options_of(shop, "sasrec"))
    for run in (first, ids):
        evaluate_run(shop.home, run, EvaluateOptions(gallery_users=0, cold=run is first))
        _write_log(run / "log.jsonl")
        write_json(run / "run.json", ABOUT)
    second = place / "model-seed-1"
    shutil.copytree(first, second)
    recipe = (second / "recipe.toml").read_text()
    assert "\nseed = 0\n" in recipe
    (second / "recipe.toml").write_text(recipe.replace("\nseed = 0\n", "\nseed = 1\n"))
    ranks = read_table(second / "ranks.parquet", RANKS)
    write_ranks(second, np.maximum(1, ranks["rank"].to_numpy() - 7))
    return SimpleNamespace(first=first, second=second, ids=ids, home=shop.home)


def write_ranks(run: Path, rank_U: Any) -> None:
    """Publish an evaluation with these ranks."""
    ranks = read_table(run / "ranks.parquet", RANKS)
    at = ranks.schema.get_field_index("rank")
    ranks = ranks.set_column(at, "rank", pa.array(rank_U, pa.int32()))
    metrics = parse_json((run / "metrics.json").read_bytes())
    metrics |= {"model": summarise(ranks), "run": run.name}
    publish(run, "", {"ranks": ranks}, metrics, draw=None, still=[])


def _write_log(path: Path) -> None:
    log = Log(path, 0)
    for epoch, (hits, gains) in VALIDATION.items():
        if epoch:
            step = {"kind": "step", "step": 10 * epoch, "epoch": epoch, "loss": 3.0}
            log.write({**step, "users_per_s": 100.0, "waiting": 0.25})
        about = {"kind": "evaluation", "step": 10 * epoch, "epoch": float(epoch), "seconds": 1.5}
        test = {"test_hr@10": 0.09} if epoch == 2 else {}
        log.write({**about, "hr@10": hits, "ndcg@10": gains, **test})
    log.close()


@pytest.fixture(scope="session")
def reported(shop: Any, load_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_reported_runs(shop, load_file, tmp_path_factory.mktemp("reported"))
