"""The tables that cross a stage boundary: columns, types and ranges, checked on write and read.

Items are numbered 1..N inside a target; 0 is padding. Users are numbered 0..U-1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pmm.errors import BrokenArtefact, SchemaError

PAD = 0
"""The item number that stands for no item."""

ROW_GROUP = 1 << 20
"""Rows of a Parquet row group (1,048,576)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A declared table: its name, its columns and the least value of each integer column."""

    name: str
    schema: pa.Schema
    least: dict[str, int]


def _table(name: str, columns: Sequence[tuple[str, pa.DataType, bool]], **least: int) -> Table:
    fields = [pa.field(column, kind, nullable=null) for column, kind, null in columns]
    return Table(name=name, schema=pa.schema(fields), least=least)


_ITEM_LIST = pa.list_(pa.field("element", pa.int32(), nullable=False))
_TEXT_LIST = pa.list_(pa.field("element", pa.string(), nullable=False))

INTERACTIONS = _table(
    "interactions",
    [
        ("user_id", pa.string(), False),
        ("item_id", pa.string(), False),
        ("timestamp", pa.int64(), True),  # UTC seconds
        ("order", pa.int64(), False),  # row number, below 2^33 * nanoseconds of the second
    ],
    order=0,
)
SOURCE_ITEMS = _table(
    "source items",
    [
        ("item_id", pa.string(), False),
        ("text", pa.string(), False),
        ("image", pa.string(), True),  # relative to the card's "pictures" folder
        ("categories", _TEXT_LIST, False),
    ],
)
ITEM_URLS = _table(
    "item URLs",
    [
        ("item_id", pa.string(), False),
        ("urls", _TEXT_LIST, False),  # of its picture, best first
    ],
)
TARGET_ITEMS = _table(
    "target items",
    [
        ("item", pa.int32(), False),
        ("item_id", pa.string(), False),
        ("text", pa.string(), False),
        ("image", pa.string(), True),
        ("train_count", pa.int32(), False),
    ],
    item=1,
    train_count=0,
)
SEQUENCES = _table(
    "sequences",
    [
        ("user", pa.int32(), False),
        ("user_id", pa.string(), False),
        ("train", _ITEM_LIST, False),
        ("valid", pa.int32(), False),
        ("test", pa.int32(), False),
    ],
    user=0,
    train=1,
    valid=1,
    test=1,
)
COLD = _table(
    "cold cuts",
    [
        ("user", pa.int32(), False),
        ("position", pa.int32(), False),  # in the user's whole sequence; the history is all before
        ("target", pa.int32(), False),
    ],
    user=0,
    position=1,
    target=1,
)
SHARD_ITEMS = _table(
    "shard items",
    [
        ("item", pa.int32(), False),
        ("status", pa.string(), False),  # "ok", "text-only" or "no-content"
        ("reason", pa.string(), True),
        ("width", pa.int32(), True),  # of the raw picture, in pixels
        ("height", pa.int32(), True),
        ("sha256", pa.string(), True),  # of the raw picture's bytes
    ],
    item=1,
    width=1,
    height=1,
)
RANKS = _table(
    "ranks",
    [
        ("user", pa.int32(), False),
        ("target", pa.int32(), False),
        ("rank", pa.int32(), False),  # 1 is best
        ("candidates", pa.int32(), False),
        ("train_count", pa.int32(), False),
    ],
    user=0,
    target=1,
    rank=1,
    candidates=1,
    train_count=0,
)
HISTORIES = _table(
    "histories",
    [
        ("user_id", pa.string(), False),
        ("items", _TEXT_LIST, False),  # raw ids, oldest first
    ],
)
RECOMMENDATIONS = _table(
    "recommendations",
    [
        ("user_id", pa.string(), False),
        ("item_id", pa.string(), False),
        ("rank", pa.int32(), False),  # 1 is best
        ("score", pa.float32(), False),
    ],
    rank=1,
)

BUNDLE_ITEMS = _table(
    "bundle items",
    [
        ("item_id", pa.string(), False),
        ("text", pa.string(), False),
        ("categories", _TEXT_LIST, False),
        ("train_count", pa.int64(), False),
        ("picture_offset", pa.int64(), False),  # in pictures.tar
        ("picture_size", pa.int32(), False),  # in bytes; 0: there is none
    ],
    train_count=0,
    picture_offset=0,
    picture_size=0,
)
BUNDLE_USERS = _table(
    "bundle users",
    [
        ("user_id", pa.string(), False),
        ("history", _ITEM_LIST, False),  # rows of the bundle's items, oldest first
        ("target", pa.int32(), False),  # the row of the true next item
        ("rank", pa.int32(), False),  # of it by evaluation, 1 is best
    ],
    history=0,
    target=0,
    rank=1,
)


def write_table(path: Path, table: pa.Table | Iterable[pa.RecordBatch], declared: Table) -> int:
    """Write a checked Parquet file (zstd, plain column types, no varying metadata).

    Args:
        path: where to write; the caller makes the write atomic (`pmm.storage.artefact`).
        table: a whole table, or record batches in order where the whole would not fit in memory.
            Dictionary-coded strings are accepted and read back as plain strings.
        declared: the schema that the rows must have.

    Returns:
        The number of rows written.

    Raises:
        SchemaError: a column is missing, unexpected, of another type, null or below its least.
    """
    parts = [table] if isinstance(table, pa.Table) else table
    rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for part in parts:
            piece = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
            piece = _conform(piece, declared, path)
            if writer is None:
                writer = _open_writer(path, piece.schema)
            writer.write_table(piece, row_group_size=ROW_GROUP)
            rows += piece.num_rows
        if writer is None:
            empty = declared.schema.empty_table()
            writer = _open_writer(path, empty.schema)
            writer.write_table(empty)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)


def read_table(path: Path, declared: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table (or some of its columns) and check it against its declared schema.

    Raises:
        BrokenArtefact: the file is missing or is no whole Parquet file.
        SchemaError: the columns are not the declared ones.
    """
    names = list(columns) if columns is not None else declared.schema.names
    try:
        with pq.ParquetFile(path) as file:
            wanted = names if columns is not None else None  # the whole: an extra column is a fault
            table = file.read(columns=wanted)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BrokenArtefact(
            f"{path}: cannot be read as a {declared.name} table ({error})"
        ) from error
    part = pa.schema([declared.schema.field(name) for name in names])
    return _conform(table, Table(name=declared.name, schema=part, least=declared.least), path)


