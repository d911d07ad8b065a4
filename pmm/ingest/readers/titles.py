"""Files of item titles: a table of ids and texts, or lines of `item<TAB>title`."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import (
    MALFORMED,
    Dialect,
    damaged,
    head_of,
    in_any_encoding,
    sniff,
    stream,
)
from pmm.ingest.readers.text import LONGEST_RAW


class TooFewColumns(InputError):
    """A table without the column that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Titles:
    """What a file of titles holds."""

    rows: list[tuple[str, str]]
    """Item id, trimmed, and the raw title, in the order of the file."""
    drop_counts: Counter[str]
    """"read", and the malformed rows."""
    notes: dict[str, Any]
    """For the card: what was detected."""


def read_title_table(path: Path, text: int = 0) -> Titles:
    """Read a delimited file of items: id, then one text or several. A header may say otherwise.

    Args:
        path: the file, with or without header, texts quoted where they hold what separates fields
            or rows.
        text: which of the texts is the title, from 0.

    Raises:
        InputError: the file is missing, damaged or no table.
        TooFewColumns: it has no such text.
    """
    dialect, head = sniff(path)
    first = [field.strip() for field in head[0]]
    roles = find_roles(first, ["item", "title"])
    header = "item" in roles
    item = roles["item"] if header else 0
    title = [at for at in range(dialect.fields) if at != item][text : text + 1]
    if header and "title" in roles and not text:
        title = [roles["title"]]
    if not title:
        raise TooFewColumns(
            f"{path} has {dialect.fields} columns; expected are at least {text + 2}"
        )
    wanted = {"item": item, "title": title[0]}

    def read(dialect: Dialect) -> Titles:
        rows: list[tuple[str, str]] = []
        drop_counts: Counter[str] = Counter()
        for batch in stream(path, dialect, wanted, header=header, drop_counts=drop_counts):
            ids = pc.utf8_trim_whitespace(batch["item"].dictionary_decode())
            titles = (title[:LONGEST_RAW] for title in batch["title"].to_pylist())
            rows += zip(ids.to_pylist(), titles, strict=True)
        shown = {name: first[at] if header else f"field {at + 1}" for name, at in wanted.items()}
        notes = {**dialect.describe(), "header": header, "columns": shown}
        return Titles(rows=rows, drop_counts=drop_counts, notes=notes)

    return in_any_encoding(dialect, read)


def read_title_lines(path: Path) -> Titles:
    """Read lines of `item<TAB>title`; further tabs belong to the title, as spaces.

    A line without a tab is malformed: the rest of a title with a line break in it, or damage.

    Raises:
        InputError: the file is missing, empty, binary or damaged, or more than half of its lines
            have no tab.
    """
    rows: list[tuple[str, str]] = []
    drop_counts: Counter[str] = Counter()
    raw, _ = head_of(path, -1)
    encoding = _encoding(raw)
    for line in _lines(path, raw, encoding):
        drop_counts["read"] += 1
        item_id, tab, title = line.partition("\t")
        if tab:
            rows.append((item_id.strip(), title[:LONGEST_RAW].replace("\t", " ")))
        else:
            drop_counts[MALFORMED] += 1
    if not drop_counts["read"]:
        raise InputError(f"{path} is empty; expected is a line an item, item<TAB>title")
    if drop_counts[MALFORMED] * 2 > drop_counts["read"]:
        raise InputError(
            f"{path}: {drop_counts[MALFORMED]:,} of {drop_counts['read']:,} lines have no tab; "
            "expected is a line an item, item<TAB>title"
        )
    notes = {"encoding": encoding.removesuffix("-sig"), "columns": {"item": "field 1"}}
    return Titles(rows=rows, drop_counts=drop_counts, notes=notes)


def _encoding(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _lines(path: Path, raw: bytes, encoding: str) -> Iterator[str]:
    """The lines that hold something."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:  # UTF-16 (Latin-1 has no invalid bytes)
        raise damaged(path, error) from error
    if "\x00" in text:
        raise InputError(f"{path} is no text file: it holds NUL bytes")
    for line in io.StringIO(text, newline=None):
        content = line.rstrip("\n")
        if content.strip():
            yield content
