"""Whether bytes are a picture that the later stages can read: by decoding all of it."""

import functools
import io
from dataclasses import dataclass
from typing import Literal

import simplejpeg
from PIL import Image, UnidentifiedImageError

SUFFIX_OF = {
    "JPEG": ".jpg",
    "MPO": ".jpg",  # a JPEG with further pictures behind it
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}
"""Format as Pillow names it -> suffix. All are formats that the shards are made from."""

Fault = Literal["zero bytes", "not a picture", "truncated", "broken", "too large", "placeholder"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A picture (`fault` is None) or what is wrong; the size in pixels where it could be read."""

    fault: Fault | None
    suffix: str = ""
    width: int | None = None
    height: int | None = None


def judge(data: bytes, max_pixels: int) -> Judgement:
    """Decode a picture; JPEGs at an eighth of their size, which still reads every byte of them.

    >>> judge(b"<html>", 1_000_000)
    Judgement(fault='not a picture', suffix='', width=None, height=None)

    Args:
        data: the file's content.
        max_pixels: a larger picture is refused by its header, before anything is decoded.
    """
    if not data:
        return Judgement(fault="zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_readable())
    except Image.DecompressionBombError:
        return Judgement(fault="too large")
    except UnidentifiedImageError:
        return Judgement(fault="not a picture")
    except Exception:  # Pillow's readers raise whatever their parsing runs into
        return Judgement(fault="broken")
    with image:
        width, height = image.size
        fault: Fault | None
        if width * height > max_pixels:
            fault = "too large"
        elif width * height <= 1:
            fault = "placeholder"
        else:
            fault = _decode(image, data)
        suffix = SUFFIX_OF[image.format or ""]
        return Judgement(fault=fault, suffix=suffix, width=width, height=height)


@functools.cache
def _readable() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in SUFFIX_OF if name in Image.OPEN)


def _decode(image: Image.Image, data: bytes) -> Fault | None:
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        try:
            simplejpeg.decode_jpeg(data, "GRAY", min_width=1, min_height=1)
            return None
        except (ValueError, MemoryError):
            pass  # Pillow judges, as it does when shards are made
    try:
        image.load()
        return None
    except Exception as failure:  # as in judge
        text = str(failure).lower()
        return "truncated" if "truncated" in text or "unexpected end" in text else "broken"
