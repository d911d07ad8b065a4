"""Delimited text files: what they are (encoding, delimiter, quotes) and their rows as a stream.

Read in blocks of 8 MiB, so memory does not grow with the file. Arrow's CSV reader parses a block as
it is where nothing in it is odd, else after `pmm.ingest.readers.records` has mended it. What cannot
be parsed is counted and told, with the numbers of the first lines.
"""

import dataclasses
import logging
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pmm.errors import InputError
from pmm.ingest.readers.encodings import (
    MARK,
    REPLACEMENT,
    Block,
    TextEncoding,
    find_encoding,
    read_blocks,
)
from pmm.ingest.readers.plain_file import HEAD_BYTES, PACKINGS, head_of, is_workbook
from pmm.ingest.readers.records import Places, RowSplitter, Votes, vote
from pmm.progress import progress

logger = logging.getLogger(__name__)

Delimiter = Literal[",", "\t", "::", "|", ";", " "]
DELIMITERS: tuple[Delimiter, ...] = (",", "\t", "::", "|", ";", " ")
"""In the order in which they are tried; " " stands for white space of any length."""

MALFORMED = "malformed row"
"""The reason under which rows with a wrong number of fields are counted."""

BAD_ID = "id with undecodable bytes"
"""The reason under which rows are counted that have an id some of whose bytes are unknown."""

_HEAD_ROWS = 1000
_BY_CHANCE, _UNLIKELIER = 0.1, 0.2
"""Share of rows by which a dialect with a field that has no name has to fit better than another."""
_BLOCK_BYTES = 8 << 20
_ENOUGH_BLOCKS = 20
"""Blocks with quotes that are looked at, at most, before it is decided whether quotes count."""
# ASCII has the first for what it does here, separating fields, so texts hardly ever hold it.
_UNIT_SEPARATOR, _SUBSTITUTE = b"\x1f", b"\x1a"
_MARK, _REPLACEMENT = MARK.encode(), REPLACEMENT.encode()
_EXCEL = re.compile(rb'"?sep=(::|[^"\n])"?', re.IGNORECASE)
_SPACES = re.compile(rb'"[^"\n]*+"(?=[ \t\n])|[ \t]++')
_AT_ENDS = re.compile(rb"^ | $", re.MULTILINE)
# Ids and titles repeat: as a dictionary each is held once a block, and is trimmed, repaired and
# parsed once instead of once a row (`pmm.ingest.tables.interactions`).
_CODED = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written."""

    encoding: TextEncoding
    delimiter: Delimiter
    quoted: bool
    """Whether quotes hold fields together; else they are part of the texts."""
    packed: bool
    fields: int
    """Fields of a row."""
    trailing: bool = False
    """Whether its rows end in a delimiter that is not in its first line."""
    row_names: bool = False
    """Whether its first field is the name of a row, as R writes it, with no name above."""
    before: int = 0
    """Lines before the first row that are none: Excel's `sep=;`."""
    workbook: bool = False

    def describe(self) -> dict[str, Any]:
        """The dialect in words, for the card; what is unusual only where it is so."""
        named = {"\t": "tab", ",": "comma", "|": "bar", ";": "semicolon", " ": "white space"}
        unusual = {
            "first_line": "sep=" if self.before else "",
            "first_field": "names of rows" if self.row_names else "",
            "last_delimiter": "left out" if self.trailing else "",
            "workbook": "its first sheet" if self.workbook else "",
        }
        return {
            **self.encoding.describe(),
            "delimiter": named.get(self.delimiter, self.delimiter),
            "compression": "gzip" if self.packed else "none",
            **{name: value for name, value in unusual.items() if value},
        }


