"""Writes any target as plain CSV: interactions.csv, items.csv, images/<item_id>.jpg."""

from collections.abc import Iterator
from pathlib import Path

from pmm.storage.artefact import storage_errors
from pmm.world.formats.defects import Defects, text_with_defect
from pmm.world.formats.raw_files import (
    RawDataset,
    item_text,
    plan_dataset,
    write_pictures,
    write_rows,
)
from pmm.world.generate import World

_START = 1_577_836_800  # 2020-01-01 00:00 UTC
_UNIT = 4 * 3600


def write_csv(
    world: World, target_name: str, folder: Path, defects: Defects | None = None
) -> dict[str, int]:
    """Write a source or a target; the same world gives the same bytes, also over an existing
    folder.

    Interactions stand in order of time; among rows with the same time of one user the file order is
    the true order. Timestamps are UTC seconds.

    Args:
        defects: what to plant; a small share of everything by default. `stripped_ids` does not
        apply.

    Returns:
        rows, users, items, pictures, tied rows, and the planted defects by kind.

    Raises:
        InputError: no such target.
        StorageError: the folder cannot be written.
    """
    dataset = plan_dataset(world, target_name, defects)
    raw = world.item_ids(dataset.collection)
    with storage_errors(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        paths = {number: folder / "images" / f"{raw[number]}.jpg" for number in dataset.numbers}
        pictures = write_pictures(world, dataset.collection, paths, dataset.plan)
        write_rows(folder / "items.csv", _item_rows(world, dataset))
        write_rows(folder / "interactions.csv", _interaction_rows(world, dataset))
    return dataset.counts(pictures)


def _item_rows(world: World, dataset: RawDataset) -> Iterator[tuple[str, ...]]:
    raw = world.item_ids(dataset.collection)
    yield "item_id", "title", "description"
    for number in dataset.numbers:
        text = item_text(world, dataset.collection, number)
        yield (
            raw[number],
            text.title,
            text_with_defect(text.description, dataset.plan.texts.get(number)),
        )


def _interaction_rows(world: World, dataset: RawDataset) -> Iterator[tuple[str, ...]]:
    items, users = world.item_ids(dataset.collection), world.user_ids(dataset.collection)
    yield "user_id", "item_id", "timestamp"
    for user, item, time in dataset.rows():
        yield users[user], items[item], str(_START + time * _UNIT)
