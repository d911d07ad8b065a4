"""A report as one HTML file that fetches nothing, with the policy that says so."""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from pmm.report.html_text import Markup, element, joined, text
from pmm.report.line_chart import chart_markup
from pmm.report.report_blocks import (
    Cell,
    Chart,
    Command,
    DataTable,
    Part,
    ReportBlock,
    RunReport,
    Section,
    Tile,
    UserGallery,
    UserRow,
    order_of,
    written,
)
from pmm.serve.page_file import content_policy, page_source
from pmm.statistics.over_seeds import Spread

MOST_BYTES = 5_000_000
"""Of a page; with more, fewer users are shown."""
LONG = 40
"""Characters of a cell that may be broken into lines."""

_MARK = re.compile(r"/\*(policy|title|style|body|script)\*/")


def html_page(report: RunReport, most_bytes: int = MOST_BYTES) -> str:
    """The page; where it would be larger than it may be, with fewer of the best and worst users."""
    users = _most_users(report)
    for kept in range(users, -1, -1):
        left = (
            "" if kept == users else f", with {kept} instead of {users} best and worst users a run"
        )
        page = _page(_with_users(report, kept), left)
        if len(page.encode()) <= most_bytes:
            break
    return page


def _page(report: RunReport, left: str) -> str:
    style, script = (page_source("pmm.report", f"report.{kind}") for kind in ("css", "js"))
    policy = content_policy(style, script, pictures="data:", asks="'none'")
    body = joined(
        element("header", element("h1", report.title), element("p", report.about)),
        _contents(report),
        element("main", *(_part(part, k) for k, part in enumerate(report.parts)), id="content"),
    )
    parts = {"policy": policy, "title": text(report.title), "style": style, "script": script}

    def page(size: str) -> str:
        told = f"This page is one file of {size}{left}; it asks no other host for anything."
        whole = {**parts, "body": joined(body, element("footer", element("p", told)))}
        # In one pass, so that a mark inside of a part stays what it is.
        return _MARK.sub(lambda found: whole[found[1]], page_source("pmm.report", "report.html"))

    return page(f"{len(page('0.00 MB').encode()) / 1e6:.2f} MB")


def _contents(report: RunReport) -> Markup:
    def link(k: int, part: Part) -> Markup:
        inner = [
            element("li", element("a", section.title, href=f"#part-{k}-{n}"))
            for n, section in enumerate(part.sections)
        ]
        return element("li", element("a", part.title, href=f"#part-{k}"), element("ul", *inner))

    links = [link(k, part) for k, part in enumerate(report.parts)]
    return element("nav", element("ul", *links), aria_label="Contents")


def _part(part: Part, k: int) -> Markup:
    sections = [_section(section, f"part-{k}-{n}") for n, section in enumerate(part.sections)]
    heading = element("h2", part.title, id=f"part-{k}")
    return element("section", heading, *sections, aria_labelledby=f"part-{k}")


def _section(section: Section, name: str) -> Markup:
    made: list[Markup] = [element("h3", section.title, id=name)]
    for is_chart, blocks in groupby(section.blocks, key=lambda each: isinstance(each, Chart)):
        shown = [_block(each) for each in blocks]
        made += [element("div", *shown, class_="charts")] if is_chart else shown
    return element("section", *made, aria_labelledby=name)


def _block(block: ReportBlock) -> Markup:
    match block:
        case str():
            return element("p", block)
        case Command():
            return element("pre", element("code", block.text))
        case DataTable():
            return _table(block)
        case Chart():
            return chart_markup(block)
        case UserGallery():
            return _gallery(block)


def _table(table: DataTable) -> Markup:
    numeric = [is_numeric([row[k] for row in table.rows]) for k in range(len(table.header))]
    heads = [
        element("th", name, scope="col", class_="number" if number else None)
        for name, number in zip(table.header, numeric, strict=True)
    ]
    rows = [element("tr", *_cells(row, numeric)) for row in table.rows]
    caption = element("caption", table.title, class_="unseen")
    inner = element(
        "table",
        caption,
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_="sortable" if len(table.rows) > 1 else None,
    )
    # It scrolls where it is wider than the page; so it must be reached by keys.
    wide = element("div", inner, class_="wide", role="region", aria_label=table.title, tabindex=0)
    if table.folded:
        title = f"{table.title} ({len(table.rows):,} rows)"
        return element("details", element("summary", title), wide)
    return joined(element("p", table.title, class_="caption"), wide)


def is_numeric(cells: Sequence[Cell]) -> bool:
    """Whether all cells of a column that hold something are numbers."""
    told = [cell for cell in cells if cell is not None]
    return bool(told) and all(isinstance(cell, int | float | Spread) for cell in told)


def _cells(row: Sequence[Cell], numeric: Sequence[bool]) -> Iterator[Markup]:
    for k, (cell, number) in enumerate(zip(row, numeric, strict=True)):
        shown = written(cell)
        kind = "number" if number else "long" if len(shown) > LONG else None
        told = {"class_": kind, "data_order": _short(order_of(cell))}
        # A name of strangers may be written from right to left: it turns nothing but itself.
        inside = shown if number else element("bdi", shown)
        yield element("td", inside, **told) if k else element("th", inside, scope="row", **told)


def _short(order: float | None) -> str | None:
    return None if order is None else f"{order:.10g}"


def _gallery(gallery: UserGallery) -> Markup:
    made = [element("h4", gallery.title)]
    made += [element("p", gallery.note, class_="note")] if gallery.note else []
    for name, rows in (("Best", gallery.best), ("Worst", gallery.worst)):
        if rows:
            users = [_user(row) for row in rows]
            made += [element("p", name, class_="caption"), element("div", *users, class_="users")]
    return joined(*made)


def _user(row: UserRow) -> Markup:
    groups = (
        ("had", row.history),
        ("came next", [row.target]),
        ("recommended", row.recommended),
    )
    inner = [
        element(
            "div",
            element("p", name),
            element("ol", *map(_tile, tiles), class_="tiles"),
            class_="group",
        )
        for name, tiles in groups
        if tiles
    ]
    return element(
        "div", element("h5", row.heading), element("div", *inner, class_="groups"), class_="user"
    )


def _tile(tile: Tile) -> Markup:
    picture = element("span", class_="blank")
    if tile.jpeg is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(tile.jpeg).decode()}"
        picture = element("img", src=source, alt="")  # its text stands below
    label = element("span", element("bdi", tile.text), title=tile.text)
    return element("li", picture, label, class_="hit" if tile.hit else None)


def _most_users(report: RunReport) -> int:
    shown = [each for each in _blocks(report) if isinstance(each, UserGallery)]
    return max((max(len(each.best), len(each.worst)) for each in shown), default=0)


def _blocks(report: RunReport) -> Iterator[ReportBlock]:
    for part in report.parts:
        for section in part.sections:
            yield from section.blocks


def _with_users(report: RunReport, most: int) -> RunReport:
    def fewer(block: ReportBlock) -> ReportBlock:
        if not isinstance(block, UserGallery):
            return block
        return replace(block, best=block.best[:most], worst=block.worst[:most])

    def section(each: Section) -> Section:
        return replace(each, blocks=[fewer(block) for block in each.blocks])

    parts = [replace(p, sections=[section(each) for each in p.sections]) for p in report.parts]
    return replace(report, parts=parts)
