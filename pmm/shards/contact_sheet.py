"""Pictures with their captions in a grid, as PNG: what the data looks like, at one glance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pmm.font import caption_font
from pmm.shards.jpeg import Pixels, decode
from pmm.shards.read import Shards
from pmm.shards.stream_items import Sample
from pmm.storage.artefact import atomic_file
from pmm.storage.home import Home

SHOWN = 24
"""Pictures on the contact sheet of a target's shards."""

_GAP = 8
_LINE = 14
_TEXT = 11


def sheet_of_shards(place: Path, path: Path, n: int = SHOWN) -> None:
    """Draw `n` items spread evenly over a target's shards: picture, number, raw id and text."""
    shards = Shards(place, Home.holding(place, "shards"))
    chosen = np.unique(np.linspace(1, shards.n_items, min(n, shards.n_items)).astype(np.int64))
    captions = [_caption(item, shards.record(item)) for item in chosen.tolist()]
    pictures = np.stack([shards.picture(item) for item in chosen.tolist()])
    draw(path, pictures, captions)


def draw_samples(path: Path, samples: Sequence[Sample], size: int) -> None:
    """Draw items that were read as a stream, with their records; blank where one has no picture."""
    pictures = np.zeros((len(samples), size, size, 3), dtype=np.uint8)
    for row, each in enumerate(samples):
        if "jpg" in each.parts:
            pictures[row] = decode(each.parts["jpg"])
    captions = [_caption(each.item, json.loads(each.parts["json"])) for each in samples]
    draw(path, pictures, captions)


def _caption(item: int, record: Mapping[str, Any]) -> str:
    reason = "" if record["picture"] else f" [{record['reason']}]"
    return f"{item}: {record['item_id']}{reason}\n{record['text']}"


def draw(
    path: Path,
    pictures: Pixels,
    captions: Sequence[str],
    *,
    columns: int = 6,
    lines: int = 4,
    title: str | None = None,
) -> None:
    """Draw pictures in a grid. The same input gives the same file.

    Args:
        path: of the PNG.
        pictures: uint8 [n, H, W, 3].
        captions: one a picture; wrapped to its width, cut after `lines` lines. Any script; signs
            that the font lacks show as boxes.
        columns: pictures a row.
        lines: of text below each picture.
        title: above all.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures, but {len(captions)} captions")
    count, height, width = pictures.shape[:3]
    columns = max(1, min(columns, count))
    top = _GAP + (2 * _LINE if title else 0)
    cell = (width + _GAP, height + lines * _LINE + _GAP)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (_GAP + columns * cell[0], top + rows * cell[1]), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), caption_font(_TEXT)
    if title:
        pen.text((_GAP, _GAP), _printable(title), fill=(0, 0, 0), font=caption_font(_TEXT + 4))
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _GAP + k % columns * cell[0], top + k // columns * cell[1]
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, y))
        for line, text in enumerate(wrap(caption[: lines * width], width, font)[:lines]):
            pen.text((x, y + height + line * _LINE + 1), text, fill=(0, 0, 0), font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines no wider than `width` pixels, broken between words, inside a word where it must be."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in _printable(paragraph).split(" "):
            longer = f"{line} {word}" if line else word
            while font.getlength(longer) > width:
                fits = len(line) if line else _fitting(longer, width, font)
                lines.append(longer[:fits])
                longer, line = longer[fits:].lstrip(" "), ""
            line = longer
        lines.append(line)
    return lines


def _fitting(word: str, width: int, font: ImageFont.FreeTypeFont) -> int:
    """How many letters of a word fit, at least one."""
    return max((n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)
