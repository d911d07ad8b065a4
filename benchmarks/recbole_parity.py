"""Test metrics of SASRec, GRU4Rec and FDSA beside RecBole's on the same split.

    python -m benchmarks.recbole_parity [--models SASRec,GRU4Rec,FDSA] [--seeds 3]

Sequences are drawn as in `benchmarks.recbole_sasrec`. Both sides train on the same predictions with
the same width, depth, dropout, learning rate and number of samples a step, until ten epochs in a
row were not better on the validation items; the best epoch's weights are ranked. What is no option
stays as each project has it: the start of the weights, where positions are counted from. FDSA's one
feature is an item's class, which our side reads as a vector with a single one: its linear layer
then is RecBole's table of classes, and a ReLU.

What it prints goes into docs/log.md; no speed is measured here.
"""

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks import recbole_peer
from benchmarks.recbole_sasrec import (
    TARGET,
    Setting,
    draw,
    our_options,
    their_config,
    write_ours,
    write_theirs,
)
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_model
from pmm.evaluate.metrics import summarise
from pmm.model import registry
from pmm.model.features.item_features import ItemFeatures
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.storage.home import Home
from pmm.train.train_run import train

CLASSES, INNER, PATIENCE = 16, 256, 10
NEVER = 10**9

MODELS: dict[str, dict[str, Any]] = {
    "SASRec": {"name": "sasrec"},
    "GRU4Rec": {"name": "gru4rec", "user_blocks": 1, "dense": True, "table_std": 0.0},
    "FDSA": {"name": "fdsa", "inner": INNER, "features": "text", "scaling": "none"},
}
"""RecBole's name -> what our options have beside those that are common."""


def theirs(model: str, setting: Setting) -> dict[str, Any]:
    """The same of RecBole's options."""
    match model:
        case "GRU4Rec":
            width = setting.width
            return {
                "embedding_size": width,
                "hidden_size": width,
                "num_layers": 1,
                "dropout_prob": setting.dropout,
            }
        case "FDSA":
            columns = {
                "inter": ["user_id", "item_id_list", "item_id"],
                "item": ["item_id", "class"],
            }
            return {"load_col": columns, "inner_size": INNER, "hidden_act": "gelu"}
    return {}


def classes(lists: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """A class for each item, of what most often follows it in the training part. [N]"""
    n_items = max(int(each.max()) for each in lists)
    follows: list[Counter[int]] = [Counter() for _ in range(n_items)]
    for items in lists:
        for before, after in zip(items[:-3].tolist(), items[1:-2].tolist(), strict=True):
            follows[before - 1][after] += 1
    return np.array([each.most_common(1)[0][0] % CLASSES if each else 0 for each in follows])


def our_metrics(root: Path, setting: Setting, model: str, seed: int) -> dict[str, Any]:
    """Train and rank on our side."""
    kind = registry.entry(MODELS[model]["name"]).options
    own = {each.name for each in fields(kind)}
    common = {k: v for k, v in vars(our_options(setting, "full")).items() if k in own}
    made = kind(**{**common, **MODELS[model]})
    training = TrainOptions(
        seed=seed,
        epochs=setting.epochs,
        batch_users=setting.batch,
        lr=setting.lr,
        weight_decay=0.0,
        patience=PATIENCE,
        log_every=NEVER,
        save_every=NEVER,
        device="cpu",
    )
    home, run = Home(root), root / "runs" / f"{model}-{seed}"
    train(home, run, Recipe(target=TARGET, model=made, train=training))
    trained, shards, about = load_run(home, run, device="cpu")
    found = summarise(evaluate_model(trained, shards, EvaluateOptions(keep_history=True)))
    return {**found, "epoch": about["epoch"]}


def their_metrics(
    folder: Path, setting: Setting, samples: int, model: str, seed: int
) -> dict[str, Any]:
    """The same on RecBole's."""
    config = their_config(setting, folder, samples, seed) | theirs(model, setting)
    config |= {"stopping_step": PATIENCE, "eval_step": 1, "valid_metric": "Hit@10"}
    job = {"model": model, "config": config, "evaluations": 1, "best": True}
    found = recbole_peer.run(job, folder, setting.threads)
    return {**found, "epoch": len(found["train"])}


def main() -> None:
    """Train all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--items", type=int, default=600, help="fewer where some never occur")
    parser.add_argument("--epochs", type=int, default=150, help="at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    version = recbole_peer.install()
    if version is None:
        raise SystemExit(1)
    torch.set_num_threads(given.threads)
    setting = Setting(batch=32, epochs=given.epochs, width=64, threads=given.threads, dropout=0.2)
    lists = draw(given.users, given.items)
    of_item = classes(lists)
    samples = round(setting.batch * sum(len(each) - 3 for each in lists) / len(lists))
    one_hot = functional.one_hot(torch.from_numpy(of_item), CLASSES).float()
    known = torch.ones(len(one_hot), dtype=torch.bool)

    def features_of(options: Any, *_: Any) -> ItemFeatures | None:
        return ItemFeatures((one_hot,), known) if options.features == "text" else None

    print(f"RecBole {version}, {len(lists)} users, {len(of_item)} items, {samples} samples a step")
    with (
        patch("pmm.train.trainer.features_of", features_of),
        patch("pmm.runs.loading.features_of", features_of),
        tempfile.TemporaryDirectory() as name,
    ):
        root = Path(name)
        peer = root / "peer"
        write_ours(Home(root), lists)
        write_theirs(peer / TARGET, lists)
        rows = [f"{item}\tc{each}\n" for item, each in enumerate(of_item.tolist(), start=1)]
        text = "".join(["item_id:token\tclass:token\n", *rows])
        (peer / TARGET / f"{TARGET}.item").write_text(text, encoding="utf-8")
        for model in given.models.split(","):
            found: dict[str, list[dict[str, Any]]] = {"PMM": [], "RecBole": []}
            for seed in range(given.seeds):
                found["PMM"].append(our_metrics(root, setting, model, seed))
                found["RecBole"].append(their_metrics(peer, setting, samples, model, seed))
            for side, turns in found.items():
                for metric in ("hr@10", "ndcg@10"):
                    values = [100 * turn[metric] for turn in turns]
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    each = ", ".join(f"{value:.2f}" for value in values)
                    told = f"{statistics.mean(values):.2f} ± {spread:.2f} ({each})"
                    print(f"{model}, {side}, {metric}: {told}", flush=True)
                epochs = ", ".join(f"{turn['epoch']:.0f}" for turn in turns)
                print(f"{model}, {side}, epochs: {epochs}", flush=True)


if __name__ == "__main__":
    main()