def sniff(
    path: Path, *, encoding: str | None = None, fields: int | None = None
) -> tuple[Dialect, list[list[str]]]:
    """The dialect of a file and its first rows.

    The delimiter is the one under which most of the first rows have the first row's number of
    fields, at least two. Quotes count where more rows have that number with them than without, or
    where all of a column is in quotes.

    Args:
        path: the file; all of it is read once, for its encoding.
        encoding: its name, where the user gave it (`pmm.ingest.readers.encodings.known_encoding`).
        fields: how many fields a row should have, where that is known; a delimiter under which
            the first row has as many goes before all others.

    Raises:
        InputError: the file is missing, empty, binary, damaged, or no delimiter fits.
    """
    raw, packed = head_of(path)
    workbook = is_workbook(path)
    for start, what in PACKINGS.items():
        if raw.startswith(start):
            raise InputError(f"{path} is no text file but {what}")
    found = find_encoding(path, encoding)
    head = next(read_blocks(path, found.name, HEAD_BYTES), Block(first=1, data=b""))
    if b"\x00" in head.data:
        raise InputError(
            f"{path} is no text file: it holds NUL bytes near its beginning; expected are rows of "
            "delimited text, plain or gzip"
        )
    data = head.data.replace(_MARK, _REPLACEMENT)
    excel = _EXCEL.fullmatch(data[: data.find(b"\n") + 1].rstrip(b"\n"))
    data = data[data.find(b"\n") + 1 :] if excel else data
    if not data.strip():
        raise InputError(f"{path} is empty; expected are rows of delimited text")
    said = {b"\\t": "\t"}.get(excel[1], excel[1].decode()) if excel else None
    fit = _best_fit(data, said, fields, whole=len(raw) < HEAD_BYTES)
    if fit is None:
        first = data.strip().split(b"\n")[0].decode()[:120]
        raise InputError(
            f"{path}: the first line {first!r} has one field only; fields are separated by "
            "a comma, a tab, '::', '|', ';' or white space"
        )
    dialect = Dialect(
        encoding=found,
        delimiter=fit.delimiter,
        quoted=bool(fit.quoted),
        packed=packed,
        fields=fit.fields,
        trailing=fit.trailing,
        row_names=fit.row_names,
        before=int(excel is not None),
        workbook=workbook,
    )
    if fit.quoted is None and found.quotes and _quotes_count(path, dialect):
        dialect = dataclasses.replace(dialect, quoted=True)
        fit = _fit(data, fit.delimiter, True, fields, whole=len(raw) < HEAD_BYTES)
    return dialect, fit.rows


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """The first rows of a file under a delimiter."""

    delimiter: Delimiter
    quoted: bool | None
    """None where they do not tell whether quotes count."""
    rows: list[list[str]]
    """With as many fields as the first one, where they fit."""
    fields: int
    share: float
    """Of the rows, those that have so many fields."""
    trailing: bool = False
    row_names: bool = False


def _best_fit(data: bytes, said: str | None, wanted: int | None, *, whole: bool) -> _Fit | None:
    """The first rows under the delimiter that fits best; None where none occurs."""
    best: _Fit | None = None
    for delimiter in DELIMITERS:
        if said not in (None, delimiter):
            continue
        if delimiter == " " and best is not None and best.share > 0.5:
            continue
        fit = _either(data, delimiter, wanted, whole=whole)
        spaced = delimiter != " " or (fit.share >= 0.95 and len(fit.rows) > 1)
        # A title with commas fits a comma in some rows only, a real delimiter in nearly all; of
        # two that fit equally well the one with more fields.
        if (
            fit.fields >= 2
            and spaced
            and (best is None or _rank(fit, wanted) > _rank(best, wanted))
        ):
            best = fit
    return best


def _rank(fit: _Fit, wanted: int | None) -> tuple[bool, float, int]:
    # Quotes that are not heeded look like rows with a field too many.
    unlikely = _UNLIKELIER * (fit.trailing or fit.row_names)
    return fit.fields == wanted, fit.share - unlikely, fit.fields


def _either(data: bytes, delimiter: Delimiter, wanted: int | None, *, whole: bool) -> _Fit:
    """The first rows with or without quotes, whichever fits better."""
    plain = _fit(data, delimiter, False, wanted, whole=whole)
    if delimiter == "::" or b'"' not in data:
        return plain if delimiter == "::" else dataclasses.replace(plain, quoted=None)
    quoted = _fit(data, delimiter, True, wanted, whole=whole)
    # A column in quotes shows more than one row that fits without them by chance.
    if quoted.share > plain.share - _BY_CHANCE and _is_column_quoted(plain.rows):
        return quoted
    if _rank(quoted, wanted) != _rank(plain, wanted):
        return max(quoted, plain, key=lambda fit: _rank(fit, wanted))
    lines = _prepared(data, delimiter, plain.trailing).split(b"\n")
    shown = vote(lines, _byte(delimiter), plain.fields, ended=whole).decide()
    return quoted if shown else plain if shown is False else dataclasses.replace(plain, quoted=None)


