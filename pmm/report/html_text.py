"""HTML made of texts: whatever is no markup of ours is escaped, once, here."""

import html

from pmm.terminal import escaped


class Markup(str):
    """HTML that this package made; all other strings are texts."""

    __slots__ = ()


def element(name: str, *inside: str, **attributes: str | int | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the tag.
        inside: markup as it is, texts escaped.
        attributes: `class_` for class, `_` for `-`; None and False are left out, True is bare.

    >>> element("p", "1 < 2", element("b", "&"), class_="note")
    '<p class="note">1 &lt; 2<b>&amp;</b></p>'
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{joined(*inside)}</{name}>")


_VOID = frozenset({"br", "img", "hr"})


def joined(*parts: str) -> Markup:
    """Markup as it is and texts escaped, one behind the other."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts))


def text(value: str) -> Markup:
    r"""A text as HTML: what would be markup is escaped, what cannot be read is written out.

    >>> text('<img src=x onerror="x">\x00')
    '&lt;img src=x onerror=&quot;x&quot;&gt;\\x00'
    """
    return Markup(html.escape(escaped(value), quote=True))


def _attribute(name: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    shown = name.strip("_").replace("_", "-")
    return f" {shown}" if value is True else f' {shown}="{text(str(value))}"'
