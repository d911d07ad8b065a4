"""Clean text: what a shop's export holds, as the words a reader would see."""

import html
import re
import unicodedata

_INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)
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


def clean_text(raw: str | None) -> str:
    """Decode entities, remove markup, fold white space, normalise to NFC; nothing gives "".

    Markup goes before and after the entities are decoded, since exports hold both `<b>` and
    `&lt;b&gt;`; a tag that the text's end cuts off (`<span class="a"`) is markup too. A `<` that
    opens no tag stays.

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


def clean_title(raw: str | None) -> str:
    """A title as `clean_text` gives it; "" where an export put a page's styles or scripts there.

    >>> clean_title("Tee &amp; jeans"), clean_title(".a-box-inner{background-color:#fff}")
    ('Tee & jeans', '')
    """
    return "" if raw and _PROGRAM.search(raw) else clean_text(raw)


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
