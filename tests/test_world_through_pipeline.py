"""The embedded world's raw files through ingest and shards, held against what the world knows."""

import re

import numpy as np
import pytest
from PIL import Image

from pmm.home import Home
from pmm.ingest.hm import ingest_hm
from pmm.ingest.targets import IngestOptions
from pmm.model.small import SmallSizes, save_small_encoders
from pmm.schemas import SEQUENCES, SHARD_ITEMS, TARGET_ITEMS, read_table
from pmm.shards.read import Shards
from pmm.shards.write import ShardOptions, write_shards
from pmm.world import World, generate
from pmm.world.hm_files import write_hm
from pmm.world.raw_files import item_picture

ALL = IngestOptions(user_core=0, item_core=0)


@pytest.fixture(scope="module")
def world() -> World:
    return generate("tiny", 3)


@pytest.fixture(scope="module")
def wrote(tmp_path_factory: pytest.TempPathFactory, world: World) -> tuple[Home, dict[str, int]]:
    home = Home(tmp_path_factory.mktemp("home"))
    counts = write_hm(world, home.raw("hm"))
    ingest_hm(home, None, ["HM"], ALL)
    text, _ = save_small_encoders(
        home.root / "encoders", ["red"], seed=0, sizes=SmallSizes(width=32, blocks=1, heads=1)
    )
    write_shards(home, "HM", ShardOptions(text_encoder=str(text), workers=1))
    return home, counts


def test_every_row_is_kept_or_counted(wrote: tuple[Home, dict[str, int]], world: World) -> None:
    home, counts = wrote
    (card,) = ingest_hm(home, None, ["HM"], ALL)
    assert card["rows"]["read"] == counts["rows"]
    assert card["rows"]["read"] == card["rows"]["kept"] + sum(card["rows"]["dropped"].values())
    kept = read_table(home.target("HM") / "items.parquet", TARGET_ITEMS).num_rows
    used = len(set(np.concatenate(list(walks(world).values())).tolist()))
    assert kept == used - counts["missing_pictures"]


def walks(world: World) -> dict[str, list[str]]:
    """User id -> item ids in the true order."""
    sequences, ids = world.sequences("HM"), world.item_ids("HM")
    return {
        user: [ids[k] for k in sequences.items[sequences.starts[u] : sequences.starts[u + 1]]]
        for u, user in enumerate(world.user_ids("HM"))
    }


def test_every_sequence_is_the_walk_of_its_user_in_its_order(
    wrote: tuple[Home, dict[str, int]], world: World
) -> None:
    home, _ = wrote
    items = read_table(home.target("HM") / "items.parquet", TARGET_ITEMS)["item_id"].to_pylist()
    true = walks(world)
    rows = read_table(home.target("HM") / "sequences.parquet", SEQUENCES).to_pylist()
    assert len(rows) == len(true)
    for row in rows:
        found = [items[k - 1] for k in (*row["train"], row["valid"], row["test"])]
        once = list(dict.fromkeys(found))
        assert once == [item for item in true[row["user_id"]] if item in set(items)]


def test_every_broken_picture_is_a_row_with_its_reason(
    wrote: tuple[Home, dict[str, int]],
) -> None:
    home, counts = wrote
    rows = [
        row
        for path in sorted(home.shards("HM").glob("items-*.parquet"))
        for row in read_table(path, SHARD_ITEMS).to_pylist()
    ]
    broken = counts["truncated_pictures"] + counts["text_files_as_pictures"]
    assert sum(row["status"] == "text-only" for row in rows) == broken
    assert all((row["reason"] is None) == (row["status"] == "ok") for row in rows)


def test_every_picture_in_the_shards_is_the_one_that_the_world_drew(
    wrote: tuple[Home, dict[str, int]], world: World
) -> None:
    home, counts = wrote
    shards = Shards(home.shards("HM"))
    number = {name: k for k, name in enumerate(world.item_ids("HM"))}
    far = []
    for item in range(1, shards.n_items + 1):
        if shards.has_picture[item]:
            drawn = item_picture(world, "HM", number[shards.record(item)["item_id"]])
            small = np.asarray(drawn.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            far.append(np.abs(small.astype(int) - shards.picture(item)).mean())
    odd = counts["grey_pictures"] + counts["cmyk_pictures"] + counts["alpha_pictures"]
    assert len(far) == int(shards.has_picture.sum())
    assert sum(error > 6 for error in far) <= odd  # JPEG twice at high quality costs 2 to 4 levels


def test_planted_markup_is_gone_and_no_text_is_empty(
    wrote: tuple[Home, dict[str, int]],
) -> None:
    home, counts = wrote
    texts = read_table(home.target("HM") / "items.parquet", TARGET_ITEMS).to_pylist()
    markup = re.compile(r"</?[a-z]+|&#?[a-z0-9]+;")
    assert [row["text"] for row in texts if markup.search(row["text"])] == []
    assert sum(not row["text"] for row in texts) == 0, "tags stay where a description is missing"
    assert counts["markup_texts"] > 0
    assert "&" in (home.raw("hm") / "articles.csv").read_text()
