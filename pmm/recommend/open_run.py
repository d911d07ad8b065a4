"""A run's folder and the shards of its target -> a model that answers."""

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch

from pmm.advice import command
from pmm.arrays import Int64s
from pmm.errors import PmmError
from pmm.evaluate.catalogue import embed_catalogue
from pmm.ingest.targets.target_tables import open_target
from pmm.recommend.catalogue_state import GrowingCatalogue
from pmm.recommend.item_index import USERS, IndexChoice
from pmm.recommend.loaded_model import LoadedModel, popularity_of
from pmm.recommend.torch_encoder import TorchEncoder
from pmm.runs.device import pick_precision
from pmm.runs.folder import RECIPE
from pmm.runs.loading import load_run
from pmm.runs.weights import BEST
from pmm.shards.read import Shards
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
    seen = Snapshot(run_dir / RECIPE, f"the run {run_dir}", command("recommend", run_dir))
    with seen.reading():
        model, shards, about = load_run(home, run_dir, device=device, target=target)
        version = version_of(run_dir)
    on = next(model.parameters()).device
    dtype: torch.dtype = pick_precision(about["precision"], on)
    found = embed_catalogue(model, shards, dtype=dtype)
    source = ShardItems(shards)
    input_NW = found.input_ND.cpu().numpy()
    same = found.score_ND is found.input_ND
    score_ND = input_NW if same else found.score_ND.float().cpu().numpy()
    return LoadedModel(
        TorchEncoder(model, shards, dtype),
        GrowingCatalogue(source.ids, input_NW, score_ND, found.count_N),
        source,
        version=version,
        chosen=popularity_of(about.get("popularity")),
        index=index,
        sample=lambda: _sample(shards),
    )


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