def _is_column_quoted(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all of the first row, or nearly all below in some column, is in quotes."""
    if all(_is_quoted(name) for name in rows[0]):
        return True
    for at in range(len(rows[0])):
        values = [row[at] for row in rows[1:] if len(row) == len(rows[0]) and row[at]]
        if values and sum(map(_is_quoted, values)) >= 0.9 * len(values):
            return True
    return False


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == '"' == value[-1]


def _fit(
    data: bytes, delimiter: Delimiter, quoted: bool, wanted: int | None, *, whole: bool
) -> _Fit:
    lines = _prepared(data, delimiter, False).split(b"\n")
    first = next(line for line in lines if line)
    count = len(RowSplitter(_byte(delimiter), 1, quoted=quoted).split(first)[0])
    splitter = RowSplitter(_byte(delimiter), count, quoted=quoted)
    rows = []
    for row in splitter.rows(lines, ended=whole):
        rows.append([value.decode() for value in row.fields])
        if len(rows) > _HEAD_ROWS:
            break
    if len(rows) > _HEAD_ROWS or (not whole and len(rows) > 1):
        rows = rows[:-1]
    return _with_one_more(
        _Fit(delimiter=delimiter, quoted=quoted, rows=rows, fields=count, share=0), wanted
    )


def _with_one_more(fit: _Fit, wanted: int | None) -> _Fit:
    """What rows that have a field more than the first one are: a delimiter at the end, or names."""
    rows, count, trailing, row_names = fit.rows, fit.fields, False, False
    if wanted == count - 1 and all(len(row) == count and not row[-1] for row in rows):
        rows, count, trailing = [row[:-1] for row in rows], wanted, True
    more = [row for row in rows[1:] if len(row) == count + 1]
    if more and len(more) * 2 > len(rows) - 1:
        if not any(row[-1] for row in more):
            trailing = True
        elif _are_row_names(rows[0], [row[0] for row in more]):
            rows, count, row_names = [["", *rows[0]], *rows[1:]], count + 1, True
    rows = [row[:-1] if len(row) == count + 1 and not row[-1] else row for row in rows]
    share = sum(len(row) == count for row in rows) / len(rows)
    return dataclasses.replace(
        fit, rows=rows, fields=count, share=share, trailing=trailing, row_names=row_names
    )


def _are_row_names(names: Sequence[str], first: Sequence[str]) -> bool:
    """Whether the first fields name the rows: each is there once, and above stand names."""
    titled = all(re.fullmatch(r"\D*[^\W\d]\D*", name) for name in names)
    return titled and len(first) > 1 and len(set(first)) == len(first)


def _quotes_count(path: Path, dialect: Dialect) -> bool:
    """Whether quotes count in a file whose first rows do not tell."""
    votes, looked = Votes(), 0
    for block in read_blocks(path, dialect.encoding.name, _BLOCK_BYTES):
        if b'"' not in block.data:
            continue
        lines = _prepared(block.data, dialect.delimiter, dialect.trailing).split(b"\n")
        votes += vote(lines, _byte(dialect.delimiter), dialect.fields, ended=False)
        looked += 1
        if votes.decide() is not None or looked == _ENOUGH_BLOCKS:
            break
    return bool(votes.decide())


def require_rows(path: Path, dialect: Dialect, below: Sequence[Sequence[str]]) -> None:
    """Refuse a file none of whose first rows has the number of fields of its first line.

    Args:
        path: the file. dialect: of it. below: its first rows, without the one that holds names.

    Raises:
        InputError: there are no rows, or none that fits; the message counts them.
    """
    if any(len(row) == dialect.fields for row in below):
        return
    if not below:
        raise InputError(f"{path} has no rows below its header; expected is a row an interaction")
    fields, rows = Counter(map(len, below)).most_common(1)[0]
    raise InputError(
        f"{path}: {rows:,} of its first {len(below):,} rows have {fields} fields, the header names "
        f"{dialect.fields}. Add the missing name to the first line, or take the field too many "
        "out of the rows; texts that hold the delimiter need quotes"
    )


def stream(
    path: Path,
    dialect: Dialect,
    wanted: Mapping[str, int],
    *,
    header: bool,
    drop_counts: Counter[str],
    ids: Collection[str] = ("user_id", "item_id", "item"),
    notes: dict[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The wanted columns in batches of dictionary-encoded strings.

    At the end the terminal is told what was odd in the file, if `notes` are given.

    Args:
        path: the file.
        dialect: from `sniff`.
        wanted: column name -> its position in a row.
        header: whether the first row holds names.
        drop_counts: at the end, counts malformed rows under `MALFORMED`, rows that have undecodable
            bytes in an id under `BAD_ID`, and all rows under "read".
        ids: names of columns that are ids; elsewhere U+FFFD stands for undecodable bytes.
        notes: takes, at the end, what was odd and in which lines.

    Raises:
        InputError: the file is damaged, or more than half of its rows are malformed.
    """
    found = _Oddities()
    read = 0
    with progress(None, f"reading {path.name}", "rows") as bar:
        for batch in _batches(path, _Plan(dialect, wanted, ids), header, found):
            read += batch.num_rows
            bar.advance(batch.num_rows)
            yield batch
    malformed, bad_ids = found.malformed.count, found.bad_ids.count
    for reason, count in ((MALFORMED, malformed), (BAD_ID, bad_ids)):
        if count:
            drop_counts[reason] += count
    drop_counts["read"] += read + malformed + bad_ids
    if malformed > read + bad_ids:
        raise InputError(
            f"{path}: {malformed:,} of {read + malformed + bad_ids:,} rows do not have "
            f"{dialect.fields} fields, e.g. {found.malformed.example}; expected are as many in "
            "every row, with quotes around texts that hold the delimiter"
        )
    if notes is not None:
        told = found.describe(dialect)
        notes.update(told)
        tell(path, dialect.encoding, told)


def tell(path: Path, encoding: TextEncoding, odd: Mapping[str, str]) -> None:
    """Say on the terminal in what a file was odd, and in which encoding it was read if not UTF-8.

    Args:
        path: the file. encoding: of it. odd: what it is -> where.
    """
    if encoding.is_guess():
        logger.warning(
            "%s is read as %s: %s. If that is wrong, name another with --encoding",
            path.name,
            encoding.name,
            encoding.why,
        )
    for what, where in odd.items():
        logger.warning("%s: %s: %s", path.name, what.replace("_", " "), where)


@dataclass
class _Oddities:
    """What was found in the rows of a file."""

    malformed: Places = field(default_factory=Places)
    bad_ids: Places = field(default_factory=Places)
    bad_texts: Places = field(default_factory=Places)
    stray: Places = field(default_factory=Places)
    over_lines: Places = field(default_factory=Places)

    def update(self, more: "_Oddities") -> None:
        for each in dataclasses.fields(self):
            getattr(self, each.name).update(getattr(more, each.name))

    def describe(self, dialect: Dialect) -> dict[str, str]:
        """What is there, in words: for the card and the terminal."""
        name = dialect.encoding.name
        told = {
            f"rows_without_{dialect.fields}_fields": (self.malformed, "left out"),
            f"rows_with_ids_that_are_not_{name}": (self.bad_ids, "left out"),
            f"rows_with_bytes_that_are_not_{name}": (self.bad_texts, "U+FFFD in their place"),
            "rows_with_a_quote_that_is_not_closed": (self.stray, "read as part of the text"),
            "rows_with_line_breaks_in_quotes": (self.over_lines, "one row each"),
        }
        return {
            what: f"{places.count:,} ({places.where()}), {then}"
            + (f", e.g. {places.example}" if places.example else "")
            for what, (places, then) in told.items()
            if places.count
        }


class _Plan:
    """How blocks of a file become batches."""

    def __init__(self, dialect: Dialect, wanted: Mapping[str, int], ids: Collection[str]) -> None:
        self.dialect = dialect
        self.splitter = RowSplitter(_byte(dialect.delimiter), dialect.fields, quoted=dialect.quoted)
        self._names = {position: name for name, position in wanted.items()}
        self._wanted = list(wanted)
        self._ids = sorted({at for name, at in wanted.items() if name in ids})

    def arrow(self, data: bytes, *, over_lines: bool = False) -> pa.RecordBatch | None:
        """The wanted columns of lines each of which is a row that fits, or empty.

        Raises:
            ArrowInvalid: one is neither.
        """
        if not data.strip(b"\n"):
            return None
        splitter = self.splitter
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(
                block_size=len(data) + 1,
                # Names are given even where the file has some: two of one name are legal there.
                column_names=[self._names.get(i, f"field {i}") for i in range(splitter.fields)],
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=splitter.delimiter.decode(),
                quote_char='"' if splitter.quoted else False,
                newlines_in_values=over_lines,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=self._wanted,
                # Types are never guessed: an id such as "007" must stay text, and "NA" is a title.
                column_types=dict.fromkeys(self._wanted, _CODED),
                strings_can_be_null=False,
            ),
        )
        return table.combine_chunks().to_batches()[0] if table.num_rows else None

    def mend(self, block: Block, *, ended: bool) -> tuple[bytes, int, _Oddities]:
        """The rows of a block as lines that Arrow reads, how many lines they are, what was odd."""
        lines = block.data[:-1].split(b"\n")
        found, written, used = _Oddities(), list[bytes](), 0
        for row in self.splitter.rows(lines, ended=ended):
            used, number, fields = row.at + row.lines, block.first + row.at, row.fields
            if not self.splitter.fits(fields):
                shown = lines[row.at].replace(_UNIT_SEPARATOR, b"::").replace(_MARK, _REPLACEMENT)
                text = shown.decode()[:120]
                found.malformed.add(number, f"{text!r} has {len(fields)} fields")
                continue
            plain = row.plain
            if len(fields) > self.splitter.fields:
                fields, plain = fields[:-1], False
            if block.bad and not block.bad.isdisjoint(range(row.at, used)):
                if any(_MARK in fields[at] for at in self._ids):
                    found.bad_ids.add(number)
                    continue
                found.bad_texts.add(number)
                fields, plain = [each.replace(_MARK, _REPLACEMENT) for each in fields], False
            if row.stray:
                found.stray.add(number)
            if row.lines > 1:
                found.over_lines.add(number)
            written.append(lines[row.at] if plain else self.splitter.write(fields))
        if ended:
            used = len(lines)
        return b"".join(line + b"\n" for line in written), used, found


