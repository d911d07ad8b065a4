"""H&M: the files of the Kaggle competition h-and-m-personalized-fashion-recommendations.

Read: `transactions_train.csv` (t_dat, customer_id, article_id), `articles.csv`, and the pictures
below `images/`. Text (paper IV-A: descriptions, plus "categorical tags ... to distinguish products
with the same descriptions"): `detail_desc`, or `prod_name` where there is none, then the tags of
`CATEGORY_COLUMNS`; colour and pattern are among them because the variants of one product share
their description.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.ingest.download.raw_guide import missing_raw
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.delimited import describe_columns, sniff, stream
from pmm.ingest.readers.encodings import known_encoding
from pmm.ingest.readers.text import clean_text, join_text
from pmm.ingest.readers.times import TimeForm, detect_times
from pmm.ingest.sources.source_registry import SourceEntry
from pmm.ingest.sources.source_request import PlatformRequest
from pmm.ingest.tables.interactions import Cleaner
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.tables.source_tables import RawSource, Reading, write_tables
from pmm.ingest.targets.rules import HM_TARGETS
from pmm.ingest.targets.target_tables import IngestOptions, choose_targets, write_targets
from pmm.storage.artefact import Digests
from pmm.storage.home import Home

TRANSACTIONS, ARTICLES, IMAGES = "transactions_train.csv", "articles.csv", "images"
COMPETITION = "https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations"

CATEGORY_COLUMNS = (
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "section_name",
)
"""Columns of articles.csv that become tags of the text and entries of `categories`, in order."""

_TRANSACTION_COLUMNS = {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat"}
_ARTICLE_COLUMNS = ("article_id", "prod_name", "detail_desc", *CATEGORY_COLUMNS)
_DIGITS = 10


def ingest_hm(
    home: Home,
    raw: Path | None,
    targets: Sequence[str],
    options: IngestOptions,
    *,
    encoding: str | None = None,
) -> list[dict[str, Any]]:
    """Read H&M's raw files into tables/hm and its targets; return the targets' cards.

    Args:
        home: where artefacts live.
        raw: the folder with the competition's files; None = raw/hm in the home folder.
        targets: "HM", "HM Clothes", "HM Shoes"; empty = all.
        options: core, sample, split and so on.
        encoding: of the two tables, where they are neither ASCII nor begin with a byte-order mark;
            None = as detected.

    Raises:
        InputError: files or columns are missing or damaged, an unknown target, nothing left.
    """
    choose_targets(HM_TARGETS, targets)  # a misspelt name is refused before the files are read
    tables = write_tables(home, _raw(home, (raw or home.raw("hm")).resolve(), encoding))
    return write_targets(home, tables, HM_TARGETS, CATEGORY_COLUMNS, targets, options)


def repair_ids(ids: pa.Array) -> pa.Array:
    """Article ids as ten digits, where a spreadsheet or pandas has made numbers of them.

    >>> repair_ids(pa.array(["0108775015", "108775015", "768465001.0", "v12", ""])).to_pylist()
    ['0108775015', '0108775015', '0768465001', 'v12', '']
    """
    whole = pc.and_(pc.equal(pc.utf8_length(ids), _DIGITS), pc.utf8_is_decimal(ids))
    if pc.all(whole).as_py():
        return ids
    return pa.array([_repair_id(each) for each in ids.to_pylist()], pa.string())


def _repair_id(raw: str) -> str:
    number = re.fullmatch(r"(\d{1,10})(?:\.0*)?", raw)
    return number[1].zfill(_DIGITS) if number else raw


def _raw(home: Home, folder: Path, encoding: str | None = None) -> RawSource:
    _require_files(folder)
    pictures = PictureFolder(folder / IMAGES) if (folder / IMAGES).is_dir() else None
    digests = Digests(home.root)
    return RawSource(
        name="HM",
        config={
            "pictures": str(pictures.folder) if pictures else None,
            **({"encoding": encoding} if encoding else {}),
        },
        inputs={
            TRANSACTIONS: digests.file(folder / TRANSACTIONS),
            ARTICLES: digests.file(folder / ARTICLES),
            IMAGES: pictures.digest() if pictures else "none",
        },
        pictures=pictures.folder if pictures else None,
        read=lambda: _read(folder, pictures, encoding),
    )


def _require_files(folder: Path) -> None:
    if folder.is_file():
        raise InputError(
            f"--raw {folder} is a file; expected is the folder that holds {TRANSACTIONS}, "
            f"{ARTICLES} and {IMAGES}/"
        )
    missing = [name for name in (TRANSACTIONS, ARTICLES) if not (folder / name).is_file()]
    if not missing:
        return
    raise missing_raw("hm", folder, missing)


def _read(folder: Path, pictures: PictureFolder | None, encoding: str | None) -> Reading:
    items, item_counts, articles = _read_articles(folder / ARTICLES, pictures, encoding)
    drop_counts: Counter[str] = Counter()
    path = folder / TRANSACTIONS
    dialect, head = sniff(path, encoding=encoding)
    wanted = _positions(path, head[0], _TRANSACTION_COLUMNS)
    place = f"{path}, column t_dat"

    def days() -> Iterator[pa.Array]:
        at = {"day": wanted["timestamp"]}
        for batch in stream(path, dialect, at, header=True, drop_counts=Counter()):
            yield batch["day"].dictionary

    first = [row[wanted["timestamp"]] for row in head[1:] if len(row) == dialect.fields]
    times = detect_times(first, place, whole=days) or TimeForm(unit="date")
    cleaner = Cleaner(place=place, unit=times, repair=repair_ids)
    notes = dialect.describe()
    batches = stream(path, dialect, wanted, header=True, drop_counts=drop_counts, notes=notes)
    row_notes: dict[str, Any] = {}
    return Reading(
        items=items,
        item_counts=item_counts,
        interactions=cleaner.clean(batches, drop_counts, row_notes),
        row_counts=drop_counts,
        row_notes=row_notes,
        notes={"detected": {TRANSACTIONS: notes, **({ARTICLES: articles} if articles else {})}},
        picture_notes=pictures.notes(items) if pictures else {},
    )


def _read_articles(
    path: Path, pictures: PictureFolder | None, encoding: str | None
) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """The items, their drop_counts, and what was odd in the file."""
    dialect, head = sniff(path, encoding=encoding)
    wanted = _positions(path, head[0], {name: name for name in _ARTICLE_COLUMNS})
    rows, notes = ItemRows(), dict[str, Any]()
    for batch in stream(
        path,
        dialect,
        wanted,
        header=True,
        drop_counts=rows.drop_counts,
        ids=_ARTICLE_COLUMNS[:1],
        notes=notes,
    ):
        for article in _articles(batch):
            item_id = article["article_id"]
            tags = [clean_text(article[name]) for name in CATEGORY_COLUMNS]
            described = clean_text(article["detail_desc"]) or clean_text(article["prod_name"])
            image = pictures.of_item(item_id) if pictures else None
            rows.add(item_id, join_text(described, tags), image, tags)
    odd = dialect.encoding.name != "utf-8"
    return *rows.finish(), {**(dialect.describe() if odd else {}), **notes}


def _articles(batch: pa.RecordBatch) -> Iterator[dict[str, str]]:
    ids = repair_ids(pc.utf8_trim_whitespace(batch["article_id"].dictionary_decode()))
    columns = [ids if name == "article_id" else batch[name] for name in _ARTICLE_COLUMNS]
    for values in zip(*(column.to_pylist() for column in columns), strict=True):
        yield dict(zip(_ARTICLE_COLUMNS, values, strict=True))


def _positions(path: Path, header: Sequence[str], columns: dict[str, str]) -> dict[str, int]:
    """Our name -> position of the column of H&M's name.

    Raises:
        InputError: columns are missing.
    """
    names = [name.strip() for name in header]
    missing = [name for name in columns.values() if name not in names]
    if missing:
        raise InputError(
            f"{path}: the columns {describe_columns(missing)} are missing; its first line has "
            f"{describe_columns(names)}. Expected is the file of {COMPETITION}, "
            "with its header"
        )
    return {ours: names.index(theirs) for ours, theirs in columns.items()}


@dataclass(frozen=True, kw_only=True)
class HmRequest(PlatformRequest):
    """What `pmm ingest hm` can be asked."""

    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/hm")] = None
    """The competition's files."""


def ingest_as_asked(request: HmRequest) -> list[dict[str, Any]]:
    """H&M's Kaggle files: transactions_train.csv, articles.csv, images/."""
    encoding = known_encoding(request.encoding)
    request.fetch_if_asked("hm")
    return ingest_hm(
        request.place(),
        request.raw,
        request.target,
        request.options(),
        encoding=encoding,
    )


SOURCE = SourceEntry(
    request=HmRequest,
    ingest=ingest_as_asked,
    example='pmm ingest hm --raw ~/hm --target "HM Shoes"',
)
