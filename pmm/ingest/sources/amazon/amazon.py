"""Amazon: the review releases of 2014, 2018 and 2023 as tables and targets.

Interactions are reviews or ratings, the fullest kind that a category has; items are the metadata's
rows, joined on `asin`, in 2023 on `parent_asin`. The releases hold addresses of pictures only: they
are downloaded for the items of the core, or found in a folder of `<asin>.jpg`.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.ingest.download.picture_download import DownloadOptions, download_pictures
from pmm.ingest.download.picture_store import PictureStore
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.encodings import known_encoding
from pmm.ingest.sources.amazon.editions import Release, find_release
from pmm.ingest.sources.amazon.metadata import read_products
from pmm.ingest.sources.amazon.reviews import (
    Ratings,
    describe_ratings,
    plan_ratings,
    read_interactions,
)
from pmm.ingest.sources.source_registry import SourceEntry
from pmm.ingest.sources.source_request import PlatformRequest
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.tables.source_tables import RawSource, Reading, load_source, write_tables
from pmm.ingest.targets.rules import AMAZON_TARGETS
from pmm.ingest.targets.target_tables import (
    IngestOptions,
    SourceCore,
    choose_targets,
    write_targets,
)
from pmm.storage.artefact import Built, Digests
from pmm.storage.home import Home
from pmm.storage.json_files import read_json
from pmm.storage.schemas import ITEM_URLS, read_table


@dataclass(frozen=True, kw_only=True)
class AmazonFiles:
    """The files of a release, and where its pictures come from."""

    raw: Path | None
    """The folder of reviews and metadata (sub-folders of one level count); None = raw/amazon in
    the home folder."""
    categories: tuple[str, ...] = ()
    """Such as "AMAZON_FASHION", in any case; empty = all in the folder."""
    encoding: str | None = None
    """Of the ratings, where they are neither ASCII nor begin with a byte-order mark; None = as
    detected. Reviews and metadata are JSON, which is UTF-8."""
    images: Path | Literal["download"] | None = None
    """A folder of <asin>.jpg, "download" = fetch those of the core, None = no pictures."""
    download: DownloadOptions = field(default_factory=DownloadOptions)
    """Limits and patience of a download."""


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Where the pictures are, as the tables see it."""

    folder: Path | None
    digest: str
    path: Callable[[str], str | None]
    """Item id -> path below the folder."""
    outcomes: dict[str, int] | None = None
    notes: Callable[[pa.Table], dict[str, Any]] = lambda _: {}
    """Items with their pictures -> what a user should know of the files."""


def ingest_amazon(
    home: Home, files: AmazonFiles, targets: Sequence[str], options: IngestOptions
) -> list[dict[str, Any]]:
    """Read a release into tables/amazon and its targets; return the targets' cards.

    With `images="download"` the pictures are fetched of all items that would be in the core if
    every picture that has an address could be had, and the tables then name those that could.

    Args:
        home: where artefacts live.
        files: which files, and where pictures come from.
        targets: "Amazon", "Amazon Clothes", "Amazon Shoes"; empty = all.
        options: core, sample, split and so on.

    Raises:
        InputError: files are missing or damaged, an unknown category or target, nothing left.
    """
    choose_targets(AMAZON_TARGETS, targets)  # a misspelt name is refused before the files are read
    release = find_release((files.raw or home.raw("amazon")).resolve(), files.categories)
    match files.images:
        case "download":
            tables = _with_downloads(home, release, files, options)
        case None:
            if options.missing_image == "drop":
                raise InputError(
                    "Amazon's files hold no pictures, only their addresses, and items without a "
                    "picture are dropped. Fetch them with --images download, name a folder of "
                    "<asin>.jpg with --images DIR, or keep items by their text with "
                    "--missing-image text-only"
                )
            tables = write_tables(home, _raw(home, release, _no_images(), files.encoding))
        case folder:
            tables = write_tables(home, _raw(home, release, _images_in(folder), files.encoding))
    return write_targets(home, tables, AMAZON_TARGETS, (), targets, options)


def _with_downloads(
    home: Home, release: Release, files: AmazonFiles, options: IngestOptions
) -> Built:
    store = PictureStore(home.downloads("amazon"))
    tables = write_tables(home, _raw(home, release, _images_of(store), files.encoding))
    download_pictures(store, _wanted(tables, options), files.download)
    return write_tables(home, _raw(home, release, _images_of(store), files.encoding))


def _no_images() -> _Images:
    return _Images(folder=None, digest="none", path=lambda _: None)


def _images_in(folder: Path) -> _Images:
    pictures = PictureFolder(folder.resolve())
    return _Images(
        folder=pictures.folder,
        digest=pictures.digest(),
        path=pictures.of_item,
        notes=pictures.notes,
    )


def _images_of(store: PictureStore) -> _Images:
    paths = store.paths()
    return _Images(
        folder=store.folder, digest=store.digest(), path=paths.get, outcomes=store.counts()
    )


class _Wanted:
    """Items and the addresses of their pictures, made as they are asked for."""

    def __init__(self, urls: pa.Table) -> None:
        self._urls = urls

    def __len__(self) -> int:
        count: int = self._urls.num_rows
        return count

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        for batch in self._urls.to_batches(max_chunksize=10_000):
            ids, urls = batch["item_id"].to_pylist(), batch["urls"].to_pylist()
            yield from zip(ids, urls, strict=True)


