"""The page: HTML, style and script of `pmm/serve/page/`, joined into one file that fetches nothing.

Its Content-Security-Policy names the digests of that style and that script, so that nothing else
runs, whatever stands in data; and no script may set HTML from a text (Trusted Types).
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

SCRIPTS = ("elements.js", "served.js", "embedded.js", "page.js")
"""In the order in which they are joined into one module."""

_MARK = re.compile(r"/\*(policy|style|data|script)\*/")


@dataclass(frozen=True)
class Page:
    """A page, and what a server sends with it."""

    html: str
    policy: str
    """Its Content-Security-Policy; it stands in the page, too."""

    @property
    def headers(self) -> dict[str, str]:
        """For a server: the policy, which there also forbids frames around the page."""
        return {
            "Content-Security-Policy": f"{self.policy}; frame-ancestors 'none'",
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-cache",
        }


@functools.cache
def served_page() -> Page:
    """The page that asks the server it came from.

    >>> "connect-src 'self'" in served_page().policy
    True
    """
    return _joined(None, pictures="'self' data: blob:", asks="'self'")


def page_of(data: Mapping[str, Any]) -> Page:
    """The page that holds its data (`pmm.serve.gallery_data`) and asks nobody.

    >>> page = page_of({"text": "</script><img src=x onerror=alert(1)>"})
    >>> "</script><img" in page.html, "connect-src 'none'" in page.policy
    (False, True)
    """
    return _joined(data, pictures="data:", asks="'none'")


def embeddable(data: Any) -> str:
    r"""JSON that ends no script tag and begins no comment, whatever its texts hold.

    >>> embeddable(["</script>", "<!--", "é\u2028"])
    '["\\u003c/script\\u003e","\\u003c!--","\\u00e9\\u2028"]'
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # None of the three stands in JSON but inside a string.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _joined(data: Mapping[str, Any] | None, *, pictures: str, asks: str) -> Page:
    style = _source("page.css")
    script = "\n".join(_source(name) for name in SCRIPTS)
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_digest(script)}'",
        "style-src": f"'sha256-{_digest(style)}'",
        "img-src": pictures,
        "connect-src": asks,
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in rules.items())
    parts = {"policy": policy, "style": style, "script": script, "data": embeddable(data)}
    # In one pass, so that a mark inside of a part stays what it is.
    html = _MARK.sub(lambda found: parts[found[1]], _source("page.html"))
    return Page(html=html, policy=policy)


@functools.cache
def _source(name: str) -> str:
    text = (files("pmm.serve") / "page" / name).read_text(encoding="utf-8")
    if name.endswith((".js", ".css")) and re.search(r"</(script|style)", text, re.IGNORECASE):
        raise ValueError(f"{name} would end its own tag")
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
