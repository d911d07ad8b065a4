"""Pictures: they show the attributes of colour, motif and texture, in the platform's looks.

One object stands in each picture: its outline is the motif, its fill the colour and the texture.
Shops put it on a clean ground, video covers among clutter. A mark around the object tells the
department.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pmm.world.attributes import ATTRIBUTES
from pmm.world.platforms import Platform, Subject

Colour = tuple[int, int, int]
Points = list[tuple[int, int]]

_COLUMN = {attribute.name: column for column, attribute in enumerate(ATTRIBUTES)}
_TRUE_COLOURS: tuple[Colour, ...] = (
    (214, 32, 38), (246, 200, 24), (34, 150, 58), (28, 84, 208), (138, 40, 172), (34, 34, 36),
)  # fmt: skip
# Corners of the four motifs in thousandths of the radius: disc, square, triangle, star.
_MOTIFS: tuple[Points, ...] = (
    [(1000, 0), (866, 500), (500, 866), (0, 1000), (-500, 866), (-866, 500), (-1000, 0),
     (-866, -500), (-500, -866), (0, -1000), (500, -866), (866, -500)],
    [(-880, -880), (880, -880), (880, 880), (-880, 880)],
    [(0, -1050), (1050, 800), (-1050, 800)],
    [(0, -1100), (260, -360), (1046, -340), (420, 137), (647, 890), (0, 440),
     (-647, 890), (-420, 137), (-1046, -340), (-260, -360)],
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """A platform's style of picture.

    Attributes:
        width, height: of the largest picture in pixels; the smallest is four fifths of it.
        ground: colour of the background; the video platforms vary it by item.
        radius: of the object, percent of half the shorter side.
        tint, strength: a colour that covers the object's own, in percent.
        clutter: number of things behind the object.
    """

    width: int
    height: int
    ground: Colour
    radius: int
    tint: Colour
    strength: int
    clutter: int


LOOKS: dict[Platform, Look] = {
    "HM": Look(
        width=280,
        height=340,
        ground=(238, 236, 233),
        radius=86,
        tint=(150, 140, 130),
        strength=18,
        clutter=0,
    ),
    "Amazon": Look(
        width=320,
        height=320,
        ground=(255, 255, 255),
        radius=84,
        tint=(255, 255, 255),
        strength=4,
        clutter=0,
    ),
    "Bili": Look(
        width=384,
        height=240,
        ground=(196, 212, 224),
        radius=78,
        tint=(60, 80, 140),
        strength=12,
        clutter=9,
    ),
    "Kwai": Look(
        width=240,
        height=340,
        ground=(226, 208, 200),
        radius=80,
        tint=(255, 140, 90),
        strength=14,
        clutter=11,
    ),
}


def draw(
    platform: Platform, subject: Subject, values: npt.NDArray[np.int8], rng: np.random.Generator
) -> Image.Image:
    """Draw an item, RGB.

    Args:
        values: its attribute values, in the order of ATTRIBUTES.
        rng: the item's own generator.
    """
    look = LOOKS[platform]
    percent = int(rng.integers(80, 101))
    size = (look.width * percent // 100, look.height * percent // 100)
    picture = Image.new("RGB", size, _shifted(look.ground, 3 if look.clutter == 0 else 24, rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(look.clutter):
        _draw_clutter(pen, size, rng)
    radius = min(size) * look.radius * int(rng.integers(88, 101)) // 20_000
    slack = [max(side // 2 - radius, 0) * (20 if look.clutter == 0 else 50) // 100 for side in size]
    centre = tuple(
        side // 2 + int(rng.integers(-room, room + 1))
        for side, room in zip(size, slack, strict=True)
    )
    colour = _mixed(_TRUE_COLOURS[values[_COLUMN["colour"]]], look.tint, look.strength)
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    _draw_behind(pen, subject, box)
    fill = _texture(radius, _shifted(colour, 12, rng), int(values[_COLUMN["texture"]]), rng)
    outline = _outline(radius, int(values[_COLUMN["motif"]]), rng)
    mask = Image.new("L", fill.size, 0)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    picture.paste(fill, (box[0], box[1]), mask)
    _draw_before(pen, subject, box, size, outline)
    return picture


def _shifted(colour: Colour, by: int, rng: np.random.Generator) -> Colour:
    red, green, blue = (max(0, min(255, part + int(rng.integers(-by, by + 1)))) for part in colour)
    return red, green, blue


def _mixed(colour: Colour, other: Colour, percent: int) -> Colour:
    red, green, blue = (
        (part * (100 - percent) + more * percent) // 100
        for part, more in zip(colour, other, strict=True)
    )
    return red, green, blue


def _outline(radius: int, motif: int, rng: np.random.Generator) -> Points:
    """Corners of the object inside its box, slightly sheared and squeezed."""
    lean, squeeze = int(rng.integers(-120, 121)), int(rng.integers(850, 1001))
    return [
        (
            radius + radius * (x * squeeze // 1000 + y * lean // 1000) // 1100,
            radius + radius * y // 1100,
        )
        for x, y in _MOTIFS[motif]
    ]


def _texture(radius: int, colour: Colour, texture: int, rng: np.random.Generator) -> Image.Image:
    """The object's fill, as large as its box: plain, striped, dotted or checked."""
    side = 2 * radius + 1
    fill = Image.new("RGB", (side, side), colour)
    pen = ImageDraw.Draw(fill)
    ink = _mixed(colour, (255, 255, 255), 72)
    period = max(10, side // int(rng.integers(5, 7)))
    places = range(0, side, period)
    if texture == 1:
        for y in places:
            pen.rectangle((0, y, side, y + period // 3), fill=ink)
    elif texture == 2:
        for x in places:
            for y in places:
                pen.ellipse((x, y, x + period // 2, y + period // 2), fill=ink)
    elif texture == 3:
        for row, y in enumerate(places):
            for x in places[row % 2 :: 2]:
                pen.rectangle((x, y, x + period - 1, y + period - 1), fill=ink)
    return fill


def _draw_clutter(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """A pale thing somewhere in the background; pale, so that it cannot be taken for the object."""
    x, y = int(rng.integers(size[0])), int(rng.integers(size[1]))
    wide, high = int(rng.integers(8, size[0] // 3)), int(rng.integers(8, size[1] // 3))
    colour = _shifted((188, 188, 188), 44, rng)
    if rng.integers(2):
        pen.ellipse((x - wide // 2, y - high // 2, x + wide // 2, y + high // 2), fill=colour)
    else:
        pen.rectangle((x - wide // 2, y - high // 2, x + wide // 2, y + high // 2), fill=colour)


def _draw_behind(
    pen: ImageDraw.ImageDraw, subject: Subject, box: tuple[int, int, int, int]
) -> None:
    """The mark of the department, where it belongs behind the object."""
    left, top, right, bottom = box
    middle, wide = (left + right) // 2, (right - left) // 10
    if subject == "food":
        pen.ellipse((left - wide, top + wide, right + wide, bottom + wide), fill=(250, 250, 250))
    elif subject == "clothes":
        pen.line((middle, top - 2 * wide, middle, top + 3 * wide), fill=(90, 90, 90), width=4)
        pen.line((middle - 3 * wide, top, middle + 3 * wide, top), fill=(90, 90, 90), width=4)
    elif subject == "accessories":
        pen.arc((middle - 3 * wide, top - 2 * wide, middle + 3 * wide, top + 5 * wide), 180, 360,
                fill=(120, 84, 40), width=6)  # fmt: skip


def _draw_before(
    pen: ImageDraw.ImageDraw,
    subject: Subject,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    outline: Points,
) -> None:
    """The mark of the department, where it belongs in front of the object."""
    left, top, right, bottom = box
    if subject == "shoes":
        pen.rectangle((left, bottom - 2, right, bottom + 10), fill=(70, 60, 52))
    elif subject == "movie":
        bar = size[1] // 12
        pen.rectangle((0, 0, size[0], bar), fill=(0, 0, 0))
        pen.rectangle((0, size[1] - bar, size[0], size[1]), fill=(0, 0, 0))
    elif subject == "cartoon":
        corners = [(left + x, top + y) for x, y in outline]
        pen.line([*corners, corners[0]], fill=(20, 20, 20), width=6)
    elif subject == "music":
        for bar, high in enumerate((5, 9, 7, 11, 6)):
            x = size[0] // 20 + bar * 9
            pen.rectangle((x, size[1] - 4 * high, x + 5, size[1]), fill=(240, 90, 130))
