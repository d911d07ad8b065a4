"""The categories of a target's items, read from the tables that it was made from.

No artefact behind the tables holds them, and none need be made anew to have them: shards know the
target that they were made from, and a target its tables.
"""

from pathlib import Path

import polars as pl

from pmm.data.categories import Categories, numbered
from pmm.errors import MissingArtefact
from pmm.ingest.sources.main_categories import main_categories
from pmm.ingest.targets.target_tables import command_to_ingest, open_target
from pmm.shards.read import Shards
from pmm.storage.artefact import open_artefact, snapshot
from pmm.storage.schemas import SOURCE_ITEMS, TARGET_ITEMS, read_table
from pmm.storage.verify import require_whole

WITHOUT_THEM = "--set model.negatives=source --set train.sequences=whole"
"""Options that train without categories."""
_TO_DO_WITHOUT = f"To train without categories: {WITHOUT_THEM}"
_ITEMS = "items.parquet"


def read_categories(shards: Shards) -> Categories:
    """The categories of the items of a target's shards.

    Raises:
        MissingArtefact: the target or its tables are not there.
        StaleArtefact, BrokenArtefact: they are others than the shards were made from, or damaged.
    """
    home = shards.home
    if home is None:
        raise MissingArtefact(
            f"{shards.place} lies in no home folder, so nothing says of which category its items "
            f"are. {_TO_DO_WITHOUT}"
        )
    again = command_to_ingest(home, shards.target)
    target = _there(home.target(shards.target), shards, again)
    manifest = open_target(home, shards.target)
    tables = _there(home.tables(manifest.config["source"]), shards, again)
    with snapshot(target, f"the target {shards.target}", again).reading():
        require_whole(target, manifest.files, [_ITEMS], made_by=again)
        ids = read_table(target / _ITEMS, TARGET_ITEMS, ["item_id"])
    with snapshot(tables, "the tables", again).reading():
        about = open_artefact(tables, kind="tables", made_by=again)
        require_whole(tables, about.files, [_ITEMS], made_by=again)
        listed = read_table(tables / _ITEMS, SOURCE_ITEMS, ["item_id", "categories"])
    known = pl.DataFrame(listed)
    known = known.with_columns(main_categories(about.config, known["categories"]).alias("main"))
    table = pl.DataFrame(ids).join(known, on="item_id", how="left", maintain_order="left")
    return numbered(table["main"])


def _there(place: Path, shards: Shards, again: str) -> Path:
    if not place.exists():
        raise MissingArtefact(
            f"{place} is not there, which says of which category the items of {shards.target} "
            f"are. Run: {again}. {_TO_DO_WITHOUT}"
        )
    return place
