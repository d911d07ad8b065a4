"""`pmm demo`: the whole way on the embedded world, from raw files to recommendations."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pmm.artefact import build, open_artefact
from pmm.errors import RecipeError, StaleArtefact
from pmm.evaluate.metrics import summarise
from pmm.evaluate.report import metrics_table
from pmm.evaluate.run import evaluate_run
from pmm.home import Home
from pmm.ingest.hm import ingest_hm
from pmm.ingest.targets import IngestOptions
from pmm.inspect import summarise_cards
from pmm.model.encoders import TextSpec, VisionSpec
from pmm.model.pmmrec import PmmrecOptions
from pmm.model.small import SmallSizes, save_small_encoders
from pmm.schemas import RANKS, SEQUENCES, TARGET_ITEMS, read_table
from pmm.shards.write import ShardOptions, write_shards
from pmm.train.loop import Recipe, train
from pmm.train.session import TrainOptions
from pmm.world import World, generate
from pmm.world.hm_files import write_hm
from pmm.world.oracle import oracle_ranks
from pmm.world.platforms import Size

TARGET = "HM Shoes"
RUN = "demo"
EPOCHS = 14
SIZES = SmallSizes(width=64, blocks=2, heads=1, patch=56)
"""The least that still reads the world: a step must cost a tenth of a second."""


def run_demo(home: Home, *, size: Size, epochs: int | None, seed: int, command: str = "") -> str:
    """Write the world, ingest, shard, train small encoders, evaluate.

    Run again, it does only what is not done yet.

    Args:
        home: where everything is put.
        size: how large the world is.
        epochs: of training at most; None for what the demo was measured with.
        seed: of the world, the weights and the training.
        command: as the user typed it, for run.json.

    Returns:
        One table (model, popularity, random, the world's oracle) and where to look.
    """
    started = time.monotonic()
    world = generate(size, seed)
    raw = home.raw("hm")
    with _step(1, "raw files of the embedded world, in H&M's format", f"pmm world --to {raw}"):
        counts = write_hm(world, raw)
        _say(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    with _step(2, "filter and split", "pmm ingest hm"):
        _say(summarise_cards(ingest_hm(home, None, [], IngestOptions())))
    with _step(3, "small encoders of random weights, a tokenizer from the texts", None):
        text, vision = _encoders(home, seed)
    with _step(4, "pictures to 224x224, texts to tokens, shards", f'pmm shard --target "{TARGET}"'):
        built = write_shards(home, TARGET, ShardOptions(text_encoder=str(text)))
        _say(", ".join(f"{count:,} {what}" for what, count in built.manifest.counts.items()))
    with _step(5, "train", f'pmm train --stage scratch --target "{TARGET}"'):
        _say(_trained(home, _recipe(text, vision, epochs, seed), command))
    with _step(6, "rank the whole catalogue", f"pmm evaluate {home.run(RUN)}"):
        metrics = evaluate_run(home, home.run(RUN))
    oracle = summarise(_oracle(home, world))
    return "\n".join(
        [
            "",
            metrics_table(metrics, {"oracle": oracle}),
            "",
            f"The model reaches {metrics['model']['hr@10'] / oracle['hr@10']:.0%} of the oracle's "
            "HR@10, the best that any model could reach in this world.",
            f"Histories, true next items and top tens: {home.run(RUN) / 'gallery.png'}",
            f"Training curves: {home.run(RUN) / 'curves.png'}",
            f"{time.monotonic() - started:,.0f} s",
        ]
    )


@contextmanager
def _step(number: int, what: str, command: str | None) -> Iterator[None]:
    print(f"[{number}/6] {what}" + (f"   ({command})" if command else ""), file=sys.stderr)
    started = time.monotonic()
    yield
    _say(f"{time.monotonic() - started:,.1f} s")


def _say(text: str) -> None:
    print("\n".join(f"      {line}" for line in text.splitlines()), file=sys.stderr, flush=True)


def _encoders(home: Home, seed: int) -> tuple[Path, Path]:
    target = open_artefact(home.target(TARGET), kind="target", made_by="pmm ingest hm")
    items = read_table(home.target(TARGET) / "items.parquet", TARGET_ITEMS, ["text"])
    place = home.root / "encoders" / "small"

    def write(folder: Path) -> dict[str, int]:
        save_small_encoders(folder, items["text"].to_pylist(), seed=seed, sizes=SIZES)
        return {"texts": items.num_rows}

    config = {"seed": seed, **asdict(SIZES)}
    build(
        place,
        kind="encoders",
        config=config,
        inputs={"target": target.fingerprint},
        write=write,
    )
    return place / "text", place / "vision"


def _recipe(text: Path, vision: Path, epochs: int | None, seed: int) -> Recipe:
    """What learns from random weights in minutes.

    Many small steps, and the cosine, with which learning sets in hundreds of steps sooner than with
    the raw product (docs/log.md has the figures).
    """
    return Recipe(
        target=TARGET,
        model=PmmrecOptions(
            text=TextSpec(encoder=str(text)),
            vision=VisionSpec(encoder=str(vision)),
            dap_similarity="cosine",
            dap_tau=0.1,
        ),
        train=TrainOptions(
            seed=seed,
            epochs=epochs or EPOCHS,
            lr=5e-4,
            encoder_lr=5e-4,
            batch_users=16,
            eval_every=2,
            patience=0,
        ),
    )


def _trained(home: Home, recipe: Recipe, command: str) -> str:
    try:
        result = train(home, home.run(RUN), recipe, existing="resume", command=command)
    except (RecipeError, StaleArtefact):  # of a demo with other options
        result = train(home, home.run(RUN), recipe, existing="overwrite", command=command)
    return json.dumps(result)


def _oracle(home: Home, world: World) -> pa.Table:
    """The ranks that the true next-item distribution gives to the test items."""
    place = home.target(TARGET)
    items = read_table(place / "items.parquet", TARGET_ITEMS)
    ids = items["item_id"].to_pylist()
    sequences = read_table(place / "sequences.parquet", SEQUENCES).to_pydict()
    histories = [
        [ids[item - 1] for item in (*train_items, valid)]
        for train_items, valid in zip(sequences["train"], sequences["valid"], strict=True)
    ]
    truths = [ids[item - 1] for item in sequences["test"]]
    target = np.asarray(sequences["test"])
    columns: dict[str, Any] = {
        "user": sequences["user"],
        "target": target,
        "rank": oracle_ranks(world, TARGET, ids, histories, truths),
        "candidates": [len(ids) - len(set(history)) for history in histories],
        "train_count": items["train_count"].to_numpy()[target - 1],
    }
    return pa.table(columns).cast(RANKS.schema)
