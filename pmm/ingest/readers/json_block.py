"""A block of JSON lines as columns: by Arrow's reader, and by Python's where Arrow refuses them.

Results on good lines are equal. A bad line costs little: the lines around it are halved until the
stretch that holds it is short, and only that stretch is read by Python.
"""

import ast
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson
from numpy.typing import NDArray

LINE = "line"
"""Column of a block: the 64-bit hash of the raw line without white space around it."""

LONGEST_LINE = 1 << 20
"""Bytes of a line that is read (1 MiB). As Python's values a line takes up to 25 times as much, as
the syntax tree of a Python literal up to a thousand times."""
LONG_LINE = "line longer than 1 MiB"
"""The reason under which longer lines are counted."""

# Of a literal, for it is these that its syntax tree has nodes for: 0.2 GB at most. Texts have one
# for every twenty characters, HTML one for every six.
_MOST_MARKS = 200_000
# The parts of an f-string, which is no literal, but is parsed in the square of their number.
_MOST_BRACES = 5_000
_NO_MARKS = bytes(n for n in range(256) if n >= 128 or chr(n).isalnum() or chr(n).isspace())
# A stretch this short is read by Python whole: halving on would be a call of Arrow every few lines.
_FEW_LINES = 128
# `warnings.catch_warnings` changes the state of the process, and blocks are parsed by many threads.
_LITERALS = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class JsonField:
    """A wanted column."""

    name: str
    keys: tuple[str, ...]
    """Where a line may hold it; the first that holds some text wins."""
    number: bool = False
    """Whether it is a whole number as a rule (other values are read too, only slower)."""


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a block of lines holds."""

    rows: pa.RecordBatch
    """A column for each field, dictionary-encoded strings, and `LINE`."""
    malformed: int = 0
    """Lines that hold no object."""
    replaced: int = 0
    """Lines whose broken characters were replaced."""
    example: bytes = b""
    """The first malformed line."""


def read_line(line: bytes, *, literal: bool = False) -> tuple[dict[str, Any] | None, bool]:
    """The object of one line (None if it holds none), and whether it was valid UTF-8.

    >>> read_line(b'{"a": 1}'), read_line(b"{'a': 1}"), read_line(b"{'a': 1}", literal=True)
    (({'a': 1}, True), (None, True), ({'a': 1}, True))
    """
    try:
        text, valid = line.decode(), True
    except UnicodeDecodeError:
        text, valid = line.decode("utf-8", "replace"), False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also a number of thousands of digits
        value = _read_literal(text) if literal and _is_simple(line) else None
    return (value if isinstance(value, dict) else None), valid


def _is_simple(line: bytes) -> bool:
    """Whether a literal is parsed in bounded memory."""
    marks = len(line.translate(None, _NO_MARKS))
    return len(line) <= LONGEST_LINE and marks <= _MOST_MARKS and line.count(b"{") <= _MOST_BRACES


def _read_literal(text: str) -> object:
    # Backslashes that Python does not know ("\d") are only warned of; the filter is the process's.
    with _LITERALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def text_of(value: object) -> str:
    """A scalar as text; nothing, lists, objects and truth values give "".

    >>> text_of("B01"), text_of(1441324800), text_of(1441324800.0), text_of(True), text_of(None)
    ('B01', '1441324800', '1441324800.0', '', '')
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        return str(value)
    except ValueError:  # a Python literal such as 0x… with more digits than Python writes out
        return ""


def parse_block(block: bytes, fields: Sequence[JsonField], *, literal: bool = False) -> Parsed:
    """The rows of some lines, each of which ends with a line end; see `stream_lines`."""
    rows = None if literal else _parse_fast(block, fields)
    return Parsed(rows=rows) if rows is not None else _parse(split_lines(block), fields, literal)


def without_long_lines(block: bytes) -> tuple[bytes, int]:
    """The lines of a block that are no longer than `LONGEST_LINE`, and how many others it held.

    >>> without_long_lines(b"[1]\\n")
    (b'[1]\\n', 0)
    """
    # A longer line fills one of these windows whole, so a block without such a line costs nothing.
    window = LONGEST_LINE // 2
    if all(block.find(b"\n", at, at + window) >= 0 for at in range(0, len(block), window)):
        return block, 0
    lines = block.removesuffix(b"\n").split(b"\n")
    kept = [line + b"\n" for line in lines if len(line) <= LONGEST_LINE]
    return b"".join(kept), len(lines) - len(kept)


