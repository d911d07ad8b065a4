"""Histories from a file of any of three kinds: delimited text, JSON lines, Parquet.

Each may be long, a row an interaction (user_id, item_id[, timestamp]), or wide, a row a user
(user_id, items: a list, oldest first). What it is, is found out by its content and by the names of
its columns; these are the names that `pmm ingest csv` knows.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pmm.errors import InputError
from pmm.ingest.readers.columns import ALIASES, Role, find_roles
from pmm.ingest.readers.delimited import describe_columns, sniff, stream
from pmm.ingest.readers.histories import HistoryLayout, detect_histories, stream_lists
from pmm.ingest.readers.json_block import JsonField, read_line, split_lines, text_of
from pmm.ingest.readers.json_lines import LinesFile, read_blocks, sniff_lines, stream_lines
from pmm.ingest.readers.plain_file import head_of, require_file
from pmm.ingest.readers.times import TimeForm, detect_times
from pmm.ingest.sources.csv_rows import choose_time, with_clock
from pmm.ingest.tables.interactions import Cleaner
from pmm.progress import progress

logger = logging.getLogger(__name__)

BATCH_ROWS = 1 << 16
"""Rows that are read of a Parquet file at a time."""
_ROLES: tuple[Role, ...] = ("user", "items", "item", "time")
_EXPECTED = (
    "Expected are the columns user_id and item_id (and timestamp, if the rows are not in order of "
    "time), a row an interaction; or user_id and items, a row a user with the list of items, "
    "oldest first"
)


@dataclass(frozen=True, kw_only=True)
class HistoryRows:
    """A file of histories, opened."""

    wide: bool
    """Whether a row is a user."""
    tables: Iterator[pa.Table]
    """Wide: user_id and items, lists of strings, as they are written. Long: the columns of
    `pmm.storage.schemas.INTERACTIONS`."""
    drop_counts: Counter[str]
    """At the end, rows that were left out, by reason."""


def open_histories(path: Path, known: Collection[str]) -> HistoryRows:
    """What a file of histories holds.

    Args:
        path: the file.
        known: ids of the catalogue; they tell lists of items from single ones.

    Raises:
        InputError: it is missing, empty or damaged, has not the columns, or times that are none.
    """
    require_file(path, "--users")
    head, _ = head_of(path, 4_096)
    if not head.strip():
        raise InputError(f"--users {path} is empty. {_EXPECTED}")
    counts: Counter[str] = Counter()
    if head.startswith(b"PAR1"):
        return _parquet(path, counts)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"{":
        return _json_lines(path, counts)
    if start == b"[" and path.name.removesuffix(".gz").endswith("json"):
        raise InputError(
            f"--users {path} is one JSON list: write an object a line (JSON lines). {_EXPECTED}"
        )
    return _delimited(path, known, counts)


def _require(roles: Mapping[Role, Any], names: Sequence[str], path: Path) -> bool:
    """Whether the named columns are those of a row a user.

    Raises:
        InputError: they are no histories at all.
    """
    if "user" in roles and ("items" in roles or "item" in roles):
        return "item" not in roles
    lacking: Role = "item" if "user" in roles else "user"
    raise InputError(
        f"{path}: no {lacking} column found among {describe_columns(list(names))}. {_EXPECTED}. "
        f"Names that are known for {lacking}: {', '.join(ALIASES[lacking][:8])}, …"
    )


# --- Delimited text.


def _delimited(path: Path, known: Collection[str], counts: Counter[str]) -> HistoryRows:
    layout = _layout(path, known)
    if isinstance(layout, HistoryLayout):
        batches = stream_lists(path, layout, counts)
        tables = (pa.Table.from_batches([batch]) for batch in batches)
        return HistoryRows(wide=True, tables=tables, drop_counts=counts)
    dialect, head = sniff(path)
    names = [name.strip() for name in head[0]]
    wanted = {"user_id": layout["user"], "item_id": layout["item"]}
    form = None
    if "time" in layout:
        wanted["timestamp"], clock = choose_time(names, head[1:])
        wanted |= {} if clock is None else {"clock": clock}
        at = [wanted[name] for name in ("timestamp", "clock") if name in wanted]
        rows = [row for row in head[1:] if len(row) == dialect.fields]
        samples = [" ".join(row[each] for each in at) for row in rows]

        def whole() -> Iterator[pa.Array]:
            for batch in stream(path, dialect, wanted, header=True, drop_counts=Counter[str]()):
                yield _with_days(batch)["timestamp"].dictionary

        form = detect_times(samples, f"{path}, column {names[at[0]]!r}", whole=whole)
    batches = stream(path, dialect, wanted, header=True, drop_counts=counts, notes={})
    return _long(path, map(_with_days, batches), form, counts)


def _layout(path: Path, known: Collection[str]) -> HistoryLayout | dict[Role, int]:
    """How lines hold lists, or the positions of the columns."""
    unread: InputError | None = None
    names: list[str] = []
    try:
        names = [name.strip() for name in sniff(path)[1][0]]
    except InputError as error:  # no delimiter but between the items, perhaps
        unread = error
    roles = find_roles(names, _ROLES)
    if "user" in roles and "items" in roles and "item" not in roles:
        columns = f"user={roles['user'] + 1},items={roles['items'] + 1}"
        found = detect_histories(path, known, columns)
        assert found is not None
        return found
    layout = None
    try:
        layout = detect_histories(path, known)
    except InputError as error:
        unread = unread or error
    if layout is not None:
        return layout
    if not names and unread is not None:
        raise unread
    _require(roles, names, path)
    return roles


def _with_days(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The time of day behind the day, where it has a column of its own."""
    if "clock" not in batch.schema.names:
        return batch
    columns = [batch["user_id"], batch["item_id"], with_clock(batch)]
    return pa.RecordBatch.from_arrays(columns, ["user_id", "item_id", "timestamp"])


