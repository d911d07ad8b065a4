"""SASRec on item ids: users/s in training and in full ranking, and metrics, beside RecBole's.

    python -m benchmarks.recbole_sasrec [--users 4000] [--items 5000] [--epochs 3] [--seeds 3]

Sequences are drawn on the spot and written for both, so that the split is the same: the last item
of a user is the test's, the one before it the validation's. Both train the same predictions: an
item of the training part from up to twenty before it. RecBole has a sample for each of them, so its
batch has as many samples as ours has predictions, and both make equally many steps an epoch.

Each side trains and ranks in a process of its own, in turns, one turn a seed; users/s are medians
over all epochs, or all evaluations, of the turns, but for the first of each turn. Where RecBole
cannot be installed, ours alone is measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import recbole_peer
from benchmarks.results import record
from benchmarks.train_step import gemm_peak
from pmm.artefact import build
from pmm.evaluate.catalogue import embed_catalogue, user_vectors
from pmm.evaluate.metrics import summarise
from pmm.evaluate.run import EvaluateOptions, evaluate_model, load_run, questions
from pmm.home import Home
from pmm.model.baseline import Baseline, BaselineOptions, Loss
from pmm.schemas import SEQUENCES, TARGET_ITEMS, write_table
from pmm.shards.read import Shards
from pmm.shards.stream import train_batches
from pmm.shards.training_set import TrainingSet
from pmm.shards.write import ShardOptions, write_shards
from pmm.train.loop import Recipe, train
from pmm.train.session import TrainOptions

TARGET = "drawn"
SHORTEST, LONGEST, MEAN_LENGTH = 5, 23, 15.8
"""H&M's mean length in Table II. Of the longest user twenty inputs and their targets are trained
on, so that no window of ours is cut."""
MAX_LENGTH = 20
NEVER = 10**9
EVALUATIONS = 4
WORDS = Path(__file__).parents[1] / "pmm" / "world" / "encoders" / "text"
TRAIN_BAR, EVALUATE_BAR = 2, 5
SIDES = {"recbole": "RecBole", "full": "PMM, the same loss", "in_batch": "PMM, in-batch softmax"}

Turns: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both sides have in common."""

    batch: int
    """Users a step."""
    epochs: int
    width: int
    threads: int
    lr: float = 1e-3
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.1


def draw(users: int, items: int, mean_length: float, seed: int = 0) -> list[NDArray[np.int64]]:
    """Sequences over items 1..N, each of which occurs: mostly one of eight successors comes next.

    The others are drawn by popularity, which has a long tail.
    """
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(10, items + 10)
    share /= share.sum()
    successor = rng.choice(items, size=(items, 8), p=share)
    odds = 0.6 ** np.arange(8)
    drawn = rng.choice(items, size=(users, LONGEST), p=share)
    for k in range(1, LONGEST):
        which = rng.choice(8, size=users, p=odds / odds.sum())
        follows = rng.random(users) < 0.7
        drawn[follows, k] = successor[drawn[follows, k - 1], which[follows]]
    excess = rng.geometric(1 / (1 + mean_length - SHORTEST), size=users) - 1
    lengths = np.minimum(SHORTEST + excess, LONGEST)
    real = np.arange(LONGEST) < lengths[:, None]
    drawn[real] = np.unique(drawn[real], return_inverse=True)[1].reshape(-1) + 1
    return [row[:length] for row, length in zip(drawn, lengths.tolist(), strict=True)]


def write_ours(home: Home, lists: Sequence[NDArray[np.int64]]) -> None:
    """The sequences as a target without pictures, and its shards."""

    def write(folder: Path) -> dict[str, int]:
        n_items = max(int(each.max()) for each in lists)
        count = np.bincount(np.concatenate([each[:-2] for each in lists]), minlength=n_items + 1)
        numbers = range(1, n_items + 1)
        items = {
            "item": list(numbers),
            "item_id": [str(k) for k in numbers],
            "text": [f"item {k}" for k in numbers],
            "image": [None] * n_items,
            "train_count": count[1:],
        }
        users = {
            "user": np.arange(len(lists)),
            "user_id": [str(user) for user in range(len(lists))],
            "train": [each[:-2] for each in lists],
            "valid": [each[-2] for each in lists],
            "test": [each[-1] for each in lists],
        }
        for name, columns, declared in (
            ("items", items, TARGET_ITEMS),
            ("sequences", users, SEQUENCES),
        ):
            write_table(folder / f"{name}.parquet", pa.table(columns, declared.schema), declared)
        (folder / "card.json").write_text(json.dumps({"target": TARGET}), encoding="utf-8")
        return {"items": n_items}

    build(home.target(TARGET), kind="target", config={"source": TARGET}, inputs={}, write=write)
    options = ShardOptions(text_encoder=str(WORDS), workers=1, allow_no_pictures=True)
    write_shards(home, TARGET, options)