def split_lines(block: bytes) -> list[bytes]:
    """The lines that are not blank, without white space around them."""
    return [line for line in (each.strip() for each in block.split(b"\n")) if line]


def _parse(lines: list[bytes], fields: Sequence[JsonField], literal: bool) -> Parsed:
    """The rows of some lines: fast wherever a stretch of them is free of faults."""
    if literal or len(lines) <= _FEW_LINES:
        return _parse_slowly(lines, fields, literal)
    rows = _parse_fast(b"\n".join(lines) + b"\n", fields)
    if rows is not None:
        return Parsed(rows=rows)
    # One bad line makes Arrow refuse all lines. Halving finds it in about log2(lines / 128) further
    # calls, where reading the whole block in Python would cost every line of its 8 MiB.
    middle = len(lines) // 2
    first, second = (_parse(half, fields, literal) for half in (lines[:middle], lines[middle:]))
    both = pa.Table.from_batches([first.rows, second.rows]).unify_dictionaries().combine_chunks()
    return Parsed(
        rows=both.to_batches()[0] if both.num_rows else first.rows,
        malformed=first.malformed + second.malformed,
        replaced=first.replaced + second.replaced,
        example=first.example or second.example,
    )


def _parse_slowly(lines: list[bytes], fields: Sequence[JsonField], literal: bool) -> Parsed:
    columns: list[list[str]] = [[] for _ in fields]
    good: list[bytes] = []
    replaced = 0
    example = b""
    for line in lines:
        value, valid = read_line(line, literal=literal)
        replaced += not valid
        if value is None:
            example = example or line
            continue
        good.append(line + b"\n")  # as the fast way hashes it, or equal lines would not be equal
        for column, field in zip(columns, fields, strict=True):
            texts = (text_of(value.get(key)) for key in field.keys)
            column.append(next((text for text in texts if text), ""))
    arrays = [pa.array(column, pa.string()).dictionary_encode() for column in columns]
    return Parsed(
        rows=_batch(arrays, _hash(pa.array(good, pa.binary())), fields),
        malformed=len(lines) - len(good),
        replaced=replaced,
        example=example,
    )


def _parse_fast(block: bytes, fields: Sequence[JsonField]) -> pa.RecordBatch | None:
    """The rows by Arrow's reader, or None where it might differ from Python's.

    Arrow refuses what JSON does not allow, but would take two objects on one line for two
    rows, so each line must begin and end with a brace, and there must be as many rows as lines.
    """
    # On the bytes themselves: a Python loop over the lines would cost more than Arrow's parsing.
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends + 1
    if (data[offsets[:-1]] != ord("{")).any() or (data[ends - 1] != ord("}")).any():
        return None
    # The lines as an array without a copy: what is hashed are slices of the block.
    lines = pa.BinaryArray.from_buffers(
        pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(block)]
    )
    # A declared schema, for Arrow would guess each block's types anew: an id of digits would lose
    # its leading zeros in one block and stay text in the next. What does not fit is refused, and is
    # then read by Python.
    kinds = {key: pa.int64() if f.number else pa.string() for f in fields for key in f.keys}
    try:
        if not block.isascii():
            lines.cast(pa.string())  # refuses invalid UTF-8, which Arrow's reader does not notice
        table = pajson.read_json(
            pa.BufferReader(block),
            # One block, one thread: blocks run in parallel already (`json_lines`), and a block of
            # Arrow's that ends inside a line would be refused.
            pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pajson.ParseOptions(
                explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowInvalid, UnicodeError):
        return None
    if table.num_rows != len(lines):
        return None
    arrays = [_first_text([table[key] for key in f.keys]).dictionary_encode() for f in fields]
    return _batch(arrays, _hash(lines), fields)


def _first_text(columns: list[pa.ChunkedArray]) -> pa.Array:
    texts = [column.combine_chunks().cast(pa.string()).fill_null("") for column in columns]
    chosen = texts[0]
    for other in texts[1:]:
        chosen = pc.if_else(pc.equal(chosen, ""), other, chosen)
    return chosen


def _hash(lines: pa.Array) -> NDArray[np.uint64]:
    # A hash of a whole column at once; the seed is fixed so that all blocks agree.
    # Hashes are compared within one pass and never stored, so a new version of it may differ.
    return pl.Series("line", lines, dtype=pl.Binary).hash(seed=7).to_numpy()


def _batch(
    arrays: list[pa.Array], line: NDArray[np.uint64], fields: Sequence[JsonField]
) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*arrays, pa.array(line)], names=[*(field.name for field in fields), LINE]
    )
