"""Tiny real targets: drawn pictures, a tokenizer trained on the spot, real artefacts."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import transformers
from PIL import Image

from pmm.shards.shard_options import ShardOptions
from pmm.storage.artefact import build
from pmm.storage.home import Home
from pmm.storage.schemas import COLD, SEQUENCES, TARGET_ITEMS, write_table

Make = Callable[..., Home]


def drawn(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """A smooth coloured picture, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def draw_picture() -> Callable[..., Image.Image]:
    return drawn


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    def make(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        target = io.BytesIO()
        image.save(target, kind, **options)
        return target.getvalue()

    return make


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word-piece tokenizer of BERT's form, as transformers saves it."""
    words = [f"word{k} red shoe 鞋 blue coat" for k in range(30)]
    backend = tokenizers.BertWordPieceTokenizer()
    backend.train_from_iterator(words, vocab_size=200, show_progress=False)
    tokenizer = transformers.BertTokenizerFast(tokenizer_object=backend._tokenizer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def options(tokenizer_folder: Path) -> ShardOptions:
    return ShardOptions(
        text_encoder=str(tokenizer_folder), picture_size=32, items_per_shard=10, workers=1
    )


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A home with the target HM: items, five users or more, pictures of each kind."""

    def make(n_items: int = 34, n_users: int = 9, images: bool = True, texts: str = "item") -> Home:
        home = Home(tmp_path_factory.mktemp("home"))
        folder = home.root / "pictures"
        folder.mkdir()
        for item in range(1, n_items + 1):
            drawn(item).save(folder / f"{item}.jpg", quality=90)
        put_target(home, n_items, n_users, images, texts)
        return home

    return make


def put_target(home: Home, n_items: int, n_users: int, images: bool, texts: str) -> None:
    rng = np.random.default_rng(n_users)
    lists = [rng.integers(1, n_items + 1, 3 + user % 30).tolist() for user in range(n_users)]
    train = [each[:-2] for each in lists]
    counts = np.bincount(np.concatenate(train), minlength=n_items + 1)
    numbers = np.arange(1, n_items + 1)
    rows = {
        "item": numbers,
        "item_id": [f"../{k}/é\t'鞋" for k in numbers],
        "text": ["" if k == 3 else f"{texts} {k} red shoe" for k in numbers],
        "image": [f"{k}.jpg" if images else None for k in numbers],
        "train_count": counts[1:],
    }
    sequences = {
        "user": np.arange(n_users),
        "user_id": [f"u{k}" for k in range(n_users)],
        "train": train,
        "valid": [each[-2] for each in lists],
        "test": [each[-1] for each in lists],
    }

    def write(folder: Path) -> dict[str, int]:
        items = pa.table(rows, schema=TARGET_ITEMS.schema)
        write_table(folder / "items.parquet", items, TARGET_ITEMS)
        users = pa.table(sequences, schema=SEQUENCES.schema)
        write_table(folder / "sequences.parquet", users, SEQUENCES)
        write_table(folder / "cold.parquet", COLD.schema.empty_table(), COLD)
        card = {"pictures": str(home.root / "pictures") if images else None}
        (folder / "card.json").write_text(json.dumps(card))
        return {"items": n_items}

    build(
        home.target("HM"),
        kind="target",
        config={"source": "HM", "texts": texts},
        inputs={},
        write=write,
    )


@pytest.fixture(scope="session")
def change_target() -> Callable[[Home], None]:
    """Ingest the target anew with other texts."""
    return lambda home: put_target(home, 34, 9, True, "other")
