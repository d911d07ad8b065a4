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
    style = page_source("pmm.serve", "page.css")
    script = "\n".join(page_source("pmm.serve", name) for name in SCRIPTS)
    policy = content_policy(style, script, pictures=pictures, asks=asks)
    parts = {"policy": policy, "style": style, "script": script, "data": embeddable(data)}
    # In one pass, so that a mark inside of a part stays what it is.
    html = _MARK.sub(lambda found: parts[found[1]], page_source("pmm.serve", "page.html"))
    return Page(html=html, policy=policy)


def content_policy(style: str, script: str, *, pictures: str, asks: str) -> str:
    """A Content-Security-Policy under which a page's own style and script run, and nothing else.

    Args:
        style: the page's one style, as it stands in its tag.
        script: its one script.
        pictures: where pictures may come from ("data:").
        asks: whom the script may ask ("'none'").
    """
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
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@functools.cache
def page_source(package: str, name: str) -> str:
    """A file of a package's folder `page/`; no style or script of it ends its own tag."""
    text = (files(package) / "page" / name).read_text(encoding="utf-8")
    if name.endswith((".js", ".css")) and re.search(r"</(script|style)", text, re.IGNORECASE):
        raise ValueError(f"{name} would end its own tag")
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
