"""The layout of MicroLens: `<M>_pairs.csv` or `_pairs.tsv`, `<M>_titles.csv`, `<M>_covers/`.

Pairs have the header user,item,timestamp; the `.tsv` holds histories without times and is read
where there is no `.csv`. Titles (header item,title; also `<M>_title_en.csv`) are quoted CSV.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pmm.ingest.sources.video.dataset_files import (
    DatasetFiles,
    FolderListing,
    IncompleteDataset,
    pictures_beside,
)
from pmm.ingest.sources.video.ninerec import Language

_MARKS: dict[Language, tuple[str, ...]] = {"zh": ("_zh", "_cn", "", "_en"), "en": ("_en", "")}
"""Language -> endings of a title file's name, the best first."""
_TITLES = tuple(f"_title{s}{mark}.csv" for s in ("s", "") for mark in ("", "_en", "_zh", "_cn"))
_PAIRS = ("_pairs.csv", "_pairs.tsv")


def find(listing: FolderListing) -> Iterator[DatasetFiles | IncompleteDataset]:
    """The datasets of this layout in a folder."""
    titles: dict[str, list[Path]] = {}
    for stem, name in listing.stems(*_TITLES):
        titles.setdefault(stem, []).append(listing.folder / name)
    for stem, paths in titles.items():
        pairs = listing.file(*(f"{stem}{ending}" for ending in _PAIRS))
        if pairs is None:
            yield IncompleteDataset(
                name=stem, missing=f"{stem}_pairs.csv or _pairs.tsv beside {paths[0]}"
            )
            continue
        yield DatasetFiles(
            name=stem,
            layout="MicroLens",
            interactions=pairs,
            titles=tuple(paths),
            pictures=pictures_beside(listing, stem, alone=len(titles) == 1),
        )
    for stem, name in listing.stems(*_PAIRS):
        if stem not in titles:
            yield IncompleteDataset(
                name=stem, missing=f"{stem}_titles.csv beside {listing.folder / name}"
            )


def choose_titles(paths: Sequence[Path], language: Language) -> Path:
    """The file of titles in a language; where none is marked with it, the one that is not marked.

    >>> names = [Path("M_titles.csv"), Path("M_title_en.csv")]
    >>> str(choose_titles(names, "en")), str(choose_titles(names, "zh"))
    ('M_title_en.csv', 'M_titles.csv')
    """
    for mark in _MARKS[language]:
        for path in paths:
            if (
                path.name.lower()
                .removesuffix(".gz")
                .endswith((f"_title{mark}.csv", f"_titles{mark}.csv"))
            ):
                return path
    return paths[0]