@dataclass(frozen=True)
class _Piece:
    """A block of whole rows."""

    block: Block
    over_lines: Places = field(default_factory=Places)
    """Rows that go over lines, where nothing else is odd."""
    mended: tuple[bytes, _Oddities] | None = None
    """Its rows as lines that Arrow reads, and what was odd."""


def _batches(path: Path, plan: _Plan, header: bool, found: _Oddities) -> Iterator[pa.RecordBatch]:
    """Batches in the order of the file; the next block is read while Arrow parses one."""
    with ThreadPoolExecutor(2, thread_name_prefix="pmm-rows") as pool:
        pieces = _pieces(path, plan, header)
        coming = pool.submit(next, pieces, None)
        parsing: deque[Future[tuple[pa.RecordBatch | None, _Oddities]]] = deque()
        while piece := coming.result():
            coming = pool.submit(next, pieces, None)
            parsing.append(pool.submit(_parse, path, plan, piece))
            if len(parsing) > 1:
                yield from _parsed(parsing, found)
        while parsing:
            yield from _parsed(parsing, found)


def _parsed(
    parsing: "deque[Future[tuple[pa.RecordBatch | None, _Oddities]]]", found: _Oddities
) -> Iterator[pa.RecordBatch]:
    batch, odd = parsing.popleft().result()
    found.update(odd)
    if batch is not None:
        yield batch