def _conform(table: pa.Table, declared: Table, path: Path) -> pa.Table:
    """The table with its declared columns in order, or a SchemaError that names every fault."""
    missing = [name for name in declared.schema.names if name not in table.column_names]
    extra = [name for name in table.column_names if name not in declared.schema.names]
    if missing or extra:
        raise SchemaError(
            f"{path}: the {declared.name} table needs the columns {declared.schema.names}; "
            f"missing {missing}, unexpected {extra}"
        )
    faults: list[str] = []
    columns = []
    fields = []
    for field in declared.schema:
        column, kind = table[field.name], table[field.name].type
        coded = pa.types.is_dictionary(kind) and pa.types.is_string(field.type)
        try:
            column = column if coded else column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            faults.append(f"{field.name}: {kind} does not fit {field.type} ({error})")
            continue
        faults += _faults(column, field, declared.least.get(field.name))
        columns.append(column)
        fields.append(pa.field(field.name, column.type, nullable=field.nullable))
    if faults:
        raise SchemaError(f"{path}: the {declared.name} table is wrong: " + "; ".join(faults))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _faults(column: pa.ChunkedArray, field: pa.Field, least: int | None) -> list[str]:
    found = []
    if column.null_count and not field.nullable:
        found.append(f"{field.name}: {column.null_count} empty values")
    values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    if values is not column and values.null_count:
        found.append(f"{field.name}: {values.null_count} empty values inside lists")
    if least is not None and len(values):
        low = pc.min(values).as_py()
        if low is not None and low < least:
            found.append(f"{field.name}: found {low}, the least value allowed is {least}")
    return found
