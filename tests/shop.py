"""A tiny real shop: drawn pictures, real shards, small encoders. After item k comes k + 1."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pmm.artefact import build
from pmm.home import Home
from pmm.model.encoders import TextSpec, VisionSpec
from pmm.model.pmmrec import PmmrecOptions
from pmm.model.small import SmallSizes, save_small_encoders
from pmm.schemas import COLD, SEQUENCES, TARGET_ITEMS, write_table
from pmm.shards.read import Shards
from pmm.shards.write import ShardOptions, write_shards

SIZES = SmallSizes(width=32, blocks=2, heads=2, vocabulary=300, picture=32, patch=16)


@dataclass(frozen=True)
class Shop:
    """Where it is, and the smallest model that fits it."""

    home: Home
    options: PmmrecOptions

    def shards(self) -> Shards:
        return Shards(self.home.shards("HM"))

    def with_options(self, **changes: object) -> PmmrecOptions:
        return dataclasses.replace(self.options, **changes)


def open_shop(root: Path, *, n_items: int = 30, n_users: int = 24, texts: str = "article") -> Shop:
    """Ingest, shard and equip a shop; item 4 has no picture, item 5 no text."""
    home = Home(root)
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for item in range(1, n_items + 1):
        noise = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        noise.resize((48, 40), Image.Resampling.NEAREST).save(root / "pictures" / f"{item}.png")
    names = [f"{texts} number {item} sort {item % 7}" for item in range(1, n_items + 1)]
    names[4] = ""
    build(
        home.target("HM"),
        kind="target",
        config={"source": "HM", "texts": texts},
        inputs={},
        write=lambda folder: _write_target(folder, root / "pictures", names, n_users),
    )
    text, vision = save_small_encoders(root / "encoders", names, seed=1, sizes=SIZES)
    write_shards(
        home,
        "HM",
        ShardOptions(text_encoder=str(text), picture_size=32, items_per_shard=8, workers=1),
    )
    options = PmmrecOptions(
        text=TextSpec(encoder=str(text), train_blocks=1),
        vision=VisionSpec(encoder=str(vision), train_blocks=1),
        max_length=6,
        user_blocks=1,
    )
    return Shop(home, options)


def _write_target(folder: Path, pictures: Path, names: list[str], n_users: int) -> dict[str, int]:
    n = len(names)
    lists = [[(7 * u + k) % n + 1 for k in range(4 + u % 6)] for u in range(n_users)]
    if n_users > 1:
        lists[1][-1] = lists[1][0]  # a target that stands in the history
    counts = np.bincount(np.concatenate([each[:-2] for each in lists]), minlength=n + 1)
    rows = {
        "item": np.arange(1, n + 1),
        "item_id": [f"{k:010d}" for k in range(1, n + 1)],
        "text": names,
        "image": [None if k == 4 else f"{k}.png" for k in range(1, n + 1)],
        "train_count": counts[1:],
    }
    users = {
        "user": np.arange(n_users),
        "user_id": [f"u{k}" for k in range(n_users)],
        "train": [each[:-2] for each in lists],
        "valid": [each[-2] for each in lists],
        "test": [each[-1] for each in lists],
    }
    items, sequences = pa.table(rows, TARGET_ITEMS.schema), pa.table(users, SEQUENCES.schema)
    write_table(folder / "items.parquet", items, TARGET_ITEMS)
    write_table(folder / "sequences.parquet", sequences, SEQUENCES)
    write_table(folder / "cold.parquet", COLD.schema.empty_table(), COLD)
    (folder / "card.json").write_text(json.dumps({"pictures": str(pictures)}))
    return {"items": n}