def write_theirs(folder: Path, lists: Sequence[NDArray[np.int64]]) -> None:
    """The sequences as RecBole's files of a split that is there: a row for each prediction."""
    folder.mkdir(parents=True)
    parts: dict[str, list[str]] = {name: [] for name in ("train", "valid", "test")}
    for user, items in enumerate(lists):
        words = [str(item) for item in items.tolist()]
        for k in range(1, len(words)):
            before = " ".join(words[max(0, k - MAX_LENGTH) : k])
            part = {len(words) - 1: "test", len(words) - 2: "valid"}.get(k, "train")
            parts[part].append(f"{user}\t{before}\t{words[k]}\n")
    for name, rows in parts.items():
        with (folder / f"{TARGET}.{name}.inter").open("w", encoding="utf-8") as file:
            file.write("user_id:token\titem_id_list:token_seq\titem_id:token\n")
            file.writelines(rows)


def our_options(setting: Setting, loss: Loss) -> BaselineOptions:
    """SASRec."""
    return BaselineOptions(
        width=setting.width,
        max_length=MAX_LENGTH,
        user_blocks=setting.blocks,
        user_heads=setting.heads,
        dropout=setting.dropout,
        loss=loss,
    )


def their_config(setting: Setting, folder: Path, samples: int, seed: int) -> dict[str, Any]:
    """The same SASRec, with RecBole's defaults where nothing else is said."""
    return {
        "data_path": str(folder),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "hidden_size": setting.width,
        "inner_size": 4 * setting.width,
        "n_layers": setting.blocks,
        "n_heads": setting.heads,
        "hidden_dropout_prob": setting.dropout,
        "attn_dropout_prob": setting.dropout,
        "hidden_act": "relu",
        "train_neg_sample_args": None,
        "train_batch_size": samples,
        "learning_rate": setting.lr,
        "epochs": setting.epochs,
        "eval_args": {"order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [10, 20, 50],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 8,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "seed": seed,
    }


def our_turn(root: Path, setting: Setting, loss: Loss, seed: int) -> dict[str, Any]:
    """Train and rank in this process; what RecBole's `_answer` returns, but rates by the users.

    The first batch of a run is waited for before the clock starts.
    """
    torch.set_num_threads(setting.threads)
    home, run_dir = Home(root), root / "runs" / f"{loss}-{seed}"
    options = TrainOptions(
        seed=seed,
        epochs=setting.epochs,
        batch_users=setting.batch,
        lr=setting.lr,
        weight_decay=0.0,
        patience=0,
        eval_every=setting.epochs,
        log_every=NEVER,
        save_every=NEVER,
        cache="off",
        device="cpu",
    )
    recipe = Recipe(target=TARGET, model=our_options(setting, loss), train=options)
    train(home, run_dir, recipe)
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    epochs = [line["users_per_s"] for line in lines if line["kind"] == "step"]
    model, _, _ = load_run(home, run_dir, device="cpu")
    asked, evaluations, metrics = EvaluateOptions(keep_history=True), [], {}
    for _ in range(EVALUATIONS):
        start = time.perf_counter()
        shards = Shards(home.shards(TARGET))  # opened anew: their sequences are read each time
        metrics = summarise(evaluate_model(model, shards, asked))
        evaluations.append(shards.n_users / (time.perf_counter() - start))
    return {"train": epochs, "evaluate": evaluations} | {
        name: metrics[name] for name in ("hr@10", "ndcg@10")
    }


def limits(home: Home, setting: Setting) -> dict[str, float]:
    """Users/s that this machine allows: "train" at the GEMM peak, "evaluate" without ranks.

    The latter is the time of the user encoder and of the products with all items alone.
    """
    torch.set_num_threads(setting.threads)
    shards = Shards(home.shards(TARGET))
    model = Baseline(our_options(setting, "full"), shards.n_items)
    data = TrainingSet([shards], read="none")
    with train_batches(data, seed=0, epoch=0, batch_users=setting.batch) as batches:
        batch = next(batches)
    with FlopCounterMode(display=False) as counter:
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
    flops = counter.get_total_flops() / len(batch.slot_BS)
    catalogue, asked = embed_catalogue(model, shards), questions(shards, "test")
    fastest = float("inf")
    for _ in range(EVALUATIONS):
        start = time.perf_counter()
        for first in range(0, len(asked), 1024):
            vectors = user_vectors(model, catalogue, asked.rows(first, first + 1024).history)
            torch.mm(vectors, catalogue.score_ND.T)
        fastest = min(fastest, time.perf_counter() - start)
    return {"train": gemm_peak() / flops, "evaluate": len(asked) / fastest}


def in_process(job: dict[str, Any], threads: int) -> dict[str, Any]:
    """What this program answers to a job in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recbole_sasrec", "--job", json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """A turn of ours, or the limits."""
    root, setting = Path(job["root"]), Setting(**job["setting"])
    if job["side"] == "limits":
        return limits(Home(root), setting)
    return our_turn(root, setting, job["side"], job["seed"])


def measure(folder: Path, setting: Setting, samples: int, seeds: int, users: int) -> Turns:
    """All turns of all sides; without "recbole" where that cannot be installed."""
    version = recbole_peer.install()
    sides = [side for side in SIDES if version or side != "recbole"]
    found: Turns = {side: [] for side in sides}
    for seed in range(seeds):
        for side in sides if seed % 2 == 0 else reversed(sides):
            if side == "recbole":
                config = their_config(setting, folder / "peer", samples, seed)
                job: dict[str, Any] = {"model": "SASRec", "config": config}
                job |= {"evaluations": EVALUATIONS, "best": False}
                turn = recbole_peer.run(job, folder / "peer", setting.threads)
                turn["version"] = version
                for what in ("train", "evaluate"):
                    turn[what] = [users / seconds for seconds in turn[what]]
            else:
                job = {"root": str(folder), "setting": asdict(setting), "side": side, "seed": seed}
                turn = in_process(job, setting.threads)
            found[side].append(turn)
            print(f"{side}, seed {seed}: {turn}", file=sys.stderr, flush=True)
    return found


def rate(turns: list[dict[str, Any]], what: str) -> float:
    """The median users/s of epochs or evaluations; the first of a turn warms the process up."""
    return float(statistics.median(each for turn in turns for each in turn[what][1:] or turn[what]))


def spread(turns: list[dict[str, Any]], metric: str) -> str:
    """Mean and standard deviation over the seeds, times 100; and each."""
    values = [100 * turn[metric] for turn in turns]
    each = ", ".join(f"{value:.2f}" for value in values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f} ({each})"


def rows(found: Turns, limit: dict[str, float]) -> list[str]:
    """The table of speeds and that of metrics."""
    peer = found.get("recbole")
    lines = [
        "| what | users/s | RecBole | ratio | bar | limit | % of it |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, bar in (("train", TRAIN_BAR), ("evaluate", EVALUATE_BAR)):
        for side in ("full", "in_batch"):
            ours = rate(found[side], what)
            other = rate(peer, what) if peer else 0.0
            beside = f"{other:,.0f} | {ours / other:.1f}x | {bar}x" if peer else "- | - | -"
            # The in-batch softmax needs fewer operations than the limit counts.
            known = what == "evaluate" or side == "full"
            share = f"{limit[what]:,.0f} | {100 * ours / limit[what]:.0f}" if known else "- | -"
            lines.append(f"| {what}, {SIDES[side]} | {ours:,.0f} | {beside} | {share} |")
    lines += ["", "| side | seeds | test HR@10 | test NDCG@10 |", "|---|---|---|---|"]
    for side, turns in found.items():
        lines.append(
            f"| {SIDES[side]} | {len(turns)} | {spread(turns, 'hr@10')} | "
            f"{spread(turns, 'ndcg@10')} |"
        )
    return lines


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=5_000, help="fewer where some never occur")
    parser.add_argument("--mean-length", type=float, default=MEAN_LENGTH, help="before the cut")
    parser.add_argument("--epochs", type=int, default=3, help="of each turn")
    parser.add_argument("--seeds", type=int, default=3, help="turns of each side")
    parser.add_argument("--batch", type=int, default=64, help="users a step")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a minute; nothing is recorded")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(answer(json.loads(given.job))))
        return
    if given.tiny:
        given.users, given.items, given.epochs, given.seeds = 300, 200, 1, 1
    setting = Setting(
        batch=given.batch, epochs=given.epochs, width=given.width, threads=given.threads
    )
    lists = draw(given.users, given.items, given.mean_length)
    predictions = sum(len(each) - 3 for each in lists)
    samples = round(given.batch * predictions / len(lists))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ours(Home(folder), lists)
        write_theirs(folder / "peer" / TARGET, lists)
        found = measure(folder, setting, samples, given.seeds, len(lists))
        job = {"root": str(folder), "setting": asdict(setting), "side": "limits"}
        limit = in_process(job, given.threads)
    lines = [*explanation(setting, lists, samples, found), "", *rows(found, limit)]
    print("\n".join(lines))
    if not (given.tiny or given.no_record):
        record("recbole_sasrec", "\n".join(lines))


def explanation(
    setting: Setting, lists: Sequence[NDArray[np.int64]], samples: int, found: Turns
) -> list[str]:
    """What was measured."""
    n_items = max(int(each.max()) for each in lists)
    mean = statistics.mean(len(each) for each in lists)
    peer = found.get("recbole")
    told = "RecBole could not be installed."
    if peer:
        told = (
            f"RecBole {peer[0]['version']} (NumPy {peer[0]['numpy']}, pandas {peer[0]['pandas']}); "
            f"its {statistics.median(each['ready'] for each in peer):.1f} s of loading files are "
            "not counted."
        )
    return [
        f"SASRec on ids, {len(lists):,} users, {n_items:,} items, {mean:.1f} actions a user; width "
        f"{setting.width}, {setting.blocks} blocks, {setting.heads} heads, {MAX_LENGTH} inputs, "
        f"dropout {setting.dropout}, Adam at {setting.lr:g}; {setting.batch} users a step, which "
        f"are RecBole's {samples:,} samples; {setting.epochs} epochs a turn; {setting.threads} "
        f"threads, torch {torch.__version__}. {told}",
        "Ranking the test items of all users among all items, history kept on both sides (RecBole "
        "does not mask it in a sequential model). Limits: in training the GEMM peak, in ranking "
        "the user encoder and the products alone.",
    ]


if __name__ == "__main__":
    main()
