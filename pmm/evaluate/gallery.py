"""Recommendations to look at: histories, the true next item and the model's top ten, as pictures.

One row a user: the last items of the history, then the item that really came next, then the ten
items that the model ranks highest. The true one is framed, also among the ten when it is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pmm.font import caption_font
from pmm.shards.contact_sheet import wrap
from pmm.shards.jpeg import Pixels
from pmm.storage.artefact import atomic_file

HISTORY, TOP = 5, 10
"""Tiles of history and of recommendations in a row."""

TILE, GAP, GROUP, CAPTION, MARGIN, HEADING, TITLE = 112, 8, 30, 34, 24, 24, 62
"""Pixels: a tile's side, between tiles and groups, under a tile, around, over a row, on top."""

PAPER, INK, FAINT, NEUTRAL, FRAME = "#ffffff", "#1f2933", "#7b8794", "#eef1f4", "#2f9e44"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one user did, would do next, and was offered. Item numbers; 0 stands for none."""

    user: int
    history: Sequence[int]
    """Oldest first; the last HISTORY are shown."""
    target: int
    rank: int
    candidates: int
    top: Sequence[int]
    """Best first; the first TOP are shown."""


def size(n_rows: int) -> tuple[int, int]:
    """Width and height in pixels of a gallery of so many users."""
    tiles = HISTORY + 1 + TOP
    width = 2 * MARGIN + tiles * TILE + (tiles - 3) * GAP + 2 * GROUP
    return width, TITLE + n_rows * _row_height() + MARGIN


def draw(
    rows: Sequence[Row],
    pictures: Mapping[int, Pixels],
    texts: Mapping[int, str],
    path: Path,
    *,
    title: str,
) -> None:
    """Write the gallery as a PNG.

    Args:
        rows: the users, top to bottom.
        pictures: item -> [H, W, 3] RGB; an item that is not there has no picture, and a neutral
            tile shows its text instead.
        texts: item -> text, of which the first words stand under the tile.
        path: the PNG.
        title: what is shown ("HM, test, run demo").
    """
    sheet = Image.new("RGB", size(len(rows)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 14), title, fill=INK, font=caption_font(19))
    for column, label in zip(_columns(), ("history", "next", "top 10"), strict=True):
        pen.text((column, TITLE - 22), label, fill=FAINT, font=caption_font(13))
    for number, row in enumerate(rows):
        _draw_row(sheet, row, TITLE + number * _row_height(), pictures, texts)
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _draw_row(
    sheet: Image.Image,
    row: Row,
    top: int,
    pictures: Mapping[int, Pixels],
    texts: Mapping[int, str],
) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.line((MARGIN, top, sheet.width - MARGIN, top), fill=NEUTRAL, width=1)
    label = f"user {row.user}: rank {row.rank:,} of {row.candidates:,}"
    pen.text((MARGIN, top + 5), label, fill=INK, font=caption_font(13))
    groups = (list(row.history)[-HISTORY:], [row.target], list(row.top)[:TOP])
    shown = dict.fromkeys(item for group in groups for item in group if item)
    tiles = {item: _tile(pictures.get(item), texts.get(item, "")) for item in shown}
    for column, group in zip(_columns(), groups, strict=True):
        first = (
            HISTORY - len(group) if group is groups[0] else 0
        )  # the latest stands next to "next"
        for place, item in enumerate(group, start=first):
            if not item:
                continue
            corner = (column + place * (TILE + GAP), top + HEADING)
            sheet.paste(tiles[item], corner)
            if item == row.target and group is not groups[0]:
                _frame(pen, corner)


def _tile(picture: Pixels | None, text: str) -> Image.Image:
    """A picture with the beginning of its text below; without a picture, the text alone."""
    tile = Image.new("RGB", (TILE, TILE + CAPTION), PAPER)
    pen = ImageDraw.Draw(tile)
    if picture is None:
        pen.rectangle((0, 0, TILE - 1, TILE - 1), fill=NEUTRAL)
        body = "\n".join(_lines(text or "no text, no picture", TILE - 16, 12, most=6))
        pen.multiline_text((8, 10), body, fill=INK, font=caption_font(12), spacing=3)
        return tile
    photo = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
    tile.paste(photo, (0, 0))
    caption = "\n".join(_lines(text, TILE, 11, most=2))
    pen.multiline_text((0, TILE + 4), caption, fill=FAINT, font=caption_font(11), spacing=2)
    return tile


def _lines(text: str, width: int, points: int, *, most: int) -> list[str]:
    """The text broken into at most so many lines of a width in pixels; the rest becomes `...`."""
    font = caption_font(points)
    lines = wrap(" ".join(text.split()), width, font)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "..."]


def _columns() -> tuple[int, int, int]:
    """Left edges of history, next item and top ten."""
    step = TILE + GAP
    after_history = MARGIN + HISTORY * step - GAP + GROUP
    return MARGIN, after_history, after_history + TILE + GROUP


def _row_height() -> int:
    return HEADING + TILE + CAPTION + 12


def _frame(pen: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    left, top = corner
    pen.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), outline=FRAME, width=4)
