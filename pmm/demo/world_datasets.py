"""The embedded world as datasets: raw files of all platforms, tables, encoders and shards.

What the demo and the benchmarks of the method start from; each step is that of a command.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pmm.demo.public_encoders import RECIPE, put_public_encoders
from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.shards.kinds import Split
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.artefact import build
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, SEQUENCES, TARGET_ITEMS, read_table
from pmm.world import World
from pmm.world.formats.raw_formats import FORMATS, write_raw
from pmm.world.oracle import oracle_ranks


def write_platforms(home: Home, world: World) -> dict[str, dict[str, int]]:
    """The raw files of all four platforms, each in its usual layout, under raw/ of the home folder.

    Returns:
        source or target -> what was written and planted.
    """
    found: dict[str, dict[str, int]] = {}
    for platform in FORMATS:
        found |= write_raw(world, platform, home.raw(platform))
    return found


def ingest_platforms(home: Home) -> list[dict[str, Any]]:
    """All four sources and ten targets from the files of `write_platforms`; their cards."""
    options = IngestOptions()
    amazon = AmazonFiles(raw=None, images=home.raw("amazon") / "images")
    return [
        *ingest_bili(home, VideoFiles(), [], options),
        *ingest_kwai(home, KwaiFiles(), [], options),
        *ingest_hm(home, None, [], options),
        *ingest_amazon(home, amazon, [], options),
    ]


def place_encoders(home: Home) -> Path:
    """The folder of the world's public encoders, text/ and vision/, with a recipe.toml for them."""
    place = home.root / "encoders" / "public"

    def write(folder: Path) -> dict[str, int]:
        put_public_encoders(folder)
        return {}

    build(
        place,
        kind="encoders",
        config={"encoders": "public", "recipe": RECIPE},
        inputs={},
        write=write,
        wait=True,
    )
    return place


def shard_targets(home: Home, targets: Iterable[str], text_encoder: Path) -> dict[str, int]:
    """Shards of targets, with the tokens of an encoder; the sums of what their manifests count."""
    total: dict[str, int] = {}
    for target in targets:
        built = write_shards(home, target, ShardOptions(text_encoder=str(text_encoder)))
        for what, count in built.manifest.counts.items():
            total[what] = total.get(what, 0) + count
    return total


def oracle_table(home: Home, world: World, target: str, split: Split = "test") -> pa.Table:
    """The ranks (schemas.RANKS) that the true next-item distribution gives to each next item."""
    place = home.target(target)
    items = read_table(place / "items.parquet", TARGET_ITEMS)
    ids = items["item_id"].to_pylist()
    sequences = read_table(place / "sequences.parquet", SEQUENCES).to_pydict()
    before = ("train", "valid") if split == "test" else ("train",)
    numbers = np.asarray(sequences[split])
    histories = [
        [ids[item - 1] for item in (*train_items, *later)]
        for train_items, *later in zip(*(sequences[name] for name in before), strict=True)
    ]
    truths = [ids[item - 1] for item in numbers]
    columns: dict[str, Any] = {
        "user": sequences["user"],
        "target": numbers,
        "rank": oracle_ranks(world, target, ids, histories, truths),
        "candidates": [len(ids) - len(set(history)) for history in histories],
        "train_count": items["train_count"].to_numpy()[numbers - 1],
    }
    return pa.table(columns).cast(RANKS.schema)
