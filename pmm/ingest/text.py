"""Clean text: what a shop's export holds, as the words a reader would see."""

import html
import re
import unicodedata

_INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"</?[a-z!?][^<>]*>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean_text(raw: str | None) -> str:
    """Decode entities, remove markup, fold white space, normalise to NFC; nothing gives "".

    Markup goes before and after the entities are decoded, since exports hold both `<b>` and
    `&lt;b&gt;`. A `<` that opens no tag stays.

    >>> clean_text(" <b>Tee</b> &amp; jeans,<br>a&nbsp;<script>x()</script> set 5 < 6 ")
    'Tee & jeans, a set 5 < 6'
    >>> clean_text(None)
    ''
    """
    if not raw:
        return ""
    text = _without_markup(raw)
    if "&" in text:
        text = _without_markup(html.unescape(text))
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    text = " ".join(text.split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _without_markup(text: str) -> str:
    if "<" not in text:
        return text
    return _TAG.sub(" ", _INVISIBLE.sub(" ", text))


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
