"""`pmm paper verify`: every cell of a report again, from the files that it names; nothing trains.

What a page shows is held against what it says in its facts, these against what the files give now,
and the paper's figures against those that the program has.
"""

import copy
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import InputError, PmmError
from pmm.paper.printed import printed
from pmm.paper.reporting.cells import KIND, CellFiles, curve_of, fill
from pmm.paper.reporting.pages import BEGIN, END, shown_in_html, shown_in_markdown
from pmm.storage.home import Home

_NEAR = 1e-9
"""What two processors may differ by in a mean."""


def read_facts(report: Path) -> tuple[str, dict[str, Any]]:
    """The text of a report and its facts.

    Raises:
        InputError: it cannot be read, or is no report of `pmm paper report` as .html or .md.
    """
    try:
        text = report.read_text(encoding="utf-8")
        inside = text[text.rindex(BEGIN) + len(BEGIN) : text.rindex(END)]
        facts = json.loads(inside)
    except OSError as error:
        raise InputError(f"{report} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(
            f"{report} is no report of the paper's tables, or its facts are damaged. Make one: "
            + command("paper", "report", "all", to="report.html")
        ) from error
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise InputError(f"{report} holds facts of something else than the paper's tables")
    return text, facts


def verify(home: Home, report: Path) -> tuple[int, list[str]]:
    """How many cells were computed again, and what does not fit, a line each.

    Raises:
        InputError: as `read_facts`.
    """
    text, facts = read_facts(report)
    files, cells, faults = CellFiles(home.root), 0, list[str]()
    try:
        for table in facts["tables"]:
            cells += sum(bool(cell["files"]) for cell in table["cells"])
            faults += _of_table(table, files)
        faults += _of_page(text, facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the facts of {report} are damaged ({error!r})") from error
    return cells, faults


def _of_table(table: Mapping[str, Any], files: CellFiles) -> Iterator[str]:
    """What is not as the files and the paper have it."""
    again = copy.deepcopy(dict(table))
    changed = False
    for cell in again["cells"]:
        for each in cell["files"]:
            if (mark := files.digest_of(each["path"])) != each["sha256"]:
                what = "has other bytes than the report says" if mark else "is not there"
                yield f"{_about(table, cell)}: {each['path']} {what}"
                changed = True
        figures = printed(table["name"])
        if cell["paper"] is not None and cell["paper"] not in figures.values():
            yield f"{_about(table, cell)}: the paper has no figure {cell['paper']}"
        expected = figures.get((cell["dataset"], cell["metric"], cell["column"]))
        if expected is not None and expected != cell["paper"]:
            yield f"{_about(table, cell)}: the paper has {expected}, not {cell['paper']}"
    try:
        fill(again, files)
        if "curves" in table:
            yield from _of_curves(table, files)
    except (PmmError, OSError) as error:
        if not changed:
            yield f"{table['title']}: {error}"
        return
    for cell, now in zip(table["cells"], again["cells"], strict=True):
        for fault in _differences(cell["found"], now["found"]):
            yield f"{_about(table, cell)}: {fault}"
    for fault in _differences(table.get("improvements"), again.get("improvements")):
        yield f"{table['title']}, improvement: {fault}"


def _of_curves(table: Mapping[str, Any], files: CellFiles) -> Iterator[str]:
    at = {(curve["dataset"], curve["column"]): curve["points"] for curve in table["curves"]}
    for cell in table["cells"]:
        if cell["files"]:
            points = at.get((cell["dataset"], cell["column"]))
            for fault in _differences(points, curve_of(cell, files)):
                yield f"{_about(table, cell)}, curve: {fault}"


def _differences(said: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ by more than rounding."""
    if isinstance(said, dict) and isinstance(now, dict):
        for key in sorted({*said, *now}):
            below = f"{where} {key}".strip()
            yield from _differences(said.get(key), now.get(key), below)
    elif isinstance(said, list) and isinstance(now, list) and len(said) == len(now):
        for one, other in zip(said, now, strict=True):
            yield from _differences(one, other, where)
    elif not _same(said, now):
        yield f"{where or 'value'} is {now} by its files, the report says {said}"


def _same(said: Any, now: Any) -> bool:
    if isinstance(said, int | float) and isinstance(now, int | float):
        return abs(said - now) <= _NEAR * max(1.0, abs(now))
    return bool(said == now)


def _of_page(text: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Cells that show something else than the facts below the page."""
    is_html = text.lstrip().lower().startswith("<!doctype html")
    for table in facts["tables"]:
        for cell in table["cells"]:
            mark = re.escape(cell["id"])
            if is_html:
                found = re.search(rf'<td id="{mark}"[^>]*>(.*?)</td>', text)
                expected = shown_in_html(table["kind"], cell)
            else:
                found = re.search(rf"\| ((?:(?! \| ).)*?)<!--{mark}-->", text)
                expected = shown_in_markdown(table["kind"], cell)
            if found is None:
                yield f"{_about(table, cell)}: the page does not show it"
            elif found[1] != expected:
                shown, wanted = (_plain(each) for each in (found[1], expected))
                yield f"{_about(table, cell)}: the page shows {shown}, its facts say {wanted}"


def _plain(inside: str) -> str:
    words = html.unescape(re.sub(r"<[^>]*>", " ", inside)).split()
    return repr(" ".join(words))


def _about(table: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    title = table["title"].partition(":")[0]
    return f"{title}, {cell['dataset']}, {cell['metric'].upper()}, {cell['column']}"
