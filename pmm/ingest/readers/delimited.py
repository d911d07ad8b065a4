"""Delimited text files: what they are (encoding, delimiter, quotes) and their rows as a stream.

Read by Arrow's streaming CSV reader in blocks, so memory does not grow with the file. Rows with
another number of fields than the file has are counted, not fatal; a damaged file is.
"""

import codecs
import csv
import dataclasses
import gzip
import io
import re
import threading
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import pyarrow as pa
import pyarrow.csv as pacsv

from pmm.errors import InputError
from pmm.progress import progress

Delimiter = Literal[",", "\t", "::", "|", ";"]
DELIMITERS: tuple[Delimiter, ...] = (",", "\t", "::", "|", ";")

MALFORMED = "malformed row"
"""The reason under which rows with a wrong number of fields are counted."""

# Enough for a thousand rows of most files, so that many rows decide and not one.
HEAD_BYTES = 1 << 18
_HEAD_ROWS = 1000
_BLOCK_BYTES = 8 << 20
_LINE_ENDS = re.compile(r"\r\n|\n|\r")
# ASCII has the first for what it does here, separating fields, so texts hardly ever hold it.
_UNIT_SEPARATOR, _SUBSTITUTE = "\x1f", "\x1a"
_PATIENCE_S = 1.0
PACKINGS = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"BZh": "packed with bzip2: unpack it, or pack it with gzip",
    b"\xfd7zXZ": "packed with xz: unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it, or pack it with gzip",
    b"PAR1": "a Parquet file: write it out as CSV",
}
"""First bytes of files that are often given by mistake -> what they are, and what to do."""
# Ids and titles repeat: as a dictionary each is held once a block, and is trimmed, repaired and
# parsed once instead of once a row (`pmm.ingest.tables.interactions`).
_CODED = pa.dictionary(pa.int32(), pa.string())
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written, as far as its first 256 KiB tell."""

    encoding: Literal["utf-8", "utf-16", "latin-1"]
    delimiter: Delimiter
    quoted: bool
    packed: bool
    fields: int
    """Fields of a row."""
    blank: int = 0
    """Empty lines before the first row."""

    def describe(self) -> dict[str, str]:
        """The dialect in words, for the card."""
        named = {"\t": "tab", ",": "comma", "|": "bar", ";": "semicolon", "::": "::"}
        return {
            "encoding": self.encoding,
            "delimiter": named[self.delimiter],
            "compression": "gzip" if self.packed else "none",
        }


def sniff(
    path: Path, *, latin: bool = False, fields: int | None = None
) -> tuple[Dialect, list[list[str]]]:
    """The dialect of a file and its first rows.

    The delimiter is the one under which most of the first rows have the first row's number of
    fields, at least two.

    Args:
        path: the file.
        latin: the encoding is known to be Latin-1.
        fields: how many fields a row should have, where that is known; a delimiter under which
            the first row has as many goes before all others.

    Raises:
        InputError: the file is missing, empty, binary, damaged, or no delimiter fits.
    """
    raw, packed = head_of(path)
    encoding, text = _decode(raw)
    if "\x00" in text or encoding == "latin-1":
        for start, what in PACKINGS.items():
            if raw.startswith(start):
                raise InputError(f"{path} is no text file but {what}")
    if "\x00" in text:
        raise InputError(
            f"{path} is no text file: it holds NUL bytes near its beginning; expected are rows of "
            "delimited text, plain or gzip"
        )
    if not text.strip():
        raise InputError(f"{path} is empty; expected are rows of delimited text")
    fitting = _best_fit(text, len(raw) < HEAD_BYTES, fields)
    if fitting is None:
        first = text.strip().splitlines()[0][:120]
        raise InputError(
            f"{path}: the first line {first!r} has one field only; fields are separated by "
            "a comma, a tab, '::', '|' or ';'"
        )
    delimiter, quoted, rows = fitting
    dialect = Dialect(
        encoding="latin-1" if latin else encoding,
        delimiter=delimiter,
        quoted=quoted,
        packed=packed,
        fields=len(rows[0]),
        blank=len(_LINE_ENDS.findall(text[: len(text) - len(text.lstrip("\r\n"))])),
    )
    return dialect, rows


def _best_fit(
    text: str, whole: bool, wanted: int | None
) -> tuple[Delimiter, bool, list[list[str]]] | None:
    """The delimiter, whether quotes count, and the first rows; None where no delimiter occurs."""
    best: tuple[tuple[bool, float, int], Delimiter, bool, list[list[str]]] | None = None
    for delimiter in DELIMITERS:
        for quoted in (True, False) if delimiter != "::" else (False,):
            rows = _split(text, delimiter, quoted, whole)
            fields = len(rows[0]) if rows else 0
            if fields < 2:
                continue
            fit = sum(len(row) == fields for row in rows) / len(rows)
            # A title with commas fits a comma in some rows only, a real delimiter in nearly all; of
            # two that fit equally well the one with more fields.
            key = (fields == wanted, fit, fields)
            if best is None or key > best[0]:
                best = (key, delimiter, quoted, rows)
    return best[1:] if best else None


def in_any_encoding(dialect: Dialect, run: Callable[[Dialect], _T]) -> _T:
    """Run a reading; where a byte far down turns out not to be UTF-8, run it again as Latin-1."""
    # The head alone cannot tell: an accent may first occur gigabytes below. Reading again is rare
    # and costs one pass; replacing what does not decode would change ids without a word.
    try:
        return run(dialect)
    except UnicodeError:
        return run(dataclasses.replace(dialect, encoding="latin-1"))


def stream(
    path: Path,
    dialect: Dialect,
    wanted: Mapping[str, int],
    *,
    header: bool,
    drop_counts: Counter[str],
) -> Iterator[pa.RecordBatch]:
    """The wanted columns in batches of dictionary-encoded strings.

    Args:
        path: the file.
        dialect: from `sniff`.
        wanted: column name -> its position in a row.
        header: whether the first row holds names.
        drop_counts: counts malformed rows under `MALFORMED` and all rows under "read", at the end.

    Raises:
        InputError: the file is damaged, or more than half of its rows are malformed.
        UnicodeError: it is not in the dialect's encoding (see `in_any_encoding`).
    """
    skipped: list[int] = []
    example: list[str] = []
    read = 0

    def skip(row: pacsv.InvalidRow) -> str:
        # A quote that is never closed swallows the lines that follow; each of them was a row.
        skipped.append(sum(bool(line) for line in _LINE_ENDS.split(row.text)))
        if not example:
            text = row.text.replace(_UNIT_SEPARATOR, "::")[:120]
            example.append(f"{text!r} has {row.actual_columns} fields")
        return "skip"

    with progress(None, f"reading {path.name}", "rows") as bar:
        for batch in _guarded(path, _batches(path, dialect, wanted, header, skip)):
            read += batch.num_rows
            bar.advance(batch.num_rows)
            yield batch
    # Added at the end only: where the encoding fails half way, the second pass counts from nothing.
    malformed = sum(skipped)
    drop_counts[MALFORMED] += malformed
    drop_counts["read"] += read + malformed
    if malformed > read:
        raise InputError(
            f"{path}: {malformed:,} of {read + malformed:,} rows do not have "
            f"{dialect.fields} fields, e.g. {example[0]}; expected are as many in every row, "
            "with quotes around texts that hold the delimiter"
        )


def _batches(
    path: Path,
    dialect: Dialect,
    wanted: Mapping[str, int],
    header: bool,
    skip: Callable[[pacsv.InvalidRow], str],
) -> Iterator[pa.RecordBatch]:
    loan = _Loan()
    with _open(path, dialect.packed) as raw:
        try:
            reader = _open_reader(raw, dialect, wanted, header, skip, loan)
            yield from reader
        finally:
            # The reader holds what was lent, so it goes first; else the wait would always time out.
            reader = None
            loan.wait()


def _open_reader(
    raw: pa.NativeFile,
    dialect: Dialect,
    wanted: Mapping[str, int],
    header: bool,
    skip: Callable[[pacsv.InvalidRow], str],
    loan: "_Loan",
) -> pacsv.CSVStreamingReader:
    names = {position: name for name, position in wanted.items()}
    columns = [names.get(i, f"field {i}") for i in range(dialect.fields)]
    two = dialect.delimiter == "::"
    return pacsv.open_csv(
        _source(raw, dialect, loan),
        read_options=pacsv.ReadOptions(
            block_size=_BLOCK_BYTES,
            # Names are given even where the file has some: two columns of one name are legal there.
            column_names=columns,
            skip_rows=dialect.blank,
            skip_rows_after_names=int(header),
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=_UNIT_SEPARATOR if two else dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            # Slower, so only where quotes count: Arrow then cannot cut blocks at any line end.
            newlines_in_values=dialect.quoted,
            # A lambda of its own, for `skip` lives on in the caller and would never be given back.
            invalid_row_handler=loan.lend(lambda row: skip(row)),
        ),
        convert_options=pacsv.ConvertOptions(
            include_columns=list(wanted),
            # Types are never guessed: an id such as "007" must stay text, and "NA" is a title.
            column_types=dict.fromkeys(wanted, _CODED),
            strings_can_be_null=False,
        ),
    )


def _source(raw: pa.NativeFile, dialect: Dialect, loan: "_Loan") -> pa.NativeFile:
    """The file in UTF-8, with one byte between its fields."""
    source = raw
    if dialect.encoding != "utf-8":
        decoder = codecs.getincrementaldecoder(dialect.encoding)()

        def transcode(chunk: pa.Buffer) -> bytes:
            return decoder.decode(chunk.to_pybytes(), final=not len(chunk)).encode()

        # A partial, since an error in transcode holds transcode itself by its traceback.
        source = pa.TransformInputStream(raw, loan.lend(partial(transcode)))
    if dialect.delimiter == "::":
        source = pa.PythonFile(loan.lend(_OneByteDelimiter(source)), mode="r")
    return source


class _Loan:
    """Python objects that Arrow's threads hold, and still hold a moment after the last row.

    If the interpreter ends in that moment (an error right after the file's end), the thread that
    drops the object aborts the process, so the lender waits until all is given back.
    """

    def __init__(self) -> None:
        self._returned: list[threading.Event] = []

    def lend(self, thing: _T) -> _T:
        returned = threading.Event()
        # At exit all finalizers run, which would say "returned" while a thread still holds it.
        weakref.finalize(thing, returned.set).atexit = False
        self._returned.append(returned)
        return thing

    def wait(self) -> None:
        for returned in self._returned:
            returned.wait(_PATIENCE_S)


def _guarded(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn Arrow's complaints into errors a user can act on."""
    # Arrow has one exception for all of these, so its text has to tell them apart.
    try:
        yield from batches
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise UnicodeError(str(error)) from error
        if "straddling" in str(error):
            raise InputError(
                f'{path}: a quote (") is opened and not closed within {_BLOCK_BYTES >> 20} MiB; '
                'close it, or write it twice ("") where it belongs to a text'
            ) from error
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    except UnicodeDecodeError as error:  # UTF-16 (Latin-1 has no invalid bytes)
        raise damaged(path, error) from error
    except OSError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> InputError:
    """The error for a file whose content breaks off or does not unpack."""
    what = str(error).partition(". Detail:")[0]
    return InputError(f"{path} is damaged or was cut off ({what}). Get the file again")


class _OneByteDelimiter(io.RawIOBase):
    """A file with `::` between its fields, read with one byte in place of the two.

    Where the file holds that byte itself, it reads as the substitute character. (MovieLens has such
    files, and Arrow takes one byte only as a delimiter.)
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._held + bytes(self._file.read(size - len(self._held) if size > 0 else -1))
        # Colons at the end wait for the next piece: a delimiter may be cut in two there.
        body = chunk.rstrip(b":") if len(chunk) == size else chunk
        self._held = chunk[len(body) :]
        plain = body.replace(_UNIT_SEPARATOR.encode(), _SUBSTITUTE.encode())
        return plain.replace(b"::", _UNIT_SEPARATOR.encode())


def _open(path: Path, packed: bool) -> pa.NativeFile:
    return pa.input_stream(str(path), compression="gzip" if packed else None)


def head_of(path: Path, size: int = HEAD_BYTES) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked (-1: all of them), and whether it is packed with gzip.

    Raises:
        InputError: it is missing, damaged, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return file.read(size), packed
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _decode(raw: bytes) -> tuple[Literal["utf-8", "utf-16", "latin-1"], str]:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", raw[: len(raw) // 2 * 2].decode("utf-16", "replace")
    try:
        return "utf-8", raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(raw) == HEAD_BYTES and error.start >= len(raw) - 3:  # a character cut in two
            return "utf-8", raw[: error.start].decode("utf-8-sig")
        return "latin-1", raw.decode("latin-1")


def _split(text: str, delimiter: Delimiter, quoted: bool, whole: bool) -> list[list[str]]:
    """The first rows under a delimiter; the last one is left out where it may be cut off."""
    if delimiter == "::":
        text = text.replace(_UNIT_SEPARATOR, _SUBSTITUTE).replace("::", _UNIT_SEPARATOR)
        delimiter_byte = _UNIT_SEPARATOR
    else:
        delimiter_byte = delimiter
    if quoted:
        reader: Iterator[list[str]] = csv.reader(io.StringIO(text, ""), delimiter=delimiter_byte)
    else:
        reader = (line.split(delimiter_byte) for line in _LINE_ENDS.split(text))
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row and row != [""]:
                rows.append(row)
            if len(rows) > _HEAD_ROWS:
                break
    except csv.Error:  # a field longer than the csv module allows: a quote that is not closed
        return []
    return rows if (whole and len(rows) <= _HEAD_ROWS) or len(rows) < 2 else rows[:-1]


def describe_columns(names: Sequence[str]) -> str:
    """Names of a file's columns for an error message."""
    shown = ", ".join(repr(name) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
