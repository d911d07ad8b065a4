"""Clean text: what a shop's export holds, as the words a reader would see.

A text costs time in proportion to its length, whatever it holds, and of a long one only the
beginning is read: 50 sub-words of it are used.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

LONGEST_RAW = 100_000
"""Characters of a raw text that are read; the rest is markup of a page, or an attack."""
LONGEST_TEXT = 10_000
"""Characters of a clean text that are kept."""

_HIDES = re.compile(r"<!--|<(script|style)\b", re.IGNORECASE)
_ENDS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style")}
_NAMES = (
    "span|div|img|br|hr|li|ul|ol|td|tr|th|table|tbody|thead|font|center|strong|em|script|style|"
    "iframe|html|body|head|link|meta|form|label|input|button|noscript|h[1-6]"
)
_TAG = re.compile(
    r"</?[a-z!?][^<>]*>"
    # Cut off at the end of the text: a known name, or any name with an attribute, or a closing tag.
    rf"|<(?:(?:{_NAMES})(?:[\s/][^<>]*)?|[a-z]\w*\s+[\w-]+\s*=[^<>]*|/[a-z]\w*\s*)\Z",
    re.IGNORECASE,
)
_PROGRAM = re.compile(
    r"(?:^|[\s,}])[.#][a-z][\w-]+[^{}]{0,200}\{\s*[\w-]+\s*:"  # a rule of CSS
    r"|\bfunction\s?\w*\(|\bvar\s+\w+\s*=|<!--|<(?:script|style)\b",
    re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Python makes no number of thousands of digits; of these only the value counts, and any of more
# than seven digits is beyond Unicode.
_LONG_NUMBER = re.compile(r"&#([0-9]{8,})")
_MOST_MARKS = 30
"""Combining marks in a row that are kept, as in the Stream-Safe Text Format (UAX 15)."""


def clean_text(raw: str | None) -> str:
    """Decode entities, remove markup, fold white space, normalise to NFC; nothing gives "".

    Markup goes before and after the entities are decoded, since exports hold both `<b>` and
    `&lt;b&gt;`; a tag that the text's end cuts off (`<span class="a"`) is markup too. A `<` that
    opens no tag stays. Of the raw text `LONGEST_RAW` characters are read, of the clean one
    `LONGEST_TEXT` kept, and of combining marks in a row 30.

    >>> clean_text(" <b>Tee</b> &amp; jeans,<br>a&nbsp;<script>x()</script> set 5 < 6 ")
    'Tee & jeans, a set 5 < 6'
    >>> clean_text(None)
    ''
    """
    if not raw:
        return ""
    text = _without_markup(raw[:LONGEST_RAW])
    if "&" in text:
        text = _without_markup(html.unescape(_LONG_NUMBER.sub(_short_number, text)))
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    text = " ".join(text.split())[:LONGEST_TEXT].rstrip()
    return text if text.isascii() else _composed(text)


def _without_markup(text: str) -> str:
    if "<" not in text:
        return text
    return _TAG.sub(" ", " ".join(_visible(text)))


def _visible(text: str) -> Iterator[str]:
    """What stands between comments, scripts and styles."""
    # By hand, for as one expression each "<script" without a ">" would search the whole rest.
    start = at = 0
    closes = True  # whether a ">" follows
    while opening := _HIDES.search(text, at):
        at = opening.end()
        if opening[1] is None:
            end = text.find("-->", at) + 3
            end = end if end > 2 else len(text)
        else:
            tag = text.find(">", at) + 1 if closes else 0
            if not tag:  # cut off inside the tag: `_TAG` may know it
                closes = False
                continue
            close = _ENDS[opening[1].casefold()].search(text, tag)
            end = close.end() if close else len(text)
        yield text[start : opening.start()]
        start = at = end
    yield text[start:]


def _short_number(found: re.Match[str]) -> str:
    return "&#" + (found[1].lstrip("0")[:8] or "0")


def _composed(text: str) -> str:
    """NFC of no more than `_MOST_MARKS` marks in a row: their order costs the square of them."""
    composed = unicodedata.normalize(
        "NFC", _many_marks().sub(lambda run: run[0][:_MOST_MARKS], text)
    )
    return composed[:LONGEST_TEXT].rstrip()


@cache
def _many_marks() -> re.Pattern[str]:
    """Runs of too many combining marks."""
    decomposed = ((chr(n), unicodedata.normalize("NFD", chr(n))) for n in range(0x300, 0x1F000))
    marks = "".join(sign for sign, first in decomposed if unicodedata.combining(first[0]))
    return re.compile(f"[{marks}]{{{_MOST_MARKS + 1},}}")


def clean_title(raw: str | None) -> str:
    """A title as `clean_text` gives it; "" where an export put a page's styles or scripts there.

    >>> clean_title("Tee &amp; jeans"), clean_title(".a-box-inner{background-color:#fff}")
    ('Tee & jeans', '')
    """
    return "" if raw and _PROGRAM.search(raw[:LONGEST_RAW]) else clean_text(raw)


def join_text(description: str, tags: list[str]) -> str:
    """A description and its category tags as one text (paper IV-A: "we ... add categorical tags").

    >>> join_text("Vest top in cotton.", ["Vest top", "Garment Upper body", ""])
    'Vest top in cotton. Vest top, Garment Upper body'
    >>> join_text("Vest top", ["Black"])
    'Vest top. Black'
    """
    listed = ", ".join(tag for tag in tags if tag)
    if not description or not listed:
        return description or listed
    stop = "" if description[-1] in ".!?…。！？" else "."
    return f"{description}{stop} {listed}"