def _long(
    path: Path, batches: Iterator[pa.RecordBatch], form: TimeForm | None, counts: Counter[str]
) -> HistoryRows:
    cleaner = Cleaner(place=f"{path}, times", unit=form)
    return HistoryRows(wide=False, tables=cleaner.clean(batches, counts), drop_counts=counts)


# --- JSON lines.


def _json_lines(path: Path, counts: Counter[str]) -> HistoryRows:
    file = sniff_lines(path)
    names = list(dict.fromkeys(name for each in file.head[:100] for name in each))
    roles = find_roles(names, _ROLES)
    wide = _require(roles, names, path)
    key = {role: names[at] for role, at in roles.items()}
    if wide or any(isinstance(each.get(key["item"]), list) for each in file.head):
        items = key["items" if wide else "item"]
        return HistoryRows(
            wide=True, tables=_json_lists(file, key["user"], items, counts), drop_counts=counts
        )
    fields = [JsonField(name="user_id", keys=(key["user"],))]
    fields.append(JsonField(name="item_id", keys=(key["item"],)))
    form = None
    if "time" in key:
        fields.append(JsonField(name="timestamp", keys=(key["time"],)))

        def whole() -> Iterator[pa.Array]:
            for batch in stream_lines(
                [file], fields, drop_counts=Counter[str](), notes=Counter[str]()
            ):
                yield batch["timestamp"].dictionary

        samples = [text_of(each.get(key["time"])) for each in file.head]
        form = detect_times(samples, f"{path}, key {key['time']!r}", whole=whole)
    batches = stream_lines([file], fields, drop_counts=counts, notes=Counter[str]())
    return _long(path, batches, form, counts)


