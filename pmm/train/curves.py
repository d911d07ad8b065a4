"""Pictures drawn from the logs of runs: loss and ranking of one, evaluations of several."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pmm.errors import BrokenArtefact
from pmm.runs.folder import read_records
from pmm.storage.artefact import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (11.0, 4.2)
DPI = 120

INK = "#1f2933"
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#8a94a0"
_COLORS = (BLUE, ORANGE, "#2f855a", "#b83280", "#6b46c1", "#975a16")


_NEEDED = {"step": {"step", "loss"}, "evaluation": {"epoch", "hr@10", "ndcg@10"}}
"""What is drawn of each kind of record."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl: `{"kind": "step" | "evaluation", ...}`, one a line.

    Raises:
        BrokenArtefact: a line is damaged (the last one may be cut off by a kill; it is left out).
    """
    records = read_records(path, path.read_bytes())
    for number, record in enumerate(records, start=1):
        if not record.keys() >= _NEEDED.get(str(record.get("kind")), {"kind"}):
            raise BrokenArtefact(f"{path}:{number} is no record of a training")
    return records


def draw(records: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Write the curves as a PNG of 1320 x 504 pixels.

    Left: the loss of each log record, faint, and its running mean. Right: HR@10 and NDCG@10 on
    the validation items, times 100, with the HR@10 of popularity as a line and the best epoch
    marked.
    """
    with _figure(path, title, parts=2) as (left, right):
        _draw_loss(left, [record for record in records if record["kind"] == "step"])
        _draw_ranking(right, [record for record in records if record["kind"] == "evaluation"])


def draw_validation(
    runs: Mapping[str, list[dict[str, Any]]],
    path: Path,
    *,
    title: str,
    levels: Mapping[str, float] | None = None,
    measure: str = "hr@10",
    test: bool = False,
) -> None:
    """Write a metric on the validation items by epoch of several runs, 720 x 504 pixels.

    Args:
        runs: name -> records of its log.
        path: of the picture, a PNG, or an SVG where it ends so.
        title: above it.
        levels: name -> the metric as a fraction, drawn as a line across (popularity, the oracle).
        measure: the metric.
        test: also draw the test items of runs that recorded them, dashed.
    """
    with _figure(path, title, parts=1, size=(6.0, SIZE_INCHES[1])) as (axes,):
        axes.set(xlabel="epoch", ylabel=f"validation {measure.upper()}, per cent")
        for (name, records), color, mark in zip(runs.items(), cycle(_COLORS), cycle("os^DvPX")):
            found = [each for each in records if each["kind"] == "evaluation"]
            for entry, line, what in (
                (measure, "-", ""),
                (f"test_{measure}", "--", ", test items"),
            ):
                some = [each for each in found if entry in each]
                if not some or (what and not test):
                    continue
                epoch = [each["epoch"] for each in some]
                values = [100 * each[entry] for each in some]
                style: dict[str, Any] = {"color": color, "label": f"{name}{what}", "markersize": 4}
                if what:
                    style |= {"markerfacecolor": "white", "linewidth": 1.2}
                axes.plot(epoch, values, f"{mark}{line}", **style)
        for (name, level), style_of in zip((levels or {}).items(), cycle(("--", ":", "-."))):
            axes.axhline(100 * level, color=GREY, linestyle=style_of, linewidth=1.2, label=name)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=9)


@contextmanager
def _figure(
    path: Path, title: str, *, parts: int, size: tuple[float, float] = SIZE_INCHES
) -> Iterator[list["Axes"]]:
    """Axes side by side in this file's looks; what was drawn is written at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    drawn = list(figure.subplots(1, parts, squeeze=False)[0])
    figure.suptitle(title, color=INK, fontsize=12)
    yield drawn
    for axes in drawn:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".svg":
            _write_svg(figure, file)
        else:
            canvas.print_png(file, metadata={"Software": None})


def _write_svg(figure: Any, file: BinaryIO) -> None:
    """As text that can be searched, and the same bytes for the same curves."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with rc_context({"svg.hashsalt": "pmm", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})


def _draw_loss(axes: "Axes", records: list[dict[str, Any]]) -> None:
    step = np.array([record["step"] for record in records])
    loss = np.array([record["loss"] for record in records], dtype=np.float64)
    axes.set(title="Training loss", xlabel="step", ylabel="loss (nats)")
    if not len(step):
        return
    width = max(1, len(step) // 20)
    axes.plot(step, loss, color=BLUE, alpha=0.3 if width > 1 else 1.0, linewidth=1)
    if width > 1:
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(step[width - 1 :], smooth, color=BLUE, linewidth=1.8, label=f"mean of {width}")
        axes.legend(frameon=False, fontsize=9)


def _draw_ranking(axes: "Axes", records: list[dict[str, Any]]) -> None:
    axes.set(title="Validation, whole catalogue", xlabel="epoch", ylabel="per cent")
    if not records:
        return
    epoch = [record["epoch"] for record in records]
    hits = [100 * record["hr@10"] for record in records]
    axes.plot(epoch, hits, "o-", color=BLUE, label="HR@10", markersize=4)
    gains = [100 * record["ndcg@10"] for record in records]
    axes.plot(epoch, gains, "s-", color=ORANGE, label="NDCG@10", markersize=4)
    floor = 100 * records[-1]["popularity_hr@10"]
    axes.axhline(floor, color=GREY, linestyle="--", linewidth=1.2, label="HR@10 of popularity")
    # Epoch 0 is only recorded: its weights are never kept as the best.
    kept = [k for k, record in enumerate(records) if record.get("step") != 0]
    if kept:
        best = max(kept, key=lambda k: hits[k])
        axes.annotate(
            f"{hits[best]:.1f}",
            (epoch[best], hits[best]),
            textcoords="offset points",
            xytext=(0, 7),
            ha="center",
            color=INK,
            fontsize=9,
        )
    axes.set_ylim(bottom=0, top=1.12 * max(*hits, *gains, floor, 1e-3))
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=9)
