"""Known datasets as two delimited files: PixelRec, MovieLens, and what RecBole writes.

A preset says which files of a folder hold what, and names the columns of those without a header;
`pmm.ingest.sources.csv` reads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.ingest.download.raw_download import download_and_tell
from pmm.ingest.download.raw_guide import missing_raw
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import sniff
from pmm.ingest.readers.encodings import known_encoding
from pmm.ingest.readers.times import TimesAre
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.source_registry import SourceEntry
from pmm.ingest.sources.source_request import SourceRequest

KnownDataset = Literal["pixelrec", "movielens", "recbole"]


@dataclass(frozen=True, kw_only=True)
class PresetLayout:
    """How one release of a dataset is published. Names are compared in lower case, with or without
    `.gz` at the end."""

    interactions: tuple[str, ...]
    """Patterns of the file's name."""
    items: str | None
    """The file's name, `*` for the stem of the interactions'; None = the table whose header has
    an item and a title column."""
    columns: str | None = None
    """See `CsvFiles`."""
    item_columns: str | None = None
    pictures: tuple[str, ...]
    """Folders in which pictures are looked for where none is named."""


_POSTERS = ("posters", "images")
_GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary"),
    *("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi"),
    *("Thriller", "War", "Western"),
)

PRESETS: dict[KnownDataset, tuple[PresetLayout, ...]] = {
    "pixelrec": (
        PresetLayout(
            interactions=(
                *("pixel50k.csv", "pixelrec50k.csv", "pixel200k.csv"),
                *("pixel1m.csv", "pixel8m.csv", "pixelrec.csv"),
            ),
            items=None,
            pictures=("cover", "covers", "images"),
        ),
    ),
    "movielens": (
        # latest, latest-small, 20M, 25M, 32M
        PresetLayout(interactions=("ratings.csv",), items="movies.csv", pictures=_POSTERS),
        # 1M, 10M
        PresetLayout(
            interactions=("ratings.dat",),
            items="movies.dat",
            columns="user,item,rating,timestamp",
            item_columns="item,title,categories",
            pictures=_POSTERS,
        ),
        # 100K: id, title, release, video release, address, "unknown", 18 genres
        PresetLayout(
            interactions=("u.data",),
            items="u.item",
            columns="user,item,rating,timestamp",
            item_columns="item,title,-,-,-,-," + ",".join(f"tag {genre}" for genre in _GENRES),
            pictures=_POSTERS,
        ),
    ),
    "recbole": (
        PresetLayout(interactions=("*.inter",), items="*.item", pictures=("images", "cover")),
    ),
}
"""KnownDataset -> the layouts that are known."""


