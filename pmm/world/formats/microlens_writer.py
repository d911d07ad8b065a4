"""Writes the Kwai source in the layout of MicroLens-50k.

`MicroLens-50k_pairs.csv` (user, item, timestamp, in no telling order) or `MicroLens-50k_pairs.tsv`
(user, tab, items in order), `MicroLens-50k_titles.csv`, `MicroLens-50k_covers/<item>.jpg`; and
`item_categories.csv`, which MicroLens lacks: the department of each item, by which Kwai Food, Kwai
Movie and Kwai Cartoon are carved. Ids are plain numbers, as there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pmm.storage.artefact import storage_errors
from pmm.world.formats.defects import Defects, title_with_defect
from pmm.world.formats.raw_files import (
    RawDataset,
    item_text,
    plan_dataset,
    subject_of,
    write_lines,
    write_pictures,
    write_rows,
)
from pmm.world.generate import World

RELEASE = "MicroLens-50k"
START_MS = 1_577_836_800_000  # 2020-01-01 00:00 UTC
UNIT_MS = 4 * 3_600_000


def write_microlens(
    world: World,
    folder: Path,
    defects: Defects | None = None,
    *,
    pairs: Literal["csv", "tsv"] = "csv",
    crlf: bool = False,
) -> dict[str, dict[str, int]]:
    """Write the Kwai source; the same world gives the same bytes, also over an existing folder.

    Times are UTC milliseconds; among rows with the same time of one user the file order is the true
    order.

    Args:
        defects: what to plant; a small share of everything by default. There are no descriptions:
            the defects of texts go into titles.
        pairs: one row an interaction, or one a user (without times).
        crlf: end the lines of CSV files with CR LF, as one published copy does.

    Returns:
        rows, users, items, pictures, tied rows, and the planted defects by kind, of "Kwai".

    Raises:
        StorageError: the folder cannot be written.
    """
    dataset = plan_dataset(world, "Kwai", defects, order="scattered" if pairs == "csv" else "user")
    items = [plain_id(raw) for raw in world.item_ids("Kwai")]
    end = "\r\n" if crlf else "\n"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        covers = folder / f"{RELEASE}_covers"
        paths = {number: covers / f"{items[number]}.jpg" for number in dataset.numbers}
        pictures = write_pictures(world, "Kwai", paths, dataset.plan)
        write_rows(folder / f"{RELEASE}_titles.csv", _titles(world, dataset), line_end=end)
        write_rows(folder / "item_categories.csv", _categories(world, dataset), line_end=end)
        match pairs:
            case "csv":
                write_rows(folder / f"{RELEASE}_pairs.csv", _pairs(world, dataset), line_end=end)
                (folder / f"{RELEASE}_pairs.tsv").unlink(missing_ok=True)
            case "tsv":
                write_lines(folder / f"{RELEASE}_pairs.tsv", _walks(world, dataset))
                (folder / f"{RELEASE}_pairs.csv").unlink(missing_ok=True)
    counts = dataset.counts(pictures)
    return {"Kwai": counts if pairs == "csv" else {**counts, "tied_rows": 0}}


def plain_id(raw: str) -> str:
    """The number of an item or user, as MicroLens has it.

    >>> plain_id("v104233")
    '104233'
    """
    return raw.lstrip("uv")


def _titles(world: World, dataset: RawDataset) -> Iterator[tuple[str, str]]:
    raw = world.item_ids("Kwai")
    yield "item", "title"
    for number in dataset.numbers:
        title = item_text(world, "Kwai", number).title
        yield (
            plain_id(raw[number]),
            title_with_defect(title, dataset.plan.texts.get(number), number),
        )


def _categories(world: World, dataset: RawDataset) -> Iterator[tuple[str, str]]:
    raw = world.item_ids("Kwai")
    yield "item", "category"
    for number in dataset.numbers:
        yield plain_id(raw[number]), subject_of(world, "Kwai", number)


def _pairs(world: World, dataset: RawDataset) -> Iterator[tuple[str, str, str]]:
    items, users = world.item_ids("Kwai"), world.user_ids("Kwai")
    yield "user", "item", "timestamp"
    for user, item, time in dataset.rows():
        yield plain_id(users[user]), plain_id(items[item]), str(START_MS + time * UNIT_MS)


def _walks(world: World, dataset: RawDataset) -> Iterator[str]:
    items, users = world.item_ids("Kwai"), world.user_ids("Kwai")
    for user, walk in dataset.walks().items():
        yield f"{plain_id(users[user])}\t{' '.join(plain_id(items[item]) for item in walk)}"