def _pieces(path: Path, plan: _Plan, header: bool) -> Iterator[_Piece]:
    """Blocks of whole rows, mended where quotes are odd in them."""
    dialect, rest = plan.dialect, Block(first=1, data=b"")
    before, skip = dialect.before, header
    blocks = read_blocks(path, dialect.encoding.name, _BLOCK_BYTES)
    for block, ended in _with_end(blocks):
        whole = _joined(rest, block)
        if before:
            whole, before = _after(whole, before), 0
        rest = Block(first=whole.first, data=b"")
        data = _prepared(whole.data, dialect.delimiter, dialect.trailing)
        ready = Block(first=whole.first, data=data, bad=whole.bad)
        if skip:
            used = _lines_of_first(ready, plan.splitter, ended=ended)
            if used is None:
                rest = whole
                continue
            ready, whole, skip = _after(ready, used), _after(whole, used), False
            data = ready.data
        if not plan.splitter.quoted or b'"' not in ready.data:
            yield _Piece(ready)
            continue
        rows = None if ready.bad else plan.splitter.clean_rows(data, ended=ended)
        if rows is not None:
            used, spans = rows
            over_lines = Places()
            for line in spans:
                over_lines.add(ready.first + line)
            yield _Piece(_until(ready, used), over_lines=over_lines)
        else:
            mended, used, odd = plan.mend(ready, ended=ended)
            yield _Piece(ready, mended=(mended, odd))
        rest = _after(whole, used)


