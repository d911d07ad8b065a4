"""A run's folder and the shards of its target -> a model that answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from pmm.advice import command
from pmm.arrays import Int64s
from pmm.errors import InputError, PmmError
from pmm.evaluate.catalogue import Catalogue, embed_catalogue
from pmm.ingest.targets.target_tables import open_target
from pmm.model.features.frozen_vectors import own_tokenizer, vectors_trunk
from pmm.model.protocol import ModelOptions
from pmm.recommend.catalogue_state import GrowingCatalogue
from pmm.recommend.item_index import USERS, IndexChoice
from pmm.recommend.item_reader import ContentReading
from pmm.recommend.loaded_model import LoadedModel, popularity_of
from pmm.recommend.torch_encoder import TorchEncoder
from pmm.runs.device import pick_precision
from pmm.runs.folder import RECIPE
from pmm.runs.loading import LoadedRun, load_run_whole
from pmm.runs.recipe import encoder_specs
from pmm.runs.weights import BEST
from pmm.shards.read import Shards
from pmm.shards.tokens import load_tokenizer
from pmm.storage.home import Home
from pmm.storage.schemas import SOURCE_ITEMS, TARGET_ITEMS, read_table
from pmm.storage.snapshot import Snapshot
from pmm.storage.verify import sha256_of


def open_model(
    home: Home,
    run_dir: Path,
    *,
    device: str = "auto",
    target: str | None = None,
    index: IndexChoice = "auto",
) -> LoadedModel:
    """A run's best model with the catalogue of a target encoded, ready to answer.

    Args:
        home: where the shards are.
        run_dir: the run's folder.
        device: where to compute.
        target: which; None = the run's own. Another one is answered for without training.
        index: how items are searched.

    Raises:
        PmmError: as `pmm.evaluate.evaluation.evaluate_run`; an approximate index is asked for and
            cannot be had.
    """
    return open_run(home, run_dir, device=device, target=target, index=index).answering


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run that answers, and all that it was made of."""

    run: LoadedRun
    answering: LoadedModel
    catalogue: Catalogue
    items: "ShardItems"
    dtype: torch.dtype
    """Of the matrix products."""

    def reading(self) -> ContentReading:
        """How the content of new items is read."""
        return reading_of(self.run.model.options, self.run.shards)


def open_run(
    home: Home,
    run_dir: Path,
    *,
    device: str = "auto",
    target: str | None = None,
    index: IndexChoice = "auto",
) -> OpenedRun:
    """The same as `open_model`, with what it was made of."""
    seen = Snapshot(run_dir / RECIPE, f"the run {run_dir}", command("recommend", run_dir))
    with seen.reading():
        run = load_run_whole(home, run_dir, device=device, target=target)
        version = version_of(run_dir)
    model, shards, about = run.model, run.shards, run.about
    on = next(model.parameters()).device
    dtype: torch.dtype = pick_precision(about["precision"], on)
    found = embed_catalogue(model, shards, dtype=dtype)
    source = ShardItems(shards)
    input_NW = found.input_ND.cpu().numpy()
    same = found.score_ND is found.input_ND
    score_ND = input_NW if same else found.score_ND.float().cpu().numpy()
    plain, specs = shards.with_activations({}), encoder_specs(model.options)
    answering = LoadedModel(
        TorchEncoder(
            model,
            n_items=shards.n_items,
            reading=lambda: reading_of(model.options, shards),
            whole=lambda side: vectors_trunk(specs[side], plain, on)[0],
            dtype=dtype,
        ),
        GrowingCatalogue(source.ids, input_NW, score_ND, found.count_N),
        source,
        version=version,
        chosen=popularity_of(about.get("popularity")),
        index=index,
        sample=lambda: _sample(shards),
    )
    return OpenedRun(run=run, answering=answering, catalogue=found, items=source, dtype=dtype)


def reading_of(options: ModelOptions, shards: Shards) -> ContentReading:
    """How a model reads the content of an item: as the shards of its target were made.

    Raises:
        InputError: the tokenizer cannot be had, or is not the one of the shards.
    """
    pictures = options.content in ("vision", "both")
    how: dict[str, Any] = {
        "picture_size": shards.picture_size if pictures else 0,
        "jpeg_quality": shards.jpeg_quality if pictures else 0,
    }
    if options.content not in ("text", "both"):
        return ContentReading(tokenizer=None, **how)
    made, spec = shards.tokenizer, encoder_specs(options)["text"]
    how["max_tokens"] = made["max_tokens"]
    # Frozen vectors may be of an encoder that has tokens of its own.
    own = own_tokenizer(spec, shards) if options.reads == "none" else None
    if own is not None:
        return ContentReading(tokenizer=own, **how)
    try:
        tokenizer = load_tokenizer(spec.encoder)
    except InputError:  # without tokenizer files it is taken to read those of the shards
        tokenizer = load_tokenizer(shards.text_encoder)
    if tokenizer.digest != made["sha256"]:
        raise InputError(
            f"the tokenizer of {spec.encoder} is not the one that made the tokens of {shards.place}"
        )
    return ContentReading(tokenizer=tokenizer, prefix=made.get("prefix", ""), **how)


def _sample(shards: Shards) -> list[Int64s]:
    """Histories of some users before their test item, by row; the same ones every time."""
    history = shards.sequences().history("test")
    draw = np.random.default_rng(0)
    users = draw.choice(len(history), min(USERS, len(history)), replace=False)
    return [history[int(user)].astype(np.int64) - 1 for user in users]


class ShardItems:
    """An `ItemSource` (`pmm.recommend.loaded_model`) over shards and what they were made from."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    @cached_property
    def ids(self) -> list[str]:
        """Raw ids of all items."""
        shards = self._shards
        if shards.home is not None and shards.home.target(shards.target).exists():
            place = shards.home.target(shards.target) / "items.parquet"
            ids: list[str] = read_table(place, TARGET_ITEMS, ["item_id"])["item_id"].to_pylist()
            return ids
        # Shards that were moved away from their home: a look at each item's record.
        return [str(shards.record(item)["item_id"]) for item in range(1, shards.n_items + 1)]

    def text(self, row: int) -> str:
        """The whole text."""
        return str(self._shards.record(row + 1).get("text") or "")

    def picture(self, row: int) -> bytes | None:
        """The JPEG of the shards."""
        return self._shards.jpeg(row + 1)

    def categories(self, row: int) -> tuple[str, ...]:
        """Those of the source's tables, where they are still there."""
        return self._categories[row]

    @cached_property
    def _categories(self) -> list[tuple[str, ...]]:
        nothing: list[tuple[str, ...]] = [()] * self._shards.n_items
        home = self._shards.home
        try:
            if home is None or not home.target(self._shards.target).exists():
                return nothing
            source = open_target(home, self._shards.target).config["source"]
            place = home.tables(source) / "items.parquet"
            if not place.is_file():
                return nothing
            listed = read_table(place, SOURCE_ITEMS, ["item_id", "categories"])
        except PmmError:  # categories are a filter; without them all else works
            return nothing
        wanted = pl.DataFrame({"item_id": self.ids})
        joined = wanted.join(pl.DataFrame(listed), on="item_id", how="left", maintain_order="left")
        return [tuple(each or ()) for each in joined["categories"].to_list()]


def version_of(run_dir: Path) -> str:
    """What tells a run's weights from others: twelve digits of their digest; "" without weights."""
    path = run_dir / BEST
    return sha256_of(path)[:12] if path.is_file() else ""
