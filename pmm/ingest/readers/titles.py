"""Files of item titles: a table of ids and texts, or lines of `item<TAB>title`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import BAD_ID, MALFORMED, sniff, stream, tell
from pmm.ingest.readers.encodings import MARK, REPLACEMENT, find_encoding, read_blocks
from pmm.ingest.readers.records import Places
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


def read_title_table(path: Path, text: int = 0, *, encoding: str | None = None) -> Titles:
    """Read a delimited file of items: id, then one text or several. A header may say otherwise.

    Args:
        path: the file, with or without header, texts quoted where they hold what separates fields
            or rows.
        text: which of the texts is the title, from 0.
        encoding: of the file, where the user named it.

    Raises:
        InputError: the file is missing, damaged or no table.
        TooFewColumns: it has no such text.
    """
    dialect, head = sniff(path, encoding=encoding)
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
    shown = {name: first[at] if header else f"field {at + 1}" for name, at in wanted.items()}
    notes = {**dialect.describe(), "header": header, "columns": shown}
    rows: list[tuple[str, str]] = []
    drop_counts: Counter[str] = Counter()
    for batch in stream(path, dialect, wanted, header=header, drop_counts=drop_counts, notes=notes):
        ids = pc.utf8_trim_whitespace(batch["item"].dictionary_decode())
        titles = (title[:LONGEST_RAW] for title in batch["title"].to_pylist())
        rows += zip(ids.to_pylist(), titles, strict=True)
    return Titles(rows=rows, drop_counts=drop_counts, notes=notes)


def read_title_lines(path: Path, *, encoding: str | None = None) -> Titles:
    """Read lines of `item<TAB>title`; further tabs belong to the title, as spaces.

    A line without a tab is malformed: the rest of a title with a line break in it, or damage.

    Args:
        path: the file.
        encoding: of it, where the user named it.

    Raises:
        InputError: the file is missing, empty, binary or damaged, or more than half of its lines
            have no tab.
    """
    rows: list[tuple[str, str]] = []
    drop_counts: Counter[str] = Counter()
    found = find_encoding(path, encoding)
    malformed, bad_ids, replaced = Places(), Places(), Places()
    for number, line in _lines(path, found.name):
        drop_counts["read"] += 1
        item_id, tab, title = line.partition("\t")
        if not tab:
            malformed.add(number)
        elif MARK in item_id:
            bad_ids.add(number)
        else:
            if MARK in title:
                replaced.add(number)
            title = title[:LONGEST_RAW].replace(MARK, REPLACEMENT).replace("\t", " ")
            rows.append((item_id.strip(), title))
    if not drop_counts["read"]:
        raise InputError(f"{path} is empty; expected is a line an item, item<TAB>title")
    if malformed.count * 2 > drop_counts["read"]:
        raise InputError(
            f"{path}: {malformed.count:,} of {drop_counts['read']:,} lines have no tab; "
            "expected is a line an item, item<TAB>title"
        )
    drop_counts.update({MALFORMED: malformed.count, BAD_ID: bad_ids.count})
    told = {
        "lines_without_a_tab": malformed,
        f"rows_with_ids_that_are_not_{found.name}": bad_ids,
        f"rows_with_bytes_that_are_not_{found.name}": replaced,
    }
    then = "U+FFFD in their place"
    odd = {
        what: f"{places.count:,} ({places.where()}), {then if places is replaced else 'left out'}"
        for what, places in told.items()
        if places.count
    }
    tell(path, found, odd)
    notes = {**found.describe(), "columns": {"item": "field 1"}, **odd}
    return Titles(rows=rows, drop_counts=drop_counts, notes=notes)


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    for block in read_blocks(path, encoding):
        if b"\x00" in block.data:
            raise InputError(f"{path} is no text file: it holds NUL bytes")
        for number, line in enumerate(block.data[:-1].decode().split("\n"), block.first):
            if line.strip():
                yield number, line
