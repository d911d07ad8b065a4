"""SASRec on item ids: users/s in training and in full ranking, and metrics, beside RecBole's.

    python -m benchmarks.recbole_sasrec [--seeds 3]

Sequences are drawn on the spot and written for both, so that the split is the same: the last item
of a user is the test's, the one before it the validation's. Both train the same predictions: an
item of the training part from up to twenty before it. RecBole has a sample for each of them, so its
batch has as many samples as ours has predictions, and both make equally many steps an epoch.

Each side trains and ranks in a process of its own, in turns, one turn a seed; users/s are medians
over all epochs, or all evaluations, of the turns, but for the first of each turn. The ratio is the
median of the turns' own, as machines drift. On a catalogue as large as H&M's random weights are
ranked, without training. Where RecBole cannot be installed, ours alone is measured.
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
from pmm.data.loader import train_batches
from pmm.data.training_set import TrainingSet
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_model
from pmm.evaluate.metrics import summarise
from pmm.model.baselines.next_item_baseline import Loss
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.model.build import build_model
from pmm.model.protocol import Recommender
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.artefact import build
from pmm.storage.home import Home
from pmm.storage.schemas import SEQUENCES, TARGET_ITEMS, write_table
from pmm.train.train_run import train

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
class Case:
    """What is drawn, and how long a turn trains on it."""

    users: int
    items: int
    """Drawn from; fewer where some never occur."""
    skew: float
    """Of popularity; 0: items are equally popular."""
    epochs: int
    """0: random weights are ranked."""


CASES = (
    Case(users=3_000, items=10_000, skew=1.0, epochs=3),
    Case(users=12_000, items=100_000, skew=0.0, epochs=0),
)
TINY = (
    Case(users=300, items=200, skew=1.0, epochs=1),
    Case(users=100, items=300, skew=0.0, epochs=0),
)


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


def draw(
    users: int, items: int, mean_length: float = MEAN_LENGTH, *, skew: float = 1.0, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Sequences over items 1..N, each of which occurs: mostly one of eight successors comes next.

    The others are drawn by popularity, which has a long tail unless the skew is 0.
    """
    rng = np.random.default_rng(seed)
    share = np.arange(10.0, items + 10.0) ** -skew
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