def preset_files(preset: KnownDataset, folder: Path, images: Path | None = None) -> CsvFiles:
    """The files of a known dataset in a folder, ready for `ingest_csv`.

    Args:
        preset: which dataset.
        folder: holds the files under the names they are published with.
        images: a folder of pictures named after the items' ids; None = the preset's usual folder
            inside `folder`, where there is one.

    Raises:
        InputError: files are missing, or several fit.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; expected is the folder that holds {preset}'s files")
    names = _names(folder)
    fitting = [(form, path) for form in PRESETS[preset] for path in _fitting(form, names)]
    if len(fitting) != 1:
        raise _not_one(preset, folder, [path for _, path in fitting])
    form, interactions = fitting[0]
    inside = (folder / name for name in form.pictures)
    return CsvFiles(
        interactions=interactions,
        items=_items(preset, folder, form, interactions, names),
        images=images or next((path for path in inside if path.is_dir()), None),
        columns=form.columns,
        item_columns=form.item_columns,
    )


def _names(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by their names in lower case, without `.gz`."""
    found: dict[str, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file():
                found.setdefault(path.name.lower().removesuffix(".gz"), []).append(path)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from error
    return found


def _fitting(form: PresetLayout, names: dict[str, list[Path]]) -> Iterator[Path]:
    for name, paths in names.items():
        if any(fnmatch(name, pattern) for pattern in form.interactions):
            yield from paths


def _not_one(preset: KnownDataset, folder: Path, found: list[Path]) -> InputError:
    if found:
        return InputError(
            f"{folder}: {_listed(found)} all hold interactions of {preset}; leave one of them "
            "there, or name the files with --interactions and --items"
        )
    wanted = [name for form in PRESETS[preset] for name in form.interactions]
    lack = [f"{' or '.join(wanted)} (interactions)"]
    forms = PRESETS[preset]
    for below in sorted(folder.iterdir()) if folder.is_dir() else ():
        if below.is_dir() and any(True for form in forms for _ in _fitting(form, _names(below))):
            lack.append(f"one of them is in {below}: name that folder")
    return missing_raw(preset, folder, lack)


def _items(
    preset: KnownDataset,
    folder: Path,
    form: PresetLayout,
    interactions: Path,
    names: dict[str, list[Path]],
) -> Path:
    """The one items file that belongs to the interactions."""
    if form.items is None:
        found = [
            path
            for name, paths in names.items()
            for path in paths
            if name.endswith(".csv") and path != interactions and _holds_items(path)
        ]
        wanted = "a .csv whose first line has item_id and title (items)"
    else:
        stem = interactions.name.removesuffix(".gz").rpartition(".")[0]
        wanted = form.items.replace("*", stem)
        found = names.get(wanted.lower(), [])
    if not found:
        raise missing_raw(preset, folder, [f"{wanted}, which belongs to {interactions.name}"])
    if len(found) > 1:
        raise InputError(
            f"{folder}: {_listed(found)} all hold items of {preset}; leave one of them there, or "
            "name the files with --interactions and --items"
        )
    return found[0]


def _holds_items(path: Path) -> bool:
    try:
        _, head = sniff(path)
    except InputError:
        return False
    roles = find_roles(head[0], ["item", "title", "user"])
    return roles.keys() == {"item", "title"}


def _listed(paths: list[Path]) -> str:
    *others, last = [path.name for path in paths]
    return f"{', '.join(others)} and {last}"


@dataclass(frozen=True, kw_only=True)
class CsvRequest(SourceRequest):
    """What `pmm ingest csv` can be asked."""

    name: Annotated[str, Flag(group="data")]
    """The name of the new dataset."""
    interactions: Annotated[Path | None, Flag(group="data")] = None
    """One row an interaction: user, item, time."""
    items: Annotated[Path | None, Flag(group="data")] = None
    """One row an item: id, title, description, image; left out: known by their ids alone."""
    images: Annotated[Path | None, Flag(group="data")] = None
    """Folder of pictures, found by path or by item id."""
    columns: Annotated[str | None, Flag(group="data")] = None
    """Columns of interactions: user,item,rating,timestamp in order, or user=NAME,item=3; or
    user,items, a list a user."""
    item_columns: Annotated[str | None, Flag(group="data")] = None
    """Columns of items: item,title,-,categories in order, or item=NAME,title=3."""
    times: Annotated[TimesAre | None, Flag(group="data", shown="found out by looking")] = None
    """What the times are: a unit since 1970, any growing numbers, or which part of 07/04/2017."""
    min_rating: Annotated[float | None, Flag(group="data")] = None
    """Drop rows with a lower rating."""
    drop_identical: Annotated[bool, Flag(group="data")] = False
    """Drop rows that are equal to an earlier one in every field."""
    encoding: Annotated[str | None, Flag(group="data")] = None
    """Of delimited files, e.g. gb18030; left out, it is detected."""
    preset: Annotated[KnownDataset | None, Flag(group="data")] = None
    """Find the files of a known dataset in the folder --raw."""
    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/PRESET")] = None
    """With --preset: the folder."""
    download: Annotated[tuple[str, ...], Flag(group="data")] = ()
    """With --preset: first fetch this release, e.g. ml-1m."""
    allow_private_addresses: Annotated[bool, Flag(group="data")] = False
    """Downloads: ask addresses of this machine and its network too."""


def ingest_as_asked(request: CsvRequest) -> list[dict[str, Any]]:
    """Any user-item-time table.

    Delimited by `,` `;` tab `::` `|` or white space, with or without header, gz, plain or .xlsx.
    """
    files = replace(
        _files(request),
        times=request.times,
        min_rating=request.min_rating,
        drop_identical=request.drop_identical,
    )
    return ingest_csv(request.place(), request.name, files, request.options())


def _files(request: CsvRequest) -> CsvFiles:
    """The files that a request names, or that its preset finds.

    Raises:
        InputError: it names both, or none; or a preset finds nothing.
    """
    if request.preset is not None:
        if request.interactions or request.items or request.columns or request.item_columns:
            raise InputError(
                "--preset finds --interactions, --items, --columns and --item-columns itself"
            )
        folder = request.raw or request.place().raw(request.preset)
        if request.download:
            private = request.allow_private_addresses
            names = request.download
            download_and_tell(request.preset, folder, names=names, allow_private=private)
        found = preset_files(request.preset, folder, request.images)
        return replace(found, encoding=known_encoding(request.encoding))
    if request.raw or request.download:
        raise InputError("--raw and --download go with --preset; give --interactions and --items")
    if request.interactions is None:
        raise InputError(
            "give --interactions FILE, and --items FILE where items have titles; or --preset "
            "pixelrec, movielens or recbole"
        )
    return CsvFiles(
        interactions=request.interactions,
        items=request.items,
        images=request.images,
        columns=request.columns,
        item_columns=request.item_columns,
        encoding=known_encoding(request.encoding),
    )


SOURCE = SourceEntry(
    request=CsvRequest,
    ingest=ingest_as_asked,
    example="pmm ingest csv --name shop --interactions ratings.csv --items items.csv",
)
