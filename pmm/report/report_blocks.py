"""What a report is made of, before it is HTML or Markdown: sections, tables, charts, galleries.

Texts are plain; whoever writes them as HTML or Markdown escapes them, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pmm.statistics.over_seeds import Spread, interval_text


@dataclass(frozen=True)
class Ordered:
    """A text with the number by which a table is sorted."""

    text: str
    order: float


Cell: TypeAlias = str | int | float | Spread | Ordered | None
"""Of a table. A float or a mean is shown with two decimals; None is empty."""


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """Rows under a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    """Whether a page shows it on demand only: the numbers of a chart."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line."""

    x: float
    y: float
    half: float | None = None
    """Half the width of its interval, if it has one."""
    said: str
    """What the pointer is told."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[Point]
    style: int
    """Which of the styles of lines, from 0; -1: that of floors."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over numbers, or over the names of classes in order."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    names: Sequence[str] = ()
    """Of the classes; x is then their index."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An item: the beginning of its text, and a small JPEG where it has a picture."""

    text: str
    jpeg: bytes | None = None
    hit: bool = False
    """Whether it is the true next item, among recommendations."""


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """A user: what he had, oldest first, what came next, what the model recommends, best first."""

    heading: str
    history: Sequence[Tile]
    target: Tile
    recommended: Sequence[Tile]


@dataclass(frozen=True, kw_only=True)
class UserGallery:
    """The best and the worst users of a run."""

    title: str
    note: str
    best: Sequence[UserRow]
    worst: Sequence[UserRow]


@dataclass(frozen=True)
class Command:
    """A command to run."""

    text: str


ReportBlock: TypeAlias = str | DataTable | Chart | UserGallery | Command
"""A paragraph is a text."""


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[ReportBlock]


@dataclass(frozen=True)
class Part:
    """All about one target, or about all runs."""

    title: str
    sections: Sequence[Section] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The whole page."""

    title: str
    about: str
    parts: Sequence[Part]


def written(cell: Cell) -> str:
    """A cell as a person reads it; a mean of seeds with half the width of its interval.

    >>> written(12.3456), written(1234), written(None), written(Spread(mean=2.0, half=0.5, n=3))
    ('12.35', '1,234', '', '2.00 ± 0.50')
    """
    match cell:
        case None:
            return ""
        case Spread():
            return interval_text(cell.mean, cell.half)
        case Ordered():
            return cell.text
        case float():
            return f"{cell:,.2f}"
        case int():
            return f"{cell:,}"
    return cell


def as_count(value: float) -> float | int:
    """A number as it is counted: an epoch that is whole without decimals.

    >>> as_count(3.0), as_count(2.5)
    (3, 2.5)
    """
    return int(value) if float(value).is_integer() else float(value)


def order_of(cell: Cell) -> float | None:
    """The number that a cell is sorted by; None of texts and of nothing."""
    match cell:
        case Spread():
            return cell.mean
        case Ordered():
            return cell.order
        case int() | float():
            return float(cell)
    return None