def _parse(path: Path, plan: _Plan, piece: _Piece) -> tuple[pa.RecordBatch | None, _Oddities]:
    """A block as a batch, and what was odd in it."""
    mended, over_lines = piece.mended, piece.over_lines
    try:
        if mended is None and not piece.block.bad:
            try:
                batch = plan.arrow(piece.block.data, over_lines=over_lines.count > 0)
                return batch, _Oddities(over_lines=over_lines)
            except pa.ArrowInvalid:  # some row does not fit
                pass
        if mended is None:
            data, _, odd = plan.mend(piece.block, ended=True)
            mended = data, odd
        return plan.arrow(mended[0], over_lines=True), mended[1]
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


def _with_end(blocks: Iterable[Block]) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether it is the last."""
    former: Block | None = None
    for block in blocks:
        if former is not None:
            yield former, False
        former = block
    if former is not None:
        yield former, True


def _joined(rest: Block, block: Block) -> Block:
    """A block with the lines before it that were left over."""
    if not rest.data:
        return block
    lines = rest.data.count(b"\n")
    bad = frozenset(chain(rest.bad, (at + lines for at in block.bad)))
    return Block(first=rest.first, data=rest.data + block.data, bad=bad)


def _until(block: Block, lines: int) -> Block:
    """The first lines of a block."""
    rest = len(_after(block, lines).data)
    return Block(first=block.first, data=block.data[: len(block.data) - rest], bad=block.bad)


def _after(block: Block, lines: int) -> Block:
    """A block without its first lines."""
    if not lines:
        return block
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == ord("\n"))
    at = int(ends[lines - 1]) + 1 if lines <= len(ends) else len(block.data)
    bad = frozenset(each - lines for each in block.bad if each >= lines)
    return Block(first=block.first + lines, data=block.data[at:], bad=bad)


def _lines_of_first(block: Block, splitter: RowSplitter, *, ended: bool) -> int | None:
    """How many lines the first row and the empty ones above it are; None if it goes on below."""
    lines = block.data[:-1].split(b"\n") if block.data else []
    row = next(splitter.rows(lines, ended=ended), None)
    if row is None:
        return len(lines) if ended else None
    return row.at + row.lines


def _byte(delimiter: Delimiter) -> bytes:
    """What stands between the fields of prepared lines."""
    return _UNIT_SEPARATOR if delimiter == "::" else delimiter.encode()


def _prepared(data: bytes, delimiter: Delimiter, trailing: bool) -> bytes:
    """Lines with one byte between two fields, and none at their ends."""
    if delimiter == "::":
        # MovieLens has such files, and Arrow takes one byte only.
        data = data.replace(_UNIT_SEPARATOR, _SUBSTITUTE).replace(b"::", _UNIT_SEPARATOR)
    elif delimiter == " ":
        data = _SPACES.sub(lambda found: found[0] if found[0][:1] == b'"' else b" ", data)
        data = _AT_ENDS.sub(b"", data)
    if trailing:
        data = data.replace(_byte(delimiter) + b"\n", b"\n")
    return data


def describe_columns(names: Sequence[str]) -> str:
    """Names of a file's columns for an error message."""
    shown = ", ".join(repr(name) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