def _wanted(tables: Built, options: IngestOptions) -> _Wanted:
    """The items of the core that there would be if every address led to a picture.

    Cores only shrink when rows go, so no other item's picture can be needed.
    """
    card = read_json(tables.place / "card.json", again="Ingest the source again")
    source = load_source("Amazon", tables.place, card)
    urls = read_table(tables.place / "urls.parquet", ITEM_URLS)
    named = pc.is_in(source.items["item_id"], value_set=urls["item_id"].combine_chunks())
    image = pc.if_else(named, "named", pa.scalar(None, pa.string()))
    at = source.items.schema.get_field_index("image")
    hopeful = replace(source, items=source.items.set_column(at, "image", image))
    rows, _, _ = SourceCore(lambda: hopeful, options).result
    ids = source.item_ids.take(pa.array(np.unique(rows.item)))
    return _Wanted(urls.filter(pc.is_in(urls["item_id"], value_set=ids)))


def _raw(home: Home, release: Release, images: _Images, encoding: str | None) -> RawSource:
    digests = Digests(home.root)
    files = (*release.interactions, *release.metadata)
    return RawSource(
        name="Amazon",
        config={
            "edition": release.edition,
            "left_aside": list(release.aside),
            "pictures": str(images.folder) if images.folder else None,
            **({"encoding": encoding} if encoding else {}),
        },
        inputs={**{each.name: digests.file(each.path) for each in files}, "images": images.digest},
        pictures=images.folder,
        read=lambda: _read(release, images, encoding),
        items_only=frozenset({"left_aside", "pictures", "images"}),
    )


def _read(release: Release, images: _Images, encoding: str | None) -> Reading:
    notes: Counter[str] = Counter()
    rows = ItemRows()
    read_products(release.metadata, release.edition, rows, notes)
    items, item_counts = rows.finish()
    urls, known = rows.urls(), rows.ids()
    ratings = [
        plan_ratings(each, release.edition, known, encoding=encoding)
        for each in release.interactions
        if each.kind == "ratings"
    ]
    outcomes = {} if images.outcomes is None else {"picture_outcomes": images.outcomes}
    drop_counts: Counter[str] = Counter()
    row_notes: dict[str, Any] = {}
    items = _with_images(items, images)
    return Reading(
        items=items,
        item_counts={**item_counts, "with_picture_urls": urls.num_rows, **notes},
        interactions=_counted(release, ratings, known, drop_counts, row_notes),
        row_counts=drop_counts,
        notes={"detected": {**release.describe(), **describe_ratings(ratings)}, **outcomes},
        row_notes=row_notes,
        picture_notes=images.notes(items),
        urls=urls,
    )


def _with_images(items: pa.Table, images: _Images) -> pa.Table:
    at = items.schema.get_field_index("image")
    found = [images.path(item_id) for item_id in items["item_id"].to_pylist()]
    return items.set_column(at, items.schema.field(at), pa.array(found, pa.string()))


def _counted(
    release: Release,
    ratings: Sequence[Ratings],
    known: Container[str],
    drop_counts: Counter[str],
    row_notes: dict[str, Any],
) -> Iterator[pa.Table]:
    """The interactions; at their end `row_notes` says how many items have no metadata."""
    unlisted: set[str] = set()
    notes: dict[str, Any] = {}
    for table in read_interactions(release, ratings, drop_counts, notes, row_notes):
        sold = pc.unique(table["item_id"]).to_pylist()
        unlisted.update(each for each in sold if each not in known)
        yield table
    row_notes.update(notes)
    row_notes["items_without_metadata"] = len(unlisted)


@dataclass(frozen=True, kw_only=True)
class AmazonRequest(PlatformRequest):
    """What `pmm ingest amazon` can be asked."""

    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/amazon")] = None
    """Folder of reviews and metadata."""
    category: Annotated[tuple[str, ...], Flag(group="data", shown="all there")] = ()
    """As in the files' names, e.g. All_Beauty; repeatable."""
    images: Annotated[str | None, Flag(group="data")] = None
    """A folder of <asin>.jpg; or the word download: fetch what is needed."""
    connections: Annotated[int, Flag(group="data")] = 8
    """With --images download: connections to a host at most."""
    edition: Annotated[Literal["2018", "2023"], Flag(group="data")] = "2018"
    """With --download: which release."""


def ingest_as_asked(request: AmazonRequest) -> list[dict[str, Any]]:
    """Amazon reviews of 2018 or 2023: reviews or ratings, and metadata."""
    encoding = known_encoding(request.encoding)
    request.fetch_if_asked("amazon", names=request.category, edition=request.edition)
    pictures: Path | Literal["download"] | None = None
    if request.images is not None:
        pictures = "download" if request.images == "download" else Path(request.images)
    files = AmazonFiles(
        raw=request.raw,
        categories=request.category,
        images=pictures,
        encoding=encoding,
        download=DownloadOptions(
            connections_per_host=request.connections,
            allow_private_addresses=request.allow_private_addresses,
        ),
    )
    return ingest_amazon(request.place(), files, request.target, request.options())


SOURCE = SourceEntry(
    request=AmazonRequest,
    ingest=ingest_as_asked,
    example="pmm ingest amazon --raw ~/amazon --category AMAZON_FASHION --images download",
)
