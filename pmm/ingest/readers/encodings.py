"""Which encoding a text file is in, by all of its bytes, and its lines in UTF-8 as blocks.

UTF-8 is decoded line by line, so that a bad byte costs a character and never another row. Another
encoding is taken only where most lines that are not ASCII cannot be UTF-8, and always said. Of what
a file's encoding does not have, `MARK` stands in a block's lines.
"""

import codecs
import encodings.aliases
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pmm.errors import InputError, nearest
from pmm.ingest.readers.plain_file import HEAD_BYTES, damaged, head_of, read_chunks

logger = logging.getLogger(__name__)

MARK = "\ufdd0"
"""Stands where bytes could not be decoded: no character, so no text has it of its own."""

REPLACEMENT = "\ufffd"
"""What becomes of `MARK` in a text."""

BLOCK_BYTES = 8 << 20

ASKED, _MARKED = "--encoding names it", "it begins with a byte-order mark"

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a detector names is often a subset of what programs write under that name.
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
}
_COMMON = (
    *("utf-8", "utf-16", "gb18030", "gbk", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1250"),
    *("cp1251", "cp1252", "cp1253", "cp1254", "koi8-r", "latin-1", "iso8859-2", "iso8859-15"),
)
# Encodings that write all of their characters in bytes of ASCII.
_SEVEN_BITS = ("utf-7", "hz", "iso2022")
_SHIFTS = {b"\x1b$B": "iso2022_jp_2", b"\x1b$@": "iso2022_jp_2", b"\x1b$)C": "iso2022_kr"}
_SAMPLE_BYTES = 64 << 10
_DOUBLE = ("gb18030", "big5hkscs", "cp932", "cp949", "euc_jp")
_WITH_GAPS = ("cp1250", "cp1251", "cp1252", "cp1253", "cp1254")
"""Of single bytes, some of which they do not have."""
_LATIN = ("cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "iso8859-2", "iso8859-15")
_WESTERN, _MOST = 0.88, 0.8
"""Least shares of the lines that are not UTF-8 that read as Western, or fit another encoding."""
_FEW = 3
"""Fewer lines than these say little of an encoding of single bytes."""
# Letters that Western languages write: not ÿ, þ and ð, which are what other bytes come out as.
_LOWER = "àáâãäåæçèéêëìíîïñòóôõöøùúûüœšžß"
_LETTERS = _LOWER + _LOWER[:-1].upper()
_SIGNS = "’‘“”„–—…•·®™©€£¥°½¼¾²³«»¡¿ªº´§×\xa0"
_ODD = re.compile(
    rf"[^\x00-\x7f{_LETTERS}{_SIGNS}]"
    rf"|[a-z{_LOWER}][{_LETTERS[len(_LOWER) :]}]"  # a capital in the middle of a word
    rf"|[A-Za-z][^\x00-\x7f{_LETTERS}’´·][A-Za-z]"  # a sign in the middle of a word
    rf"|[{_LETTERS}]{{4}}"
)
# Vowels are words of their own ("à", "è", "é"), other letters are not.
_ALONE = re.compile(
    rf"(?<![A-Za-z{_LETTERS}])(?![àáâèéêíîòóôùú])[{_LETTERS}](?![A-Za-z{_LETTERS}])"
)
_KANA = re.compile(r"[\u3040-\u30ff]")


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """How the bytes of a file become text."""

    name: str
    """As Python knows it."""
    why: str = ""
    """What speaks for it; "" where all of the file is UTF-8."""
    quotes: bool = True
    """Whether the file holds a double quote at all."""

    def is_guess(self) -> bool:
        """Whether it was found out from the text, so that it may be wrong."""
        return bool(self.why) and self.why not in (ASKED, _MARKED)

    def describe(self) -> dict[str, str]:
        """For the card: the reason only where there is something to say."""
        return {"encoding": self.name} | ({"encoding_because": self.why} if self.why else {})


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole lines of a file, in UTF-8, each with `\\n` at its end."""

    first: int
    """Number of its first line in the file, from 1."""
    data: bytes
    bad: frozenset[int] = frozenset()
    """Lines with bytes that could not be decoded, from 0 in this block; `MARK` stands there."""


def known_encoding(name: str | None) -> str | None:
    """An encoding by the name that a user gave it.

    >>> known_encoding("GB2312"), known_encoding("Windows-1251"), known_encoding(None)
    ('gb2312', 'cp1251', None)

    Raises:
        InputError: there is no such encoding of text; the message has the nearest name.
    """
    if name is None:
        return None
    try:
        found: Any = codecs.lookup(name.strip())
    except (LookupError, ValueError):
        found = None
    if found is None or not found._is_text_encoding or found.name in _NO_FILES:
        further = sorted(set(encodings.aliases.aliases.values()) - {*_COMMON, *_NO_FILES})
        hint = nearest(name.strip(), [*_COMMON, *further])
        raise InputError(f'--encoding "{name}" is no encoding of text: {hint}')
    return "utf-8" if found.name == "utf-8-sig" else str(found.name)


_NO_FILES = {
    *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"),
    *("idna", "punycode", "raw_unicode_escape", "unicode_escape", "mbcs", "oem", "undefined"),
}


def find_encoding(path: Path, asked: str | None = None) -> TextEncoding:
    """The encoding of a file.

    A byte-order mark decides, and so does what the user has asked for where the file holds anything
    but ASCII. Else it is UTF-8, unless more of the lines that are not ASCII cannot be UTF-8 than
    can; then what they are is detected.

    Args:
        path: the file; all of it is read, once for each state of it.
        asked: name of an encoding, from `known_encoding`.

    Raises:
        InputError: the file is missing or damaged, or is in no encoding that is known or in another
            than was asked for.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return _find_encoding(path, (state.st_ino, state.st_size, state.st_mtime_ns), asked)


@lru_cache(maxsize=64)
def _find_encoding(path: Path, _state: tuple[int, ...], asked: str | None) -> TextEncoding:
    head = head_of(path)[0]
    marked = next((name for bom, name in _BOMS if head.startswith(bom)), None)
    if marked is None and asked is None:
        marked = _without_mark(head)
        if marked is not None:
            return TextEncoding(name=marked, why="every other byte near its beginning is zero")
        shifted = next((name for shift, name in _SHIFTS.items() if shift in head), None)
        if shifted is not None:
            return TextEncoding(name=shifted, why="it changes character sets by escape sequences")
    if marked not in (None, "utf-8"):
        return TextEncoding(name=str(marked), why=_MARKED)
    if asked is not None and marked is None and not _splits_at_bytes(asked):
        return TextEncoding(name=_wide(path, asked), why=ASKED)
    tally = _Tally(asked if marked is None else None)
    for first, lines in _line_chunks(path):
        tally.add(lines, first)
    return tally.decide(path)


def _wide(path: Path, asked: str) -> str:
    """An encoding that is no superset of ASCII, if the file is in it; a file of ASCII is ASCII."""
    if not asked.startswith(_SEVEN_BITS) and all(
        chunk.isascii() and b"\x00" not in chunk for chunk in read_chunks(path, 1 << 20)
    ):
        return "utf-8"
    try:
        lines = bad = 0
        for block in read_blocks(path, asked):
            lines, bad = lines + block.data.count(b"\n"), bad + len(block.bad)
    except InputError:
        raise _not_as_asked(path, asked, "its bytes break off") from None
    if bad * 2 > lines:
        raise _not_as_asked(path, asked, f"{bad:,} of {lines:,} lines do not fit")
    return asked


def _not_as_asked(path: Path, asked: str, why: str) -> InputError:
    return InputError(
        f"{path} is not in the encoding {asked} that --encoding names: {why}. Leave --encoding "
        "out to have it detected, or name another"
    )


@dataclass(kw_only=True)
class _Share:
    """Lines that are not ASCII, by whether they can be read in an encoding."""

    good: int = 0
    bad: int = 0


@dataclass
class _Tally:
    """What the lines of a file say of its encoding."""

    asked: str | None
    utf8: _Share = field(default_factory=_Share)
    as_asked: _Share = field(default_factory=_Share)
    broken: int = 0
    """Of the lines that are not UTF-8, those most of whose characters are."""
    controls: bool = False
    """Whether they hold bytes that are control characters in Latin-1."""
    quotes: bool = False
    lines: int = 0
    sample: list[bytes] = field(default_factory=list)
    first_bad: int = 0
    _met: int = 0
    _every: int = 1

    def add(self, chunk: bytes, first: int) -> None:
        """Count the lines of a chunk."""
        self.quotes = self.quotes or b'"' in chunk
        self.lines += _lines(chunk)
        if chunk.isascii():
            return
        whole = _decodes(chunk, "utf-8")
        if self.asked is not None and not _decodes(chunk, self.asked):
            for line in chunk.splitlines():
                if not line.isascii():
                    self._count(self.as_asked, _decodes(line, self.asked))
        elif self.asked is not None:
            self.as_asked.good += _not_ascii(chunk)
        if whole:
            self.utf8.good += _not_ascii(chunk)
            return
        for at, line in enumerate(chunk.splitlines()):
            if line.isascii():
                continue
            good = _decodes(line, "utf-8")
            self._count(self.utf8, good)
            if not good:
                self.first_bad = self.first_bad or first + at
                self._keep(line)

    def _count(self, share: _Share, good: bool) -> None:
        if good:
            share.good += 1
        else:
            share.bad += 1

    def _keep(self, line: bytes) -> None:
        self.broken += _is_broken_utf8(line)
        self.controls = self.controls or re.search(rb"[\x80-\x9f]", line) is not None
        if self._met % self._every == 0:
            self.sample.append(line)
            if sum(map(len, self.sample)) > _SAMPLE_BYTES and len(self.sample) > 1:
                self.sample, self._every = self.sample[::2], 2 * self._every
        self._met += 1

    def decide(self, path: Path) -> TextEncoding:
        """The encoding of the file whose lines these are."""
        if self.asked is not None:
            return self._as_asked(path)
        bad, good = self.utf8.bad, self.utf8.good + self.broken
        if bad <= good:
            return TextEncoding(name="utf-8", quotes=self.quotes)
        name, by = _detect(self.sample)
        if name is None:
            if bad < _FEW or bad * 100 < self.lines:
                return TextEncoding(name="utf-8", quotes=self.quotes)
            raise InputError(
                f"{path}: {bad:,} of {bad + self.utf8.good:,} lines that are not ASCII are not "
                f"UTF-8 (the first is line {self.first_bad:,}), and no other encoding fits them. "
                "Name it with --encoding, e.g. --encoding cp1251; with --encoding utf-8 it is read "
                "with U+FFFD in their place"
            )
        if name == "cp1252" and not self.controls:
            name = "latin-1"
        why = (
            f"{bad:,} of {bad + self.utf8.good:,} lines that are not ASCII are not UTF-8 (the "
            f"first is line {self.first_bad:,}); {by}, e.g. {_shown(self.sample[0], name)}"
        )
        return TextEncoding(name=name, why=why, quotes=self.quotes)

    def _as_asked(self, path: Path) -> TextEncoding:
        name, share = str(self.asked), self.as_asked
        if not share.good + share.bad:
            return TextEncoding(name="utf-8", quotes=self.quotes)
        if share.bad > share.good and name != "utf-8":
            why = f"{share.bad:,} of {share.bad + share.good:,} lines that are not ASCII do not fit"
            raise _not_as_asked(path, name, why)
        if name != "utf-8" and self.utf8.good and not self.utf8.bad:
            logger.warning(
                "%s is read as %s, as --encoding says, although all of it is valid UTF-8",
                path.name,
                name,
            )
        return TextEncoding(name=name, why=ASKED if name != "utf-8" else "", quotes=self.quotes)


def _is_broken_utf8(line: bytes) -> bool:
    """Whether a line that is not UTF-8 was so before something happened to it."""
    text = line.decode("utf-8", "replace")
    errors = text.count(REPLACEMENT)
    if sum(each > "\x7f" for each in text) > 2 * errors:
        return True
    try:  # as Java writes it, or with characters cut in halves before they were written
        line.replace(b"\xc0\x80", b"").decode("utf-8", "surrogatepass")
        return True
    except UnicodeDecodeError as error:  # a character cut off after two bytes or three
        return errors == 1 and error.end - error.start > 1


def _not_ascii(chunk: bytes) -> int:
    return sum(not line.isascii() for line in chunk.splitlines())


def _decodes(raw: bytes, name: str) -> bool:
    try:
        raw.decode(name)
    except UnicodeError:
        return False
    return True


def _splits_at_bytes(name: str) -> bool:
    """Whether line ends, delimiters and quotes are the same bytes as in ASCII."""
    plain = "\n\r\t,;:\"'09azAZ"
    try:
        return not name.startswith(_SEVEN_BITS) and plain.encode(name) == plain.encode()
    except UnicodeError:
        return False


def _without_mark(head: bytes) -> str | None:
    """UTF-16 without a byte-order mark, told by the zero bytes of its ASCII."""
    units = len(head) // 2
    zeros = {"utf-16-le": head[1::2].count(0), "utf-16-be": head[0::2].count(0)}
    name = max(zeros, key=lambda each: zeros[each])
    if zeros[name] < max(2, units // 20) or min(zeros.values()) * 20 > zeros[name]:
        return None
    try:
        text = head[: units * 2].decode(name, "strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeError:
        return None
    control = re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)
    return name if control is None and re.search(r"[\n\r]", text) else None


def _detect(lines: list[bytes]) -> tuple[str | None, str]:
    """The encoding of lines that are not UTF-8, and what speaks for it; None where none fits."""
    western = sum(_is_western(line) for line in lines)
    if western >= _WESTERN * len(lines):
        return "cp1252", f"{western:,} of {len(lines):,} looked at read as Western words in it"
    # A detector refuses an encoding of which one character is cut, so it is shown the lines that
    # are whole in all of those that may be it.
    whole = [[_decodes(line, name) for line in lines] for name in (*_DOUBLE, *_WITH_GAPS)]
    likely = [fits for fits in whole if sum(fits) >= _MOST * len(lines)]
    clean = [line for line, *fits in zip(lines, *likely, strict=True) if all(fits)]
    name = _likeliest(clean if 2 * len(clean) > len(lines) else lines)
    if name is None:
        return None, ""
    fitting = sum(_decodes(line, name) for line in lines)
    damage = name not in _DOUBLE and _is_scattered(lines)
    if damage and len(lines) >= _FEW and name in _LATIN:
        text = "".join(re.findall(r"[^\x00-\x7f]", b" ".join(lines).decode(name, "replace")))
        letters = sum(each.isalpha() for each in text)
        damage = letters < 0.7 * len(text) or (name == "cp1252" and western < len(lines) / 2)
    if fitting < _MOST * len(lines) or damage:
        return None, ""
    return (
        name,
        f"{fitting:,} of {len(lines):,} looked at fit it, and its letters are the likeliest",
    )


def _likeliest(lines: list[bytes]) -> str | None:
    """What the detector says."""
    import chardet  # only here, for its tables take a quarter of a second to load

    text = b"\n".join(lines)
    found = chardet.detect(
        text, encoding_era=chardet.EncodingEra.MODERN_WEB, max_bytes=2 * _SAMPLE_BYTES
    )
    try:
        name = codecs.lookup(str(found["encoding"])).name
    except LookupError:
        return None
    name = _WIDER.get(name, name)
    if name.startswith("euc_j") and not _KANA.search(text.decode(name, "replace")):
        name = "gb18030"  # the two share most bytes, and Japanese without kana is hardly written
    return name if _splits_at_bytes(name) and name != "utf-8" else None


def _shown(line: bytes, name: str) -> str:
    """A line as it is read, for the user to judge by."""
    text = line.decode(name, "replace")[:80]
    return repr("".join(each if each.isprintable() else " " for each in text).strip())


def _is_western(line: bytes) -> bool:
    """Whether a line reads as words of a Western language in Windows' code page 1252."""
    text = line.decode("cp1252", "replace")
    return not _ODD.search(text) and not _ALONE.search(text)


def _is_scattered(lines: list[bytes]) -> bool:
    """Whether bytes beyond ASCII stand alone as a rule, as damage does, and not in words."""
    runs = [run for line in lines for run in re.findall(rb"[\x80-\xff]+", line)]
    return sum(len(run) == 1 for run in runs) * 2 > len(runs)


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError) or error.reason == "truncated data":
        raise error
    return MARK, error.end


codecs.register_error("pmm-mark", _mark)


def read_blocks(path: Path, name: str, size: int | None = None) -> Iterator[Block]:
    """The lines of a file in UTF-8, in blocks of about 8 MiB of the file; line ends become `\\n`.

    Args:
        path: the file.
        name: of its encoding.
        size: of a block; None = 8 MiB.

    Raises:
        InputError: it is damaged, or has a line longer than a block.
    """
    if _splits_at_bytes(name):
        for first, raw in _line_chunks(path, size):
            if first == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            data, bad = _to_utf8(raw, name)
            yield Block(first=first, data=data, bad=bad)
    else:
        yield from _wide_blocks(path, name, size or BLOCK_BYTES)


def _line_chunks(path: Path, size: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Whole lines as they stand in the file, and the number of the first of them."""
    size = size or BLOCK_BYTES
    first, rest = 1, b""
    for chunk in read_chunks(path, size):
        chunk = rest + chunk
        cut = _last_end(chunk)
        if cut == 0 and len(chunk) > max(2 * size, 1 << 20):
            raise InputError(
                f"{path}: line {first:,} is longer than {len(chunk) // 2 >> 20} MiB, so this is no "
                "table of rows"
            )
        if cut:
            yield first, chunk[:cut]
            first += _lines(chunk[:cut])
        rest = chunk[cut:]
    if rest:
        yield first, rest


def _last_end(chunk: bytes) -> int:
    """Position after the last line end; 0 where there is none."""
    cut = chunk.rfind(b"\n") + 1
    # A carriage return at the end may be the first half of a line end.
    return cut or chunk.rfind(b"\r", 0, len(chunk) - 1) + 1


def _lines(chunk: bytes) -> int:
    """How many line ends there are."""
    if b"\r" not in chunk:
        # Several times as fast as bytes.count, which stops at each of them.
        return int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
    return chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n")


def _to_utf8(raw: bytes, name: str) -> tuple[bytes, frozenset[int]]:
    """Lines in UTF-8, and which of them hold bytes that could not be decoded."""
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not raw.endswith(b"\n"):
        raw += b"\n"
    if raw.isascii():
        return raw, frozenset()
    try:
        text = raw.decode(name)
        return (raw if name == "utf-8" else text.encode()), frozenset()
    except UnicodeDecodeError:
        pass
    except UnicodeEncodeError:  # an encoding that gives lone surrogates (utf-7)
        return text.encode("utf-8", "replace"), frozenset()
    lines, bad = [], []
    for at, line in enumerate(raw[:-1].split(b"\n")):
        if not line.isascii() and not _decodes(line, name):
            bad.append(at)
        lines.append(line if line.isascii() else line.decode(name, "pmm-mark").encode())
    return b"\n".join(lines) + b"\n", frozenset(bad)


def _wide_blocks(path: Path, name: str, size: int) -> Iterator[Block]:
    """The same of UTF-16 and what else has other bytes for line ends than ASCII."""
    decoder = codecs.getincrementaldecoder(name)("pmm-mark")
    first, rest, ended = 1, "", False
    chunks = read_chunks(path, size)
    while not ended:
        chunk = next(chunks, b"")
        ended = not chunk
        try:
            text = rest + decoder.decode(chunk, final=ended)
        except UnicodeError as error:
            raise damaged(path, error) from error
        text = text.replace("\r\n", "\n")
        held = text[-1:] if text.endswith("\r") and not ended else ""
        text = text[: len(text) - len(held)].replace("\r", "\n")
        cut = len(text) if ended else text.rfind("\n") + 1
        if not cut and len(text) > max(2 * size, 1 << 20):
            raise InputError(f"{path}: line {first:,} is too long, so this is no table of rows")
        lines, rest = text[:cut], text[cut:] + held
        if lines:
            lines += "" if lines.endswith("\n") else "\n"
            bad = [at for at, line in enumerate(lines.split("\n")) if MARK in line]
            yield Block(first=first, data=lines.encode("utf-8", "replace"), bad=frozenset(bad))
            first += lines.count("\n")
