"""A report as Markdown: the same tables, without pictures."""

import re
from collections.abc import Iterator, Sequence

from pmm.report.html_page import is_numeric
from pmm.report.report_blocks import (
    Chart,
    Command,
    DataTable,
    ReportBlock,
    RunReport,
    UserGallery,
    UserRow,
    written,
)
from pmm.terminal import one_line

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What would be markup or a link, wherever it stands."""
_FIRST = re.compile(r"^([#+=-]|\d+(?=[.)]))")
"""What begins a heading, a list or a line across, where a line begins."""


def markdown_page(report: RunReport) -> str:
    """The text of the file."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: RunReport) -> Iterator[str]:
    yield f"# {plain(report.title)}"
    yield f"\n{plain(report.about)}"
    for part in report.parts:
        yield f"\n## {plain(part.title)}"
        for section in part.sections:
            yield f"\n### {plain(section.title)}"
            for block in section.blocks:
                yield from _block(block)


def _block(block: ReportBlock) -> Iterator[str]:
    match block:
        case str():
            yield f"\n{plain(block)}"
        case Command():
            yield f"\n```bash\n{one_line(block.text)}\n```"
        case DataTable():
            yield f"\n**{plain(block.title)}**\n"
            numbers = [is_numeric([row[k] for row in block.rows]) for k in range(len(block.header))]
            cells = [[written(cell) for cell in row] for row in block.rows]
            yield from _table(block.header, cells, numbers)
        case Chart():
            pass  # its numbers stand in a table
        case UserGallery():
            yield f"\n**{plain(block.title)}**\n"
            if block.note:
                yield plain(block.note)
            users = [*block.best, *block.worst]
            if users:
                header = ["User", "Last had", "Came next", "Recommended"]
                yield from _table(header, [_user(each) for each in users], [False] * 4)


def _user(row: UserRow) -> list[str]:
    groups = (row.history, [row.target], row.recommended)
    return [row.heading, *("; ".join(tile.text for tile in tiles) for tiles in groups)]


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]
) -> Iterator[str]:
    yield _row(header)
    yield "|" + "|".join("---:" if number else "---" for number in numbers) + "|"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inside(cell) for cell in cells) + " |"


def plain(text: str) -> str:
    r"""A text that Markdown shows as it is, on one line.

    >>> plain("a|b (c-d) <img>\n# c"), plain("# e"), plain("1. f"), plain("http://www.g")
    ('a\\|b (c-d) \\<img\\>\\\\n# c', '\\# e', '1\\. f', 'http\\://www\\.g')
    """
    told = _inside(text)
    found = _FIRST.match(told)
    if found is None:
        return told
    at = found.end() if found[0].isdigit() else 0
    return f"{told[:at]}\\{told[at:]}"


def _inside(text: str) -> str:
    """The same behind something else: nothing begins there."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))
