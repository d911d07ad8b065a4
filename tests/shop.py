"""A tiny real shop: drawn pictures, real shards, small encoders. After item k comes k + 1."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.artefact import build
from pmm.storage.home import Home
from pmm.storage.schemas import COLD, SEQUENCES, SOURCE_ITEMS, TARGET_ITEMS, write_table

SIZES = SmallSizes(width=32, blocks=2, heads=2, vocabulary=300, picture=32, patch=16)


@dataclass(frozen=True)
class Shop:
    """Where it is, and the smallest model that fits it."""

    home: Home
    options: PmmrecOptions

    def shards(self) -> Shards:
        return Shards.of(self.home, "HM")

    def add_target(
        self,
        name: str,
        *,
        n_items: int,
        n_users: int,
        pictures: bool = True,
        categories: list[list[str]] | None = None,
    ) -> Shards:
        """One more target in the same home, with other texts and as many of the pictures.

        With categories of its items it has tables too, of a source of its own name.
        """
        names = [f"{name} number {item} sort {item % 5}" for item in range(1, n_items + 1)]
        inputs = {}
        if categories is not None:
            inputs["tables"] = make_tables(self.home, name, categories)
        _make_target(self.home, name, names, n_users, pictures=pictures, inputs=inputs)
        _make_shards(self.home, name, self.options.text.encoder)
        return Shards.of(self.home, name)

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
    _make_target(home, "HM", names, n_users)
    text, vision = save_small_encoders(root / "encoders", names, seed=1, sizes=SIZES)
    _make_shards(home, "HM", str(text))
    options = PmmrecOptions(
        text=TextSpec(encoder=str(text), train_blocks=1),
        vision=VisionSpec(encoder=str(vision), train_blocks=1),
        dap_similarity="dot",  # what is on record was made before the cosine was the default
        max_length=6,
        user_blocks=1,
    )
    return Shop(home, options)


def make_tables(home: Home, source: str, categories: list[list[str]], **config: str) -> str:
    """Tables of a source's items and nothing else; returns their fingerprint."""

    def write(draft: Path) -> dict[str, int]:
        # In another order than the target numbers them, and with an item that it lacks.
        rows = [(f"{k:010d}", "text", None, each) for k, each in enumerate(categories, 1)]
        rows = [*rows[::-1], ("elsewhere", "", None, ["Elsewhere"])]
        columns = dict(zip(SOURCE_ITEMS.schema.names, zip(*rows, strict=True), strict=True))
        write_table(draft / "items.parquet", pa.table(columns, SOURCE_ITEMS.schema), SOURCE_ITEMS)
        return {"items": len(rows)}

    about = {"source": source, "first": str(categories[0]), **config}
    made = build(home.tables(source), kind="tables", config=about, inputs={}, write=write)
    return made.manifest.fingerprint


def _make_target(
    home: Home,
    target: str,
    names: list[str],
    n_users: int,
    *,
    pictures: bool = True,
    inputs: dict[str, str] | None = None,
) -> None:
    folder = home.root / "pictures" if pictures else None
    build(
        home.target(target),
        kind="target",
        config={"source": target, "texts": names[0]},
        inputs=inputs or {},
        write=lambda draft: _write_target(draft, target, folder, names, n_users),
    )


def _make_shards(home: Home, target: str, text: str) -> None:
    options = ShardOptions(
        text_encoder=text,
        picture_size=32,
        items_per_shard=8,
        workers=1,
        allow_no_pictures=True,
    )
    write_shards(home, target, options)


def _write_target(
    folder: Path, target: str, pictures: Path | None, names: list[str], n_users: int
) -> dict[str, int]:
    n = len(names)
    lists = [[(7 * u + k) % n + 1 for k in range(4 + u % 6)] for u in range(n_users)]
    if n_users > 1:
        lists[1][-1] = lists[1][0]  # a target that stands in the history
    counts = np.bincount(np.concatenate([each[:-2] for each in lists]), minlength=n + 1)
    rows = {
        "item": np.arange(1, n + 1),
        "item_id": [f"{k:010d}" for k in range(1, n + 1)],
        "text": names,
        "image": [None if k == 4 or not pictures else f"{k}.png" for k in range(1, n + 1)],
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
    cuts = [(u, k, items[k]) for u, items in enumerate(lists) for k in range(1, len(items))]
    cold = [cut for cut in cuts if counts[cut[2]] < 3]
    columns = {name: [cut[k] for cut in cold] for k, name in enumerate(COLD.schema.names)}
    write_table(folder / "cold.parquet", pa.table(columns, COLD.schema), COLD)
    card = {"target": target, "pictures": str(pictures) if pictures else None}
    (folder / "card.json").write_text(json.dumps(card))
    return {"items": n}
