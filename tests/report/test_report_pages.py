"""A report as HTML and as Markdown: one file, texts stay texts, its size is bounded and stated."""

import base64
import hashlib
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest

from pmm.report.html_page import html_page
from pmm.report.line_chart import ticks
from pmm.report.markdown_page import markdown_page, plain
from pmm.report.report_blocks import (
    Chart,
    Command,
    DataTable,
    Line,
    Ordered,
    Part,
    Point,
    ReportBlock,
    RunReport,
    Section,
    Tile,
    UserGallery,
    UserRow,
)
from pmm.statistics.over_seeds import Spread

SOURCES = sorted((Path(__file__).parents[2] / "pmm" / "report" / "page").iterdir())
HOSTILE = (
    "<img src=x onerror=document.title=1>",
    "</script><script>document.title = 1</script><!--",
    "/*script*/ /*body*/ /*policy*/",
    "a\"b'c&amp;d",
    "\u202eright to left",
    "bell\x07 \x1b[31m",
    "[x](javascript:alert(1)) | `b` **c** ![d](http://e.example/f)",
    "two\nlines",
    "w" * 3000,
)


def hostile_report(jpeg: bytes = b"\xff\xd8", users: int = 2) -> RunReport:
    """Texts that would like to be more, wherever a text can stand."""
    tiles = [Tile(text=each, jpeg=jpeg if k % 2 else None) for k, each in enumerate(HOSTILE)]
    row = UserRow(heading=HOSTILE[0], history=tiles, target=tiles[1], recommended=tiles[:3])
    blocks: list[ReportBlock] = []
    for each in HOSTILE:
        point = Point(x=0, y=1.0, half=0.5, said=each)
        line = Line(name=each, points=[point], style=11)
        header = [each, "n", "mean", "k"]
        rows = [[each, 1, Spread(mean=2.0, half=0.1, n=2), Ordered(each, 1)], [each, None, 1.5, ""]]
        blocks += [
            each,
            Command(each),
            DataTable(title=each, header=header, rows=rows),
            Chart(title=each, x_label=each, y_label=each, lines=[line], names=[each]),
            UserGallery(title=each, note=each, best=[row] * users, worst=[row] * users),
        ]
    sections = [Section(each, blocks if not k else []) for k, each in enumerate(HOSTILE)]
    return RunReport(title=HOSTILE[1], about=HOSTILE[0], parts=[Part(HOSTILE[0], sections)])


class Parts(html.parser.HTMLParser):
    """Tags, styles, scripts and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.inside.append((self.tags[-1][0] if self.tags else "", data))

    def text(self) -> str:
        return "".join(data for _, data in self.inside)


PAGE = html_page(hostile_report())


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_policy_lets_the_pages_own_style_and_script_run_and_nothing_else() -> None:
    parts = Parts(PAGE)
    (style,) = (data for tag, data in parts.inside if tag == "style" and data.strip())
    (script,) = (data for tag, data in parts.inside if tag == "script" and data.strip())
    (meta,) = [a for _, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(each.strip().split(" ", 1) for each in str(meta["content"]).split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["style-src"] == f"'{digest(style)}'"
    assert rules["script-src"] == f"'{digest(script)}'"


def test_the_page_asks_no_other_host_and_makes_no_tag_of_a_text() -> None:
    parts = Parts(PAGE)
    for tag, attributes in parts.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            address = attributes.get(name) or ""
            inner = address.startswith(("#", "data:image/jpeg;base64,"))
            assert address in ("", "data:,") or inner, (tag, address)
    assert not re.findall(r"@import|url\(", PAGE)
    assert [tag for tag, _ in parts.tags].count("script") == 1
    images = [a for tag, a in parts.tags if tag == "img"]
    assert images
    assert all(set(a) == {"src", "alt"} for a in images)


def test_texts_are_escaped_once() -> None:
    told = Parts(PAGE).text()
    for each in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[6]):
        assert each in told
    assert "&amp;lt;" not in PAGE
    assert "\\u202eright to left" in told
    assert "bell\\x07 \\x1b[31m" in told
    assert "\x07" not in PAGE
    names = re.findall(r' id="([^"]+)"', PAGE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_source_of_the_report_makes_html_of_texts(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    made = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    assert re.findall(made, text) == []
    assert not re.findall(r"https?://", text)


def test_a_page_that_would_be_too_large_shows_fewer_users_and_states_its_size() -> None:
    heavy = hostile_report(jpeg=b"x" * 3_000, users=5)
    whole = html_page(heavy, most_bytes=10**9)
    bound = int(len(whole) * 0.6)
    less = html_page(heavy, most_bytes=bound)
    assert len(less.encode()) <= bound < len(whole.encode())
    (size, kept) = re.findall(r"one file of ([\d.]+) MB, with (\d) instead of 5 best", less)[0]
    assert float(size) == pytest.approx(len(less.encode()) / 1e6, abs=0.011)
    users = less.count('class="user"')
    assert users == 2 * int(kept) * len(HOSTILE)
    assert users > 0
    assert "instead of" not in whole
    none = html_page(heavy, most_bytes=1)
    assert 'class="user"' not in none
    assert "with 0 instead of 5" in none


def test_an_empty_chart_and_an_empty_table_are_shown() -> None:
    blocks: list[Any] = [
        Chart(title="t", x_label="x", y_label="y", lines=[]),
        DataTable(title="t", header=["a", "b"], rows=[]),
    ]
    report = RunReport(title="t", about="", parts=[Part("p", [Section("s", blocks)])])
    assert "<svg" in html_page(report)
    assert "| a | b |" in markdown_page(report)


@pytest.mark.parametrize("high", [1e-6, 0.03, 0.7, 1, 3, 7.4, 20, 36, 99.9, 100, 400, 12_345])
def test_ticks_are_few_and_reach_the_top(high: float) -> None:
    found = ticks(0.0, high)
    assert 3 <= len(found) <= 8
    assert found[0] == 0
    assert found[-2] < high <= found[-1] * 1.000001


# --- Markdown.


def test_markdown_holds_the_same_tables_and_no_picture() -> None:
    told = markdown_page(hostile_report())
    assert told.count("| 2.00 ± 0.10 |") == len(HOSTILE)
    assert "|---|---:|---:|---|" in told
    assert "base64" not in told
    for line in told.splitlines():
        bare = re.sub(r"\\.", "", line)
        fenced = bare.startswith(("<img", "</script", "[x]", "```", "/*", 'a"b', "bell"))
        if not fenced:
            assert not re.search(r"[<>`\[\]]", bare), line
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_a_text_is_no_markdown_and_one_line() -> None:
    assert plain("a_b|c-d\n# d") == r"a\_b\|c-d\\n# d"
    assert [plain(each) for each in ("# a", "- a", "1. a")] == [r"\# a", r"\- a", r"1\. a"]
