"""Lines of a delimited file -> its rows: which quotes count, and what is to be said of a row.

A field is quoted where a quote opens it and the next single quote closes it, right before a
delimiter or the end of the line (a quote in such a text is written twice). Any other quote is part
of its text. A quoted text may go over lines, unless each of those lines is a row like the others:
then the quote was never closed, and stands in its own row alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_LONGEST = 1 << 20
"""Bytes of a quoted text that goes over lines, at most."""
_LOOKED_AT = 100
"""Lines before and after a quote that is not closed on its line, to which those below are compared.
"""
_SHOWN = 5
# One byte a class of characters: what stands for itself are the signs of ASCII.
_CLASSES = bytes(
    ord("0")
    if chr(code) in "0123456789"
    else ord("a")
    if chr(code).isascii() and chr(code).isalpha()
    else min(code, 0x80)
    for code in range(256)
)

_Known = dict[int, dict[int, set[int]]]


@dataclass
class Places:
    """Lines of a file to which something applies."""

    count: int = 0
    first: list[int] = field(default_factory=list)
    """Numbers of the first few, from 1."""
    example: str = ""

    def add(self, line: int, example: str = "") -> None:
        """Count a line."""
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(line)
            self.example = self.example or example

    def update(self, more: "Places") -> None:
        """Count lines further down in the file."""
        self.count += more.count
        self.first += more.first[: _SHOWN - len(self.first)]
        self.example = self.example or more.example

    def where(self) -> str:
        """The lines in words: `line 3`, `lines 3, 7, 9, …`.

        >>> places = Places()
        >>> places.add(3)
        >>> places.add(17_000)
        >>> places.where()
        'lines 3, 17,000'
        """
        shown = ", ".join(f"{line:,}" for line in self.first)
        more = ", …" if self.count > len(self.first) else ""
        return f"line{'s' * (self.count > 1)} {shown}{more}"


@dataclass(frozen=True)
class SplitRow:
    """A row of a file."""

    at: int
    """Its first line, from 0 among the lines that were given."""
    lines: int
    fields: list[bytes]
    stray: bool
    """Whether a quote that opens a field is not closed at the end of one, and so is text."""
    plain: bool
    """Whether its line can be written as it is."""


class RowSplitter:
    """How the lines of one file are split into fields."""

    def __init__(self, delimiter: bytes, fields: int, *, quoted: bool) -> None:
        """Prepare.

        Args:
            delimiter: one byte.
            fields: of a row.
            quoted: whether quotes can hold fields together.
        """
        self.delimiter, self.fields, self.quoted = delimiter, fields, quoted
        self._field, self._opening = _patterns(delimiter)

    def split(self, line: bytes) -> tuple[list[bytes], bool, bool]:
        """The fields of a line; whether there is a stray quote; whether that may close below.

        >>> splitter = RowSplitter(b",", 2, quoted=True)
        >>> splitter.split(b'7,"a ""b"", c"')
        ([b'7', b'a "b", c'], False, False)
        >>> splitter.split(b'7,"a, b')
        ([b'7', b'"a', b' b'], True, True)
        """
        if not self.quoted or b'"' not in line:
            return line.split(self.delimiter), False, False
        fields: list[bytes] = []
        at, stray, opened = 0, False, False
        while True:
            found = self._field.match(line, at)
            if found:
                fields.append(found[1].replace(b'""', b'"'))
                end = found.end()
            else:
                if line.startswith(b'"', at):
                    opened = opened or self._opening.match(line, at) is not None
                    stray = True
                end = line.find(self.delimiter, at)
                end = len(line) if end < 0 else end
                fields.append(line[at:end])
            if end == len(line):
                return fields, stray, opened
            at = end + 1

    def fits(self, fields: Sequence[bytes]) -> bool:
        """Whether a row has the right number of fields, an empty one at its end not counted."""
        more = len(fields) - self.fields
        return more == 0 or (more == 1 and not fields[-1])

    def rows(self, lines: Sequence[bytes], *, ended: bool) -> Iterator[SplitRow]:
        """The rows of some lines, empty lines left out.

        Args:
            lines: without line ends.
            ended: whether the file ends with them; if not, rows end before one that goes on below.
        """
        known: _Known = {}
        at = 0
        while at < len(lines):
            line = lines[at]
            if not line:
                at += 1
                continue
            fields, stray, opened = self.split(line)
            span = 1
            if opened:
                further = self._over_lines(lines, at, known, ended=ended)
                if further is None:
                    return
                whole, span = further
                if span > 1:
                    fields, stray = whole, False
            yield SplitRow(at, span, fields, stray, plain=span == 1 and not stray)
            at += span

    def _over_lines(
        self, lines: Sequence[bytes], at: int, known: _Known, *, ended: bool
    ) -> tuple[list[bytes], int] | None:
        """The row that goes on in lines below, or ([], 1); None where these do not decide."""
        text, to = lines[at], at
        while True:
            size = len(text)
            for below in range(to + 1, len(lines)):
                to = below
                size += len(lines[to]) + 1
                if size > _LONGEST:
                    return [], 1
                if b'"' in lines[to] and self._opening.match(b'"' + lines[to]) is None:
                    break
            else:
                return ([], 1) if ended else None
            text = b"\n".join(lines[at : to + 1])
            fields, stray, opened = self.split(text)
            if not opened or len(fields) > self.fields:
                break
        own = opened or stray or not self.fits(fields) or self._are_rows(lines, at, to, known)
        return ([], 1) if own else (fields, to + 1 - at)

    def _are_rows(self, lines: Sequence[bytes], at: int, to: int, known: _Known) -> bool:
        """Whether each of the lines at…to is a row by itself that looks like those around."""
        own = [self.split(line)[0] for line in lines[at : to + 1]]
        if not all(self.fits(fields) for fields in own):
            return False
        window = at // _LOOKED_AT
        if window not in known:
            start = max(0, (window - 1) * _LOOKED_AT)
            known[window] = self._usual(lines[start : (window + 2) * _LOOKED_AT])
        return all(
            classes.issuperset(_classes_of(fields[column]))
            for fields in own
            for column, classes in known[window].items()
        )

    def _usual(self, lines: Sequence[bytes]) -> dict[int, set[int]]:
        """Column -> the classes of characters in rows, for the columns that tell rows from text.

        Those are the first one and that of the fewest classes: ids and times.
        """
        split = [self.split(line)[0] for line in lines if b'"' not in line]
        rows = [fields for fields in split if self.fits(fields)]
        if not rows:
            quoted = map(self.split, lines)
            rows = [fields for fields, stray, _ in quoted if not stray and self.fits(fields)]
        if not rows:
            return {}
        usual = [_common([row[column] for row in rows]) for column in range(self.fields)]
        fewest = min(range(self.fields), key=lambda column: len(usual[column]))
        return {column: usual[column] for column in {0, fewest}}

    def clean_rows(self, data: bytes, *, ended: bool) -> tuple[int, list[int]] | None:
        """How many lines are whole rows, and at which of them begin rows that go over lines.

        None where some quote is odd: it neither opens nor closes a field and is not written twice,
        or holds lines together that need not belong together.

        Args:
            data: lines, each with its end.
            ended: whether the file ends with them.
        """
        raw = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(raw == ord('"'))
        ends = np.flatnonzero(raw == ord("\n"))
        inside = np.searchsorted(quotes, ends) & 1
        outside = np.flatnonzero(inside == 0)
        if not len(outside) or (
            len(outside) < len(ends) and outside[-1] != len(ends) - 1 and ended
        ):
            return None
        used = int(outside[-1]) + 1
        if len(data) - int(ends[used - 1]) > _LONGEST:
            return None
        if not _are_at_fields(
            raw, quotes[: np.searchsorted(quotes, ends[used - 1])], self.delimiter
        ):
            return None
        starts = np.concatenate([[0], outside[:-1] + 1])
        spans = np.flatnonzero(outside > starts)
        if not len(spans):
            return used, []
        lines, known = data.split(b"\n"), dict[int, dict[int, set[int]]]()
        for at, to in zip(starts[spans].tolist(), outside[spans].tolist(), strict=True):
            text = b"\n".join(lines[at : to + 1])
            fields, stray, opened = self.split(text)
            if stray or opened or len(fields) != self.fields or len(text) > _LONGEST:
                return None
            if self._are_rows(lines, at, to, known):
                return None
        return used, starts[spans].tolist()

    def write(self, fields: Sequence[bytes]) -> bytes:
        """A row as a line in which quotes are where they have to be."""
        return self.delimiter.join(
            b'"' + value.replace(b'"', b'""') + b'"'
            if self.quoted and (b'"' in value or b"\n" in value or self.delimiter in value)
            else value
            for value in fields
        )


def _classes_of(value: bytes) -> set[int]:
    return set(value.strip(b'" ').translate(_CLASSES))


def _common(values: Sequence[bytes]) -> set[int]:
    """Classes of characters that more than a few of the values have."""
    counts = Counter(each for value in values for each in _classes_of(value))
    return {each for each, count in counts.items() if count * 30 >= len(values)}


def _are_at_fields(raw: NDArray[np.uint8], quotes: NDArray[np.int64], delimiter: bytes) -> bool:
    """Whether each of the quotes, an even number, opens or closes a field or is written twice."""
    opening, closing = quotes[::2], quotes[1::2]
    ends = np.zeros(256, bool)
    ends[[delimiter[0], ord("\n")]] = True
    doubled = np.zeros(len(opening) + 1, bool)
    doubled[1:-1] = opening[1:] == closing[:-1] + 1
    # What stands before one at the beginning is the last byte, a line end.
    opens = ends[raw[opening - 1]] | doubled[:-1]
    return bool((opens & (ends[raw[closing + 1]] | doubled[1:])).all())


@lru_cache
def _patterns(delimiter: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A quoted field up to its end; a quote that the text does not close."""
    end = re.escape(delimiter)
    return (
        re.compile(rb'"((?:[^"]++|"")*+)"(?=' + end + rb"|\Z)"),
        re.compile(rb'"(?:[^"]++|"")*+\Z'),
    )


