"""New items from a CSV and a folder of pictures, added to a model as ingest reads items."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.ids import nfc
from pmm.ingest.readers.plain_file import require_file
from pmm.ingest.sources.csv import read_items
from pmm.progress import progress
from pmm.recommend.answers import NewItem
from pmm.recommend.loaded_model import LoadedModel
from pmm.shards.jpeg import PictureError, read_file

logger = logging.getLogger(__name__)

AT_ONCE = 64
"""Items that are read and encoded together; more pictures are never held."""
NO_PICTURE = "without a usable picture, known by their text alone"
NOTHING = "left out: no text and no picture that the model reads"


class NewItemFile:
    """A file of items and the folder of their pictures."""

    def __init__(self, path: Path, images: Path | None) -> None:
        """Read the list of items; pictures are looked up, not read.

        Raises:
            InputError: the file or the folder is missing, damaged or empty, or has not the columns.
        """
        require_file(path, "--items")
        self._path, self._folder = path, None if images is None else PictureFolder(images)
        table, counts, notes = read_items(path, None, self._folder)
        self._rows: list[dict[str, Any]] = table.to_pylist()
        if not self._rows:
            raise InputError(
                f"--items {path} holds no item. Expected is a row an item: item_id, text"
            )
        for reason, count in counts["dropped"].items():
            logger.warning("%s: %s: %s", path.name, reason, f"{count:,}")
        if images is None and "image" in notes["columns"]:
            logger.warning(
                "%s names pictures, but no --images DIR says where they are: the items are known "
                "by their text alone",
                path.name,
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def pictures(self) -> list[Path]:
        """The files of all pictures that the items have."""
        if self._folder is None:
            return []
        named = (row["image"] for row in self._rows if row["image"] is not None)
        return [self._folder.folder / name for name in named]

    def add_to(self, model: LoadedModel) -> dict[str, int]:
        """Let a model recommend the items; how many were added, and what was odd of how many.

        An item of which the model can make nothing is left out, one whose picture is none is known
        by its text, as shards have it; both are told.

        Raises:
            InputError: the model knows items one by one, or can make nothing of any.
        """
        if model.encoder.cannot_add:
            raise InputError(model.encoder.cannot_add)
        odd: Counter[str] = Counter()
        first: dict[str, str] = {}
        added = 0
        with progress(len(self), "Encoding new items", "items") as bar:
            for start in range(0, len(self), AT_ONCE):
                rows = self._rows[start : start + AT_ONCE]
                items = [self._item(row, odd, first) for row in rows]
                added += sum(1 for _ in _added(model, items, odd, first))
                bar.advance(len(rows))
        if not added:
            raise InputError(f"--items {self._path}: {first[NOTHING]}, and so it is with all items")
        for reason, count in odd.items():
            logger.warning(
                "%s: %s items %s, e.g. %s", self._path.name, f"{count:,}", reason, first[reason]
            )
        return {"items added": added, **{f"new items {reason}": n for reason, n in odd.items()}}

    def _item(self, row: dict[str, Any], odd: Counter[str], first: dict[str, str]) -> NewItem:
        image = None
        if self._folder is not None:
            try:
                if row["image"] is None:
                    raise PictureError("no-image")
                image = read_file(self._folder.folder, row["image"])
            except PictureError as error:
                _count(odd, first, NO_PICTURE, f"{row['item_id']!r} ({error})")
        return NewItem(
            item_id=nfc(row["item_id"]),
            text=row["text"],
            image=image,
            categories=tuple(row["categories"]),
        )


def _added(
    model: LoadedModel, items: Sequence[NewItem], odd: Counter[str], first: dict[str, str]
) -> Iterator[str]:
    """Add items; where that fails, one by one: without its picture, or not at all."""
    try:
        model.add_items(items, keep_pictures=False)
        yield from (each.item_id for each in items)
    except InputError as error:
        if len(items) > 1:
            for each in items:
                yield from _added(model, [each], odd, first)
        elif items[0].image is not None and items[0].text:
            _count(odd, first, NO_PICTURE, str(error))
            yield from _added(model, [replace(items[0], image=None)], odd, first)
        else:
            _count(odd, first, NOTHING, str(error))


def _count(odd: Counter[str], first: dict[str, str], reason: str, example: str) -> None:
    odd[reason] += 1
    first.setdefault(reason, example)