def our_options(setting: Setting, loss: Loss) -> SasrecOptions:
    """SASRec."""
    return SasrecOptions(
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
    home, made = Home(root), our_options(setting, loss)
    epochs: list[float] = []
    if setting.epochs:
        model, epochs = trained(home, setting, made, seed)
    else:
        torch.manual_seed(seed)
        model = build_model(made, Shards.of(home, TARGET).n_items).eval()
    asked, evaluations, metrics = EvaluateOptions(keep_history=True), [], {}
    for _ in range(EVALUATIONS):
        start = time.perf_counter()
        shards = Shards.of(home, TARGET)  # opened anew: their sequences are read each time
        metrics = summarise(evaluate_model(model, shards, asked))
        evaluations.append(shards.n_users / (time.perf_counter() - start))
    return {"train": epochs, "evaluate": evaluations} | {
        name: metrics[name] for name in ("hr@10", "ndcg@10")
    }


def trained(
    home: Home, setting: Setting, made: SasrecOptions, seed: int
) -> tuple[Recommender, list[float]]:
    """A model, and the users/s of each epoch of its training."""
    run_dir = home.run(f"{made.loss}-{seed}")
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
    train(home, run_dir, Recipe(target=TARGET, model=made, train=options))
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    model, _, _ = load_run(home, run_dir, device="cpu")
    return model, [line["users_per_s"] for line in lines if line["kind"] == "step"]


def limits(home: Home, setting: Setting) -> dict[str, float]:
    """Users/s at the machine's GEMM peak, in training and in ranking, by our operations."""
    torch.set_num_threads(setting.threads)
    shards = Shards.of(home, TARGET)
    model = build_model(our_options(setting, "full"), shards.n_items)
    data = TrainingSet([shards], read="none")
    with train_batches(data, seed=0, epoch=0, batch_users=setting.batch) as batches:
        batch = next(batches)
    with FlopCounterMode(display=False) as in_training:
        model(batch)["loss"].backward()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as in_ranking:
        evaluate_model(model, shards, EvaluateOptions(keep_history=True))
    peak = gemm_peak()
    return {
        "train": peak * len(batch.slot_BS) / in_training.get_total_flops(),
        "evaluate": peak * shards.n_users / in_ranking.get_total_flops(),
    }


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
    if not setting.epochs:
        sides.remove("in_batch")  # which is no other model
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


def ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], what: str) -> list[float]:
    """How many times RecBole's rate ours is, turn by turn."""
    pairs = zip(ours, theirs, strict=True)
    return [rate([one], what) / rate([other], what) for one, other in pairs]


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
    whats = (("train", TRAIN_BAR), ("evaluate", EVALUATE_BAR))
    for what, bar in whats if found["full"][0]["train"] else whats[1:]:
        for side in [side for side in found if side != "recbole"]:
            ours = rate(found[side], what)
            beside = "- | - | -"
            if peer:
                each = ratios(found[side], peer, what)
                told = f"{statistics.median(each):.1f}x ({min(each):.1f} to {max(each):.1f})"
                beside = f"{rate(peer, what):,.0f} | {told} | {bar}x"
            # Training with the in-batch softmax needs fewer operations than the limit counts.
            known = what == "evaluate" or side == "full"
            share = f"{limit[what]:,.0f} | {100 * ours / limit[what]:.0f}" if known else "- | -"
            lines.append(f"| {what}, {SIDES[side]} | {ours:,.0f} | {beside} | {share} |")
    if not found["full"][0]["train"]:
        return lines
    lines += ["", "| side | seeds | test HR@10 | test NDCG@10 |", "|---|---|---|---|"]
    for side, turns in found.items():
        lines.append(
            f"| {SIDES[side]} | {len(turns)} | {spread(turns, 'hr@10')} | "
            f"{spread(turns, 'ndcg@10')} |"
        )
    return lines


def case_lines(case: Case, given: argparse.Namespace) -> list[str]:
    """What was drawn, and its tables."""
    setting = Setting(
        batch=given.batch, epochs=case.epochs, width=given.width, threads=given.threads
    )
    lists = draw(case.users, case.items, skew=case.skew)
    predictions = sum(len(each) - 3 for each in lists)
    samples = round(given.batch * predictions / len(lists))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ours(Home(folder), lists)
        write_theirs(folder / "peer" / TARGET, lists)
        found = measure(folder, setting, samples, given.seeds, len(lists))
        job = {"root": str(folder), "setting": asdict(setting), "side": "limits"}
        limit = in_process(job, given.threads)
    return [*explanation(setting, lists, samples, found), "", *rows(found, limit)]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
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
    parts = [case_lines(case, given) for case in (TINY if given.tiny else CASES)]
    lines = [*HEAD, "", *parts[0], "", *parts[1]]
    print("\n".join(lines))
    if not (given.tiny or given.no_record):
        record("recbole_sasrec", "\n".join(lines))


HEAD = (
    "SASRec on ids beside RecBole's. Ranking is that of the test items of all users among all "
    "items, history kept on both sides (RecBole does not mask it in a sequential model). Limit: "
    "our operations at the machine's GEMM peak.",
)


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
    trains = "random weights, nothing is trained"
    if setting.epochs:
        trains = (
            f"Adam at {setting.lr:g}; {setting.batch} users a step, which are RecBole's "
            f"{samples:,} samples; {setting.epochs} epochs a turn"
        )
    return [
        f"{len(lists):,} users, {n_items:,} items, {mean:.1f} actions a user; width "
        f"{setting.width}, {setting.blocks} blocks, {setting.heads} heads, {MAX_LENGTH} inputs, "
        f"dropout {setting.dropout}; {trains}; {setting.threads} threads, torch "
        f"{torch.__version__}. {told}",
    ]


if __name__ == "__main__":
    main()