@dataclass(frozen=True)
class Votes:
    """Rows that speak for or against quotes."""

    need: int = 0
    """Rows that have the right number of fields only where quotes count."""
    against: int = 0
    """Lines that have it only where they do not."""
    written: int = 0
    """Quoted fields with a quote in them that is written twice."""

    def __add__(self, more: "Votes") -> "Votes":
        return Votes(
            self.need + more.need, self.against + more.against, self.written + more.written
        )

    def decide(self) -> bool | None:
        """Whether quotes count; None where nothing speaks for either."""
        if self.need or self.against:
            return self.need > self.against
        return True if self.written else None


def vote(lines: Sequence[bytes], delimiter: bytes, fields: int, *, ended: bool) -> Votes:
    """What some lines say on whether quotes count in their file."""
    quoted = RowSplitter(delimiter, fields, quoted=True)
    need = against = written = 0
    for row in quoted.rows(lines, ended=ended):
        span = [line for line in lines[row.at : row.at + row.lines] if line]
        if not any(b'"' in line for line in span):
            continue
        plain = [len(line.split(delimiter)) == fields for line in span]
        fits = len(row.fields) == fields
        need += fits and not all(plain)
        against += not fits and all(plain)
        written += (
            not row.stray and any(b'"' in value for value in row.fields) and (b'""' in span[0])
        )
    return Votes(need, against, written)
