"""Charts as SVG: lines with marks, which a page's script lets answer to the pointer and to keys.

Without a script each point has its title, which browsers show as well.
"""

import math
from collections.abc import Sequence

from pmm.report.html_text import Markup, element, joined
from pmm.report.report_blocks import Chart, Line, Point

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 50
STYLES = 8
"""Styles of lines in report.css; more lines begin again, with other dashes."""


def chart_markup(chart: Chart) -> Markup:
    """A chart with its legend."""
    legend = element("ul", *(_legend(each) for each in chart.lines), class_="legend")
    frame = _Frame(chart)
    drawn = element(
        "svg",
        *frame.axes(),
        *(_line(each, frame) for each in chart.lines),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="group",
        aria_label=f"{chart.title}: {len(chart.lines)} lines; arrow keys go from point to point",
        tabindex=0,
        class_="chart",
    )
    return element("figure", element("figcaption", chart.title), drawn, legend)


class _Frame:
    """Where numbers stand in a chart."""

    def __init__(self, chart: Chart) -> None:
        points = [point for line in chart.lines for point in line.points]
        top = max((point.y + (point.half or 0.0) for point in points), default=1.0)
        self.chart = chart
        self.y_ticks = ticks(0.0, max(top, 1e-6))
        self.y_top = self.y_ticks[-1]
        if chart.names:
            self.low, self.high = -0.5, len(chart.names) - 0.5
            self.x_ticks: Sequence[float] = range(len(chart.names))
        else:
            self.low = 0.0
            self.high = max((point.x for point in points), default=1.0) or 1.0
            self.x_ticks = [each for each in ticks(0.0, self.high) if each <= self.high]

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - max(value, 0.0) / self.y_top * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self) -> list[Markup]:
        """Grid, ticks and labels."""
        made, chart = [], self.chart
        for tick in self.y_ticks:
            y = self.y(tick)
            made.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            made.append(element("text", f"{tick:g}", x=LEFT - 7, y=y + 4, class_="tick end"))
        for tick in self.x_ticks:
            name = chart.names[int(tick)] if chart.names else f"{tick:g}"
            made.append(
                element("text", name, x=self.x(tick), y=HEIGHT - BOTTOM + 18, class_="tick middle")
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        made.append(element("text", chart.x_label, x=middle, y=HEIGHT - 8, class_="axis middle"))
        made.append(
            element(
                "text",
                chart.y_label,
                x=0,
                y=0,
                transform=f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)",
                class_="axis middle",
            )
        )
        return made


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from a low one to one that is no less than a high one.

    >>> ticks(0, 36), ticks(0, 0.07)
    ([0.0, 10.0, 20.0, 30.0, 40.0], [0.0, 0.02, 0.04, 0.06, 0.08])
    """
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if each * unit >= raw * 0.999)
    if step == 2.5 * unit and unit >= 1:
        step = 5 * unit if unit == 1 else step
    count = max(1, math.ceil((high - low) / step - 1e-9))
    return [round(low + k * step, 10) for k in range(count + 1)]


def _class(style: int) -> str:
    if style < 0:
        return "floor"
    return f"s{style % STYLES}" + ("" if style < STYLES else f" again{min(style // STYLES, 2)}")


def _line(line: Line, frame: _Frame) -> Markup:
    at = [(frame.x(point.x), frame.y(point.y)) for point in line.points]
    path = element("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in at), class_="line")
    marks = [
        joined(_interval(point, x, frame), _mark(line, point, x, y))
        for point, (x, y) in zip(line.points, at, strict=True)
    ]
    return element("g", path, *marks, class_=_class(line.style))


def _interval(point: Point, x: float, frame: _Frame) -> Markup:
    if not point.half:
        return Markup()
    low, high = frame.y(point.y - point.half), frame.y(point.y + point.half)
    return element("line", x1=x, x2=x, y1=low, y2=high, class_="interval")


def _mark(line: Line, point: Point, x: float, y: float) -> Markup:
    said = element("title", point.said)
    shape = element("path", d=_shape(line.style), transform=f"translate({x:g} {y:g})")
    return element("g", said, shape, class_="point", data_x=x, data_y=y)


def _shape(style: int) -> str:
    """A mark around the origin: so lines are told apart without their colours."""
    return (
        "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "M-3.6 -3.6h7.2v7.2h-7.2z",
        "M0 -4.8l4.6 8.4h-9.2z",
        "M0 -5l5 5l-5 5l-5 -5z",
        "M0 4.8l4.6 -8.4h-9.2z",
        "M-4.5 -1.6h2.9v-2.9h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9z",
    )[style % 6]


def _legend(line: Line) -> Markup:
    swatch = element(
        "svg",
        element("line", x1=0, x2=30, y1=8, y2=8, class_="line"),
        element("path", d=_shape(line.style), transform="translate(15 8)"),
        viewBox="0 0 30 16",
        class_=f"swatch {_class(line.style)}",
        aria_hidden="true",
    )
    return element("li", swatch, element("bdi", line.name))
