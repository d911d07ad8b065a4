"""The layout of NineRec: `<D>_pair.csv`, `<D>_item.csv` and pictures in `<D>_cover/`.

Pairs have no header, in an order that is detected (`pmm.ingest.readers.pairs`). Items are quoted
CSV: id, Chinese, English. `<D>_behaviour.tsv` (histories without times) is read where there are no
pairs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pmm.errors import InputError
from pmm.ingest.readers.titles import Titles, TooFewColumns, read_title_table
from pmm.ingest.sources.video.dataset_files import (
    DatasetFiles,
    FolderListing,
    IncompleteDataset,
    pictures_beside,
)

Language = Literal["zh", "en"]

_SHARED = "Source_Bili_2M_cover"
"""The pictures of Bili_2M and of Bili_500K."""


def find(listing: FolderListing) -> Iterator[DatasetFiles | IncompleteDataset]:
    """The datasets of this layout in a folder."""
    stems = list(listing.stems("_item.csv"))
    for stem, name in stems:
        pairs = listing.file(f"{stem}_pair.csv", f"{stem}_behaviour.tsv")
        if pairs is None:
            missing = f"{stem}_pair.csv or {stem}_behaviour.tsv beside {listing.folder / name}"
            yield IncompleteDataset(name=stem, missing=missing)
            continue
        yield DatasetFiles(
            name=stem,
            layout="NineRec",
            interactions=pairs,
            titles=(listing.folder / name,),
            pictures=_pictures(listing, stem, alone=len(stems) == 1),
        )
    for stem, name in listing.stems("_pair.csv", "_behaviour.tsv"):
        if listing.file(f"{stem}_item.csv") is None:
            yield IncompleteDataset(
                name=stem, missing=f"{stem}_item.csv beside {listing.folder / name}"
            )


def _pictures(listing: FolderListing, stem: str, *, alone: bool) -> Path | None:
    """A dataset's pictures; both sources have one folder, perhaps a level or two above."""
    if stem.lower().removeprefix("source_") not in ("bili_2m", "bili_500k"):
        return pictures_beside(listing, stem, alone=alone)
    names = (_SHARED, "Bili_2M_cover")
    found = pictures_beside(listing, stem, *names, alone=alone)
    if found:
        return found
    parent, grandparent, *_ = (*listing.folder.absolute().parents, Path("/"), Path("/"))
    above = (
        folder / name for folder in (parent, parent / "Bili_2M", grandparent) for name in names
    )
    return next((place for place in above if place.is_dir()), None)


def read_titles(path: Path, language: Language, encoding: str | None = None) -> Titles:
    """The items with their titles in one language.

    Raises:
        InputError: the file is missing, damaged or no table, or has no English column.
    """
    if language == "zh":
        return read_title_table(path, encoding=encoding)
    try:
        return read_title_table(path, text=1, encoding=encoding)
    except TooFewColumns as error:
        raise InputError(
            f"{error}. The third column (id, Chinese, English) is what --language en reads: leave "
            "--language out, or get the file that has it"
        ) from error
