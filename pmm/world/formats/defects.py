"""Defects of real dumps, planted and counted, so that an ingest's account can be checked."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from pmm.errors import InputError

PictureDefect = Literal["missing", "truncated", "text", "grey", "cmyk", "alpha"]
TextDefect = Literal["missing", "markup"]
JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Shares of the items or rows that get a defect, 0 to 1; a share above 0 plants at least one.

    Attributes:
        missing_pictures: items without a picture file.
        broken_pictures: in turn a JPEG cut in half, and a text file named like a picture.
        odd_pictures: in turn greyscale JPEG, CMYK JPEG, and PNG with alpha, all named .jpg.
        missing_texts: items without a description, the title stays; or, in the formats that have
            titles only, and at Amazon, without a title.
        markup: descriptions (in those formats titles) with HTML tags and entities.
        repeated_rows: interactions that are written twice, one below the other.
        stripped_ids: H&M interactions whose article id has lost its leading zero.
        relisted_items: Amazon items whose metadata stands twice, first without a picture.
        unlisted_items: Amazon items that are reviewed but have no metadata.
        foreign_items: Amazon metadata of other categories, as a share of the items; not reviewed.
    """

    missing_pictures: float = 0.01
    broken_pictures: float = 0.004
    odd_pictures: float = 0.012
    missing_texts: float = 0.01
    markup: float = 0.02
    repeated_rows: float = 0.002
    stripped_ids: float = 0.0
    relisted_items: float = 0.02
    unlisted_items: float = 0.005
    foreign_items: float = 0.02

    def __post_init__(self) -> None:
        """Refuse shares outside 0 .. 1, and shares that together ask for more items than there are.

        Raises:
            InputError: names the shares.
        """
        shares = vars(self)
        wrong = [f"{name}={share}" for name, share in shares.items() if not 0 <= share <= 1]
        pictures = self.missing_pictures + self.broken_pictures + self.odd_pictures
        if wrong or pictures > 1 or self.missing_texts + self.markup > 1:
            raise InputError(
                "shares of planted defects must lie in 0 .. 1, those of pictures and those of "
                f"texts also together: {', '.join(wrong) or shares}"
            )


NO_DEFECTS = Defects(
    missing_pictures=0,
    broken_pictures=0,
    odd_pictures=0,
    missing_texts=0,
    markup=0,
    repeated_rows=0,
    relisted_items=0,
    unlisted_items=0,
    foreign_items=0,
)


@dataclass(frozen=True, kw_only=True)
class DefectPlan:
    """Which item or row gets which defect, by item number and by row number."""

    pictures: dict[int, PictureDefect] = field(default_factory=dict)
    texts: dict[int, TextDefect] = field(default_factory=dict)
    repeated: frozenset[int] = frozenset()
    stripped: frozenset[int] = frozenset()

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        pictures, texts = list(self.pictures.values()), list(self.texts.values())
        return {
            "missing_pictures": pictures.count("missing"),
            "truncated_pictures": pictures.count("truncated"),
            "text_files_as_pictures": pictures.count("text"),
            "grey_pictures": pictures.count("grey"),
            "cmyk_pictures": pictures.count("cmyk"),
            "alpha_pictures": pictures.count("alpha"),
            "missing_texts": texts.count("missing"),
            "markup_texts": texts.count("markup"),
            "repeated_rows": len(self.repeated),
            "stripped_ids": len(self.stripped),
        }


def plan_defects(
    defects: Defects, items: Sequence[int], rows: int, rng: np.random.Generator
) -> DefectPlan:
    """Choose the items and rows; no item gets two picture defects or two text defects."""
    pictures: dict[int, PictureDefect] = {}
    left = rng.permutation(np.asarray(items)).tolist()
    kinds: tuple[tuple[float, tuple[PictureDefect, ...]], ...] = (
        (defects.missing_pictures, ("missing",)),
        (defects.broken_pictures, ("truncated", "text")),
        (defects.odd_pictures, ("grey", "cmyk", "alpha")),
    )
    for share, names in kinds:
        count = planted(share, len(items))
        chosen, left = left[:count], left[count:]
        pictures |= {item: names[turn % len(names)] for turn, item in enumerate(chosen)}
    readers = rng.permutation(np.asarray(items)).tolist()
    missing, markup = (
        planted(defects.missing_texts, len(items)),
        planted(defects.markup, len(items)),
    )
    texts: dict[int, TextDefect] = dict.fromkeys(readers[:missing], "missing")
    texts |= dict.fromkeys(readers[missing : missing + markup], "markup")
    return DefectPlan(
        pictures=pictures,
        texts=texts,
        repeated=frozenset(rng.permutation(rows)[: planted(defects.repeated_rows, rows)].tolist()),
        stripped=frozenset(rng.permutation(rows)[: planted(defects.stripped_ids, rows)].tolist()),
    )


def planted(share: float, of: int) -> int:
    """A share of a number, rounded up: a share above 0 is at least one."""
    return min(of, math.ceil(share * of))


def picture_bytes(picture: Image.Image, defect: PictureDefect | None) -> bytes | None:
    """The picture's file with its defect; None where there is to be none."""
    match defect:
        case None:
            return _encoded(picture, "JPEG")
        case "missing":
            return None
        case "truncated":
            whole = _encoded(picture, "JPEG")
            return whole[: len(whole) // 2]
        case "text":
            return b"<html><body>404 Not Found</body></html>\n"
        case "grey":
            return _encoded(picture.convert("L"), "JPEG")
        case "cmyk":
            return _encoded(picture.convert("CMYK"), "JPEG")
        case "alpha":
            clear = picture.convert("RGBA")
            clear.putalpha(Image.new("L", picture.size, 255))
            clear.paste((0, 0, 0, 0), (0, 0, picture.width, 8))
            return _encoded(clear, "PNG")


def _encoded(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, quality=JPEG_QUALITY)
    return file.getvalue()


def text_with_defect(text: str, defect: TextDefect | None) -> str:
    """The description as it stands in the dump.

    >>> text_with_defect("Red boots", "markup")
    '<p><b>Red boots</b> &amp; more<br/>&nbsp;</p>'
    """
    match defect:
        case None:
            return text
        case "missing":
            return ""
        case "markup":
            return f"<p><b>{text}</b> &amp; more<br/>&nbsp;</p>"


def title_with_defect(title: str, defect: TextDefect | None, number: int) -> str:
    """The title as it stands in a dump that has no description; markup of two kinds, by the number.

    >>> title_with_defect("Red boots", "markup", 4)
    '<em class="keyword">Red boots</em> &amp; more<br/>&nbsp;'
    >>> title_with_defect("Red boots", "markup", 5)
    'Red boots &amp; more &lt;b&gt;&#39;new&#39;&lt;/b&gt;'
    """
    match defect:
        case None:
            return title
        case "missing":
            return ""
        case "markup" if number % 2:
            return f"{title} &amp; more &lt;b&gt;&#39;new&#39;&lt;/b&gt;"
        case "markup":
            return f'<em class="keyword">{title}</em> &amp; more<br/>&nbsp;'
