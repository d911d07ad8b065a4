"""Text from data on its way to a terminal: what would command it, or turn a line round, is escaped.

Ids, titles and file names come from strangers. The command line puts `escaped_output` around all
that it does, so that whatever is printed, logged or told as an error goes through this one door.
"""

import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any, TextIO, cast

_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: ESC, CSI, backspace, carriage return …
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides, isolates
    r"\u2028\u2029"  # separators of lines and paragraphs
    r"\u180e\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff"  # not seen, of no use
    r"\ud800-\udfff\ue000-\uf8ff"  # halves of characters, private use
    r"\U000e0000-\U000e00ff\U000e01f0-\U0010ffff"  # tags, private use
)
_OF_LINES = re.compile(f"[{_UNSAFE}]")
_OF_ONE_LINE = re.compile(rf"[{_UNSAFE}\t\n]")


def escaped(text: str) -> str:
    r"""A text that may be printed: all but line ends and tabs that is not for reading, as escapes.

    Letters of every script stay, with what joins them; so do emoji.

    >>> print(escaped("i1\x1b[31m \u202e7 \u05d0\u05d1 👩‍💻"))
    i1\x1b[31m \u202e7 אב 👩‍💻
    """
    return _OF_LINES.sub(_escape, text)


def one_line(text: str) -> str:
    r"""The same for a place where a text must not begin a new line.

    >>> print(one_line("a\nError: b"))
    a\nError: b
    """
    return _OF_ONE_LINE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class EscapedStream:
    """A text stream that escapes what is written to it; all else is the stream's own.

    A carriage return in front of what is written to a terminal stays: so do bars of progress
    overwrite themselves.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; the number of its characters before they were escaped."""
        again = "\r" if text.startswith("\r") and self._stream.isatty() else ""
        self._stream.write(again + escaped(text[len(again) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape what is printed while the block runs, and the traceback of an error that ends it."""
    out, err = (_escaping(each) for each in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        except Exception:
            sys.excepthook = _show_error
            raise


def _escaping(stream: TextIO) -> TextIO:
    if stream is None or isinstance(stream, EscapedStream):
        return stream
    return cast("TextIO", EscapedStream(stream))


def _show_error(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    traceback.print_exception(kind, error, where, file=_escaping(sys.stderr))