def _json_lists(file: LinesFile, user: str, items: str, counts: Counter[str]) -> Iterator[pa.Table]:
    with progress(None, f"reading {file.path.name}", "lines") as bar:
        for block in read_blocks(file, counts):
            users, lists = [], []
            lines = split_lines(block)
            for line in lines:
                value, _ = read_line(line)
                listed = value.get(items) if value is not None else None
                if value is None or not (listed is None or isinstance(listed, list)):
                    counts["line without a list of items"] += 1
                    continue
                users.append(_id(value.get(user)))
                lists.append([_id(each) for each in listed or ()])
            counts["read"] += len(lines)
            bar.advance(len(lines))
            arrays = [pa.array(users, pa.string()), pa.array(lists, pa.list_(pa.string()))]
            yield pa.Table.from_arrays(arrays, ["user_id", "items"])
    read, lost = counts["read"], counts["line without a list of items"]
    if lost * 2 > read:
        raise InputError(
            f"{file.path}: {lost:,} of {read:,} lines have no list under {items!r}. {_EXPECTED}"
        )


def _id(value: object) -> str:
    """An id as text; "" of what is none, as NaN."""
    return "" if value != value else text_of(value)


# --- Parquet.


def _parquet(path: Path, counts: Counter[str]) -> HistoryRows:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a Parquet file ({error})") from error
    roles = find_roles(schema.names, _ROLES)
    wide = _require(roles, schema.names, path)
    named: dict[str, str] = {"user_id": schema.names[roles["user"]]}
    items = schema.names[roles["items" if wide else "item"]]
    wide = _is_list(schema.field(items).type)
    if "items" in roles and "item" not in roles and not wide:
        raise InputError(
            f"{path}: the column {items!r} holds {schema.field(items).type}, expected a list. "
            f"{_EXPECTED}"
        )
    named["items" if wide else "item_id"] = items
    form = None
    if not wide and "time" in roles:
        named["timestamp"] = schema.names[roles["time"]]
    for name, column in named.items():
        _require_ids(schema.field(column), path, time=name == "timestamp")
    if wide:
        tables = (pa.Table.from_batches([batch]) for batch in _batches(path, named, counts))
        return HistoryRows(wide=True, tables=tables, drop_counts=counts)
    if "timestamp" in named:
        form = detect_times(
            next(_batches(path, named, Counter()), {"timestamp": pa.array([], pa.string())})[
                "timestamp"
            ]
            .slice(0, 1_000)
            .to_pylist(),
            f"{path}, column {named['timestamp']!r}",
            whole=lambda: (
                batch["timestamp"].dictionary_decode() for batch in _batches(path, named, Counter())
            ),
        )
    return _long(path, _batches(path, named, counts), form, counts)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _require_ids(field: pa.Field, path: Path, *, time: bool) -> None:
    kind = field.type.value_type if _is_list(field.type) else field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    text = text or pa.types.is_string_view(kind)
    if text or pa.types.is_integer(kind) or (time and not pa.types.is_nested(kind)):
        return
    raise InputError(
        f"{path}: the column {field.name!r} holds {kind}, expected text or whole numbers. (Whole "
        "numbers with empty ones among them turn into fractions in some programs: write them as "
        "text.)"
    )


def _batches(
    path: Path, named: Mapping[str, str], counts: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The named columns as text, dictionary-encoded where they are no lists; empty for null."""
    try:
        with (
            pq.ParquetFile(path) as file,
            progress(file.metadata.num_rows, f"reading {path.name}", "rows") as bar,
        ):
            for batch in file.iter_batches(BATCH_ROWS, columns=list(named.values())):
                columns = [_text(batch[column]) for column in named.values()]
                counts["read"] += batch.num_rows
                bar.advance(batch.num_rows)
                yield pa.RecordBatch.from_arrays(columns, list(named))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a Parquet file ({error})") from error


def _text(column: pa.Array) -> pa.Array:
    if _is_list(column.type):
        return column.cast(pa.list_(pa.string()))
    return column.cast(pa.string()).fill_null("").dictionary_encode()
