"""The page as a file: one piece, with a policy that fits it, whatever its data holds."""

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.serve.page_file import Page, embeddable, page_of, served_page

SOURCES = sorted((Path(__file__).parents[2] / "pmm" / "serve" / "page").iterdir())


class Parts(html.parser.HTMLParser):
    """The tags of a page, and what stands in its styles and scripts."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(page.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("style", "script") and data.strip():
            self.inside.append((self.tags[-1][0], data))


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGES = [served_page(), page_of({"items": []})]


@pytest.mark.parametrize("page", PAGES, ids=["served", "file"])
def test_the_policy_lets_this_style_and_this_script_run_and_nothing_else(page: Page) -> None:
    parts = Parts(page)
    style, data, script = (text for _, text in parts.inside)
    rules = dict(each.strip().split(" ", 1) for each in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == f"'{digest(style)}'"
    assert rules["script-src"] == f"'{digest(script)}'"
    assert json.loads(data) in (None, {"items": []})
    (meta,) = [a for tag, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert meta["content"] == page.policy
    assert page.headers["Content-Security-Policy"].startswith(page.policy)
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("page", PAGES, ids=["served", "file"])
def test_the_page_is_one_file_without_handlers_or_styles_in_tags(page: Page) -> None:
    parts = Parts(page)
    for tag, attributes in parts.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action"):
            address = attributes.get(name) or ""
            assert address in ("", "data:,") or address.startswith("#"), (tag, address)
    assert not re.findall(r"https?://|@import|url\(", page.html)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_source_of_the_page_makes_html_of_texts(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    made = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    assert re.findall(made, text) == []


def test_every_control_has_a_label() -> None:
    parts = Parts(served_page())
    labelled = {a.get("for") for tag, a in parts.tags if tag == "label"}
    text = served_page().html
    for tag, attributes in parts.tags:
        if tag in ("input", "select", "textarea"):
            within = re.search(
                rf'<label[^>]*>(?:(?!</label>).)*id="{attributes["id"]}"', text, re.S
            )
            assert attributes["id"] in labelled or within, attributes


JSON = st.recursive(
    st.text() | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(JSON, st.sampled_from(["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "/*script*/"]))
def test_data_comes_back_as_it_was_and_ends_no_tag(data: object, hostile: str) -> None:
    given = {"data": data, hostile: [hostile]}
    assert json.loads(embeddable(given)) == given
    assert not re.search(r"[<>&\u2028]", embeddable(given))
    page = page_of(given)
    kinds = [tag for tag, _ in Parts(page).tags if tag == "script"]
    assert len(kinds) == 2
    assert json.loads(Parts(page).inside[1][1]) == given
