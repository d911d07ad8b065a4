"""Files of histories: a line a user, `user<TAB>item item …` in the order of time, no times.

So are the users' files of the paper's published code, MicroLens' `_pairs.tsv` and NineRec's
`_behaviour.tsv` written. A row is one item of a line; a line that holds none is one row too.

Others put commas between the items, write lists with brackets, or separate the user by a space or
not name one at all: `detect_histories` finds out by the ids of the items file.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import assigned, find_roles, names_stand_above
from pmm.ingest.readers.delimited import (
    BAD_ID,
    MALFORMED,
    Dialect,
    describe_columns,
    sniff,
    stream,
)
from pmm.ingest.readers.encodings import MARK, REPLACEMENT, Block, find_encoding, read_blocks
from pmm.ingest.readers.plain_file import HEAD_BYTES, head_of

NO_ITEMS = "user without items"
"""The reason under which lines with a user and no item are counted."""

Between = Literal["space", "comma", "semicolon", "bar"]
_MARKS: dict[Between, str] = {"comma": ",", "semicolon": ";", "bar": "|"}
_BRACKETS = r"[\[\](){}'\"]"

_KNOWN = 0.5
"""Least share of the items of lists that the items file lists."""
_WHOLE = 0.1
"""Largest share of the lists that are, as a whole, an id of the items file."""
_LISTS = 0.05
"""Least share of rows that hold several items."""
_WORDS, _LONG = 0.9, 5
"""Where a line has no column of its own for the user: least share of known ids among its words, and
least number of words where all lines have as many (fewer may be a user, an item and a rating)."""
_FOREIGN = 0.5
"""Largest share of known ids among the first words of lines, relative to the others, where the
first word is a user."""


@dataclass(frozen=True, kw_only=True)
class HistoryLayout:
    """How a file of histories is read."""

    dialect: Dialect
    header: bool = False
    user: int | None = 0
    """Position of the column; None where a line has no column of its own for it."""
    items: int = 1
    between: Between = "space"
    brackets: bool = False
    """Whether a list is written as [a, b]."""
    first_is_user: bool = False
    """Whether the first word of `items` is the user; without it and `user` a line is a user."""
    decided_by: str = ""

    def describe(self) -> dict[str, Any]:
        """The layout in words, for the card."""
        user = f"field {self.user + 1}" if self.user is not None else "the line"
        return {
            **self.dialect.describe(),
            "form": "histories",
            "header": self.header,
            "columns": {
                "user": "the first word" if self.first_is_user else user,
                "items": f"field {self.items + 1}, a {self.between} between items",
            },
            "decided by": self.decided_by,
            "time": "none: items in order",
        }


def sniff_histories(path: Path, *, encoding: str | None = None) -> Dialect:
    """The dialect of a file of histories with a tab behind the user.

    Raises:
        InputError: it is missing, empty, binary or damaged, or none of its first lines has a tab.
    """
    dialect, head = sniff(path, encoding=encoding)
    if dialect.delimiter != "\t" and not any("\t" in field for row in head for field in row):
        raise InputError(
            f"{path}: its first lines have no tab; expected is a line a user, "
            "user<TAB>item item …, with spaces between the items"
        )
    return dataclasses.replace(
        dialect, delimiter="\t", quoted=False, fields=2, trailing=False, row_names=False
    )


def detect_histories(
    path: Path, known: Collection[str], columns: str | None = None, *, encoding: str | None = None
) -> HistoryLayout | None:
    """How a file of histories is written; None where it is none.

    A field holds lists if it has several words in some rows, and these words, not the whole field,
    are ids of the items file.

    Args:
        path: the file.
        known: ids of the items file.
        columns: names of its columns in order, with "items" among them; None = find out.
        encoding: of the file, where the user named it.

    Raises:
        InputError: it is missing, empty, binary or damaged, the columns do not fit it, or it cannot
            be told whether the first word of a line is a user or an item.
    """
    if columns is None:
        return _found(path, frozenset(known), encoding)
    alone = re.split(r"\s*,\s*", columns.strip())
    if alone in (["items"], ["user", "items"]):
        layout = _words_by_ids(path, frozenset(known), encoding, first_is_user=alone[0] == "user")
        if layout is not None:
            return layout
    named = None if "=" in columns else len(alone)
    dialect, head = sniff(path, encoding=encoding, fields=named)
    order, by_name = assigned(columns, head[0], str(path))
    names = [name.strip() for name in order.split(",")]
    roles = find_roles(names, ["user", "items"])
    if "items" not in roles:
        return None
    others = [name for at, name in enumerate(names) if at not in roles.values() and name != "-"]
    if others:
        raise InputError(
            f"--columns {columns}: {describe_columns(others)} beside a list of items is not read; "
            "name the columns user, items, and - for what is not read"
        )
    if len(names) != dialect.fields:
        raise InputError(
            f"--columns {columns} names {len(names)} columns, but the rows of {path} have "
            f"{dialect.fields}"
        )
    at = roles["items"]
    header = by_name or _is_header(head, at)
    values = [row[at] for row in head[header:] if len(row) == dialect.fields]
    return HistoryLayout(
        dialect=dialect,
        header=header,
        user=roles.get("user"),
        items=at,
        between=_evidence(values, frozenset(known)).between,
        brackets=_bracketed(values),
        decided_by="--columns",
    )


def refuse_lists(values: Sequence[str], known: Collection[str], option: str, place: str) -> None:
    """Refuse lists of items that are taken for ids of single ones.

    Args:
        values: the first ones of the column.
        known: ids of the items file.
        option: of the command, that took them so.
        place: the file, for the error.

    Raises:
        InputError: they are lists.
    """
    evidence = _evidence(values, frozenset(known))
    if evidence.are_lists():
        instead = re.sub(r"\bitem(_?id)?\b(?=\s*([,=]|$))", "items", option)
        raise InputError(
            f"--columns {option} takes a field of {place} as the id of one item, but it holds "
            f"lists, e.g. {evidence.example[:60]!r}. If a line is a user's history: "
            f'--columns "{instead}"'
        )


def _lines(path: Path, encoding: str | None) -> tuple[Dialect, list[str]]:
    """Lines as one field each."""
    _, packed = head_of(path)
    found = find_encoding(path, encoding)
    head = next(read_blocks(path, found.name, HEAD_BYTES), Block(first=1, data=b""))
    text = head.data.decode().replace(MARK, REPLACEMENT)
    lines = [line for line in text.split("\n") if line.strip()][:1000]
    tabs = any("\t" in line for line in lines)
    dialect = Dialect(
        encoding=found,
        delimiter="|" if tabs else "\t",  # one that does not occur
        quoted=False,
        packed=packed,
        fields=1,
    )
    return dialect, lines


def _found(path: Path, known: frozenset[str], encoding: str | None) -> HistoryLayout | None:
    try:
        dialect, head = sniff(path, encoding=encoding, fields=2)
    except InputError:
        return _words_by_ids(path, known, encoding)
    roles = find_roles(head[0], ["user", "items", "item", "time"])
    at = roles.get("items", roles.get("item"))
    if at is None and dialect.fields == 2:
        at = 1
    header = {"user", "items"} <= roles.keys() or _is_header(head, at or 0)
    values = [row[at] for row in head[header:] if len(row) == dialect.fields] if at else []
    evidence = _evidence(values, known)
    if at is None or not evidence.are_lists():
        return None if roles else _words_by_ids(path, known, encoding)
    return HistoryLayout(
        dialect=dialect,
        header=header,
        user=roles.get("user", next(n for n in (0, 1) if n != at)),
        items=at,
        between=evidence.between,
        brackets=_bracketed(values),
        decided_by=evidence.describe(at, len(values)),
    )


def _is_header(head: list[list[str]], items: int) -> bool:
    return bool(find_roles(head[0], ["user", "items", "item"])) or names_stand_above(head, items)


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    between: Between
    known: float
    """Share of the words that are ids of the items file."""
    whole: float
    """Share of the fields with several words that are such ids as a whole."""
    several: float
    """Share of the fields that hold several words."""
    example: str

    def are_lists(self) -> bool:
        return self.several >= _LISTS and self.known >= _KNOWN and self.whole <= _WHOLE

    def describe(self, at: int, rows: int) -> str:
        return (
            f"ids of the items file are {100 * self.known:.1f} % of the words of field {at + 1} "
            f"and {100 * self.whole:.1f} % of the fields as a whole in the first {rows:,} rows"
        )


def _evidence(values: Sequence[str], known: frozenset[str]) -> _Evidence:
    """What a field holds, under the mark between words that gives most known ids."""
    found = []
    for between in ("space", *_MARKS):
        lists = [split_items(value, between) for value in values]
        several = [value for value, words in zip(values, lists, strict=True) if len(words) > 1]
        words = [word for each in lists for word in each]
        found.append(
            _Evidence(
                between=between,
                known=sum(word in known for word in words) / max(1, len(words)),
                whole=sum(value.strip() in known for value in several) / max(1, len(several)),
                several=len(several) / max(1, len(values)),
                example=several[0] if several else "",
            )
        )
    return max(found, key=lambda each: (each.known if each.several else 0.0, each.several))


def split_items(value: str, between: Between) -> list[str]:
    """The items of a list.

    >>> split_items(" a  b ", "space"), split_items("['a', 'b']", "comma")
    (['a', 'b'], ['a', 'b'])
    """
    plain = re.sub(_BRACKETS, "", value) if _bracketed([value]) else value
    words = plain.split() if between == "space" else plain.split(_MARKS[between])
    return [word.strip() for word in words if word.strip()]


def _bracketed(values: Sequence[str]) -> bool:
    filled = [value.strip() for value in values if value.strip()]
    return bool(filled) and all(value[0] in "[(" and value[-1] in "])" for value in filled)


def _words_by_ids(
    path: Path, known: frozenset[str], encoding: str | None, first_is_user: bool | None = None
) -> HistoryLayout | None:
    """Of lines of words: whether they are histories, by the ids of the items file."""
    dialect, lines = _lines(path, encoding)
    if not lines:
        return None
    best = _evidence(lines, known)
    words = [split_items(line, best.between) for line in lines]
    lengths = {len(each) for each in words}
    rest = [word for each in words for word in each[first_is_user is not False :]]
    share = sum(word in known for word in rest) / max(1, len(rest))
    told_apart = first_is_user is not None or len(lengths) > 1 or min(lengths) >= _LONG
    many = sum(len(each) > 2 for each in words) >= _LISTS * len(words)
    if share < _WORDS or not told_apart or not many:
        return None
    first = sum(each[0] in known for each in words if each) / max(1, len(words))
    decided_by = "--columns"
    if first_is_user is None:
        decided_by = (
            f"ids of the items file are {100 * first:.1f} % of the first words and "
            f"{100 * share:.1f} % of the others in the first {len(lines):,} lines"
        )
        if first > _FOREIGN * share:
            raise InputError(
                f"{path}: is the first word of a line a user or an item? {decided_by}. Say which "
                'with --columns "user,items" or --columns "items"'
            )
        first_is_user = True
    return HistoryLayout(
        dialect=dialect,
        user=None,
        items=0,
        first_is_user=first_is_user,
        header=bool(find_roles(words[0], ["user", "items"])),
        between=best.between,
        brackets=_bracketed(lines),
        decided_by=decided_by,
    )


def stream_histories(
    path: Path,
    dialect: Dialect,
    drop_counts: Counter[str],
    layout: HistoryLayout | None = None,
    notes: dict[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """One row an item: `user_id` and `item_id`, dictionary-encoded, in the order of the file.

    Runs of spaces count as one. A user with two lines has the items of both, in file order.

    Args:
        path: the file.
        dialect: from `sniff_histories`, or that of the layout.
        drop_counts: counts under "read" the items, the lines without an item (also under
            `NO_ITEMS`) and the lines with another number of fields (also under `MALFORMED`).
        layout: from `detect_histories`; None = the user, a tab, and items with spaces between.
        notes: as `stream` has them.

    Raises:
        InputError: the file is damaged, or more than half of its lines are malformed.
    """
    layout = layout or HistoryLayout(dialect=dialect)
    lines: Counter[str] = Counter()
    wanted = {"items": layout.items}
    if layout.user is not None:
        wanted = {"user_id": layout.user, **wanted}
    seen = 0
    try:
        for batch in stream(
            path,
            dialect,
            wanted,
            header=layout.header,
            drop_counts=lines,
            ids=wanted,
            notes=notes,
        ):
            rows, without = _rows(batch, layout, seen)
            seen += batch.num_rows
            drop_counts[NO_ITEMS] += without
            drop_counts["read"] += without + rows.num_rows
            yield rows
    finally:
        for reason in (MALFORMED, BAD_ID):
            if lines[reason]:
                drop_counts[reason] += lines[reason]
                drop_counts["read"] += lines[reason]


def stream_lists(
    path: Path, layout: HistoryLayout, drop_counts: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """One row a line: `user_id`, and `items`, its list, which is empty where it holds none.

    Args:
        path: the file.
        layout: from `detect_histories`.
        drop_counts: as `stream` has them.

    Raises:
        InputError: the file is damaged, or more than half of its lines are malformed.
    """
    wanted = {"items": layout.items}
    if layout.user is not None:
        wanted = {"user_id": layout.user, **wanted}
    how: dict[str, Any] = {"header": layout.header, "drop_counts": drop_counts, "ids": wanted}
    seen = 0
    for batch in stream(path, layout.dialect, wanted, **how, notes={}):
        users, line, item = _users(batch, layout, seen, *_split(batch, layout))
        seen += batch.num_rows
        counts = np.bincount(line.to_numpy(), minlength=batch.num_rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, item)
        yield pa.RecordBatch.from_arrays([users.dictionary_decode(), lists], ["user_id", "items"])


def _rows(batch: pa.RecordBatch, layout: HistoryLayout, seen: int) -> tuple[pa.RecordBatch, int]:
    """The items of a batch of lines with their users, and how many lines hold none."""
    users, line, item = _users(batch, layout, seen, *_split(batch, layout))
    rows = pa.RecordBatch.from_arrays(
        [users.take(line), item.dictionary_encode()], ["user_id", "item_id"]
    )
    return rows, batch.num_rows - pc.count_distinct(line).as_py()


def _split(batch: pa.RecordBatch, layout: HistoryLayout) -> tuple[pa.Array, pa.Array]:
    """The words of a batch of lines, and in which line each stands."""
    values = batch["items"].dictionary_decode()
    if layout.brackets:
        values = pc.replace_substring_regex(values, _BRACKETS, "")
    if layout.between == "space":
        lists = pc.ascii_split_whitespace(values)
    else:
        lists = pc.split_pattern(values, _MARKS[layout.between])
    line, item = pc.list_parent_indices(lists), pc.list_flatten(lists)
    if layout.between != "space":
        item = pc.utf8_trim_whitespace(item)
    present = pc.not_equal(item, "")  # spaces at either end leave an empty piece
    if not pc.all(present).as_py():
        line, item = line.filter(present), item.filter(present)
    return line, item


def _users(
    batch: pa.RecordBatch, layout: HistoryLayout, seen: int, line: pa.Array, item: pa.Array
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The user of each line; the lines and items, without the first word where that is the user."""
    if layout.user is not None:
        return batch["user_id"], line, item
    if not layout.first_is_user:
        numbers = pa.array(np.arange(seen + 1, seen + 1 + batch.num_rows)).cast(pa.string())
        return numbers.dictionary_encode(), line, item
    at = line.to_numpy()
    first = np.diff(at, prepend=-1) != 0
    users = np.full(batch.num_rows, "", object)
    users[at[first]] = item.filter(pa.array(first)).to_pylist()
    rest = pa.array(~first)
    return pa.array(users, pa.string()).dictionary_encode(), line.filter(rest), item.filter(rest)
