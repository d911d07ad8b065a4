"""A picture file becomes a square RGB picture and its JPEG; a file that cannot, a named reason.

Pillow judges what a picture is and reads everything that is no plain JPEG. Plain JPEGs (RGB or
grey) are decoded by libjpeg-turbo at no less than twice the target size, which gives the same
picture in a third to a seventh of the time. One antialiased bicubic resize serves both ways.

Colour profiles are not applied. Of an animation the first frame is taken.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from pmm.shards.shard_options import MAX_PIXELS
from pmm.storage.regular_file import open_below

Pixels: TypeAlias = npt.NDArray[np.uint8]
Squash: TypeAlias = Callable[[Pixels, int], Pixels]
"""[H, W, 3] and a side -> [side, side, 3]: the antialiased bicubic resize."""

Reason = Literal[
    "no-content",  # the shards hold no content of any item
    "no-image",  # the target names no picture for the item
    "missing",  # named, but no such file
    "unreadable",  # no permission, no regular file, or outside the picture folder
    "empty",  # zero bytes
    "not-a-picture",
    "too-large",  # a decompression bomb, or a file of more bytes than any picture needs
    "truncated",
    "broken",  # begins as a picture, cannot be decoded
]


# A file is read whole before it is judged; this only bounds what a wrong file can cost.
MAX_BYTES = 512 * 2**20

# No EPS, WMF and the like (Pillow starts other programs for them), no TGA (it has no signature).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
_ORIENTATION = 0x0112
# libjpeg scales by eighths while it decodes, at little cost. Scaled to the target size alone, the
# picture differs from Pillow's full decode by 1 to 2 levels of 255 on average; at twice the size by
# 0 to 0.2 (500 and 1,166 x 1,750 pixels).
_OVERSAMPLE = 2


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """How pictures are stored."""

    size: int = 224
    """Side of the square, pixels."""
    quality: int = 90
    """JPEG quality; chroma is stored at half the resolution (4:2:0)."""
    max_pixels: int = MAX_PIXELS


class PictureError(Exception):
    """A file that gives no picture. Never leaves this package: it becomes the item's reason."""

    def __init__(self, reason: Reason, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.width = width
        self.height = height


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What became of one picture file: `jpeg` or a `reason`, never both."""

    jpeg: bytes | None
    reason: Reason | None
    width: int | None
    """As Pillow reads it from the header, before EXIF orientation; None where there is none."""
    height: int | None
    sha256: str | None
    """Of the file's bytes; None where they could not be read."""


def shrink_file(folder: Path, relative: str, picture_format: PictureFormat) -> Picture:
    """The picture at `folder/relative`, squashed and encoded. Failures become reasons."""
    try:
        data = read_file(folder, relative)
    except PictureError as failure:
        return Picture(jpeg=None, reason=failure.reason, width=None, height=None, sha256=None)
    digest = hashlib.sha256(data).hexdigest()
    try:
        pixels, (width, height) = shrink(data, picture_format.size, picture_format.max_pixels)
    except PictureError as failure:
        return Picture(
            jpeg=None,
            reason=failure.reason,
            width=failure.width,
            height=failure.height,
            sha256=digest,
        )
    jpeg = encode(pixels, picture_format.quality)
    return Picture(jpeg=jpeg, reason=None, width=width, height=height, sha256=digest)


def read_file(folder: Path, relative: str) -> bytes:
    """The bytes of a picture file. PictureError with its reason where there is nothing to decode.

    A name that climbs out of the folder, or a link that does, is refused: names and archives come
    from elsewhere. A linked folder is not (`pmm.storage.regular_file.open_below`).
    """
    try:
        with open_below(folder, relative) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise PictureError("too-large")
            data = file.read(size)
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError("missing") from None
    except OSError:
        raise PictureError("unreadable") from None
    if not data:
        raise PictureError("empty")
    return data


def shrink(
    data: bytes, size: int, max_pixels: int = MAX_PIXELS, squash: Squash | None = None
) -> tuple[Pixels, tuple[int, int]]:
    """The picture in `data` as uint8 [size, size, 3], and (width, height) of the original.

    Squashed, not cropped; antialiased bicubic, by torch where no other `squash` is given; EXIF
    orientation applied; transparency over white.
    PictureError where Pillow finds no picture, or one of more than `max_pixels` (judged by its
    header, before anything is decoded; Pillow's own limit of 179 million pixels holds as well).
    """
    # Pillow opens every file first, also those that libjpeg-turbo decodes: it reads the header
    # only, and so one library alone decides what a picture is, how large it is and what is refused.
    with _quiet(), _open(data) as image:
        width, height = image.size
        try:
            if width * height > max_pixels:
                raise PictureError("too-large")
            pixels, orientation = _decode(image, data, size)
        except PictureError as failure:
            raise PictureError(failure.reason, width, height) from None
        return _upright((squash or _squash)(pixels, size), orientation), (width, height)


def encode(pixels: Pixels, quality: int) -> bytes:
    """uint8 [H, W, 3] -> JPEG, 4:2:0. The same pixels always give the same bytes."""
    jpeg: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return jpeg


def decode(jpeg: bytes | memoryview) -> Pixels:
    """JPEG -> uint8 [H, W, 3]. ValueError where the bytes are damaged."""
    pixels: Pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    return pixels


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns about odd metadata and large sizes; the reason says all that there is to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    Image.init()
    try:
        return Image.open(io.BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError:
        raise PictureError("too-large") from None
    except UnidentifiedImageError:
        raise PictureError("not-a-picture") from None
    except Exception:  # Pillow's readers raise whatever their parsing runs into
        raise PictureError("broken") from None


def _decode(image: Image.Image, data: bytes, size: int) -> tuple[Pixels, int]:
    """Pixels [H, W, 3] at twice the target size or more (all if there are fewer), orientation."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        floor = _OVERSAMPLE * size
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=floor, min_height=floor)
            return pixels, _orientation(image)
        except (ValueError, MemoryError):
            pass  # Pillow judges: simplejpeg does not say whether a file is cut off or broken
    try:
        image.load()
        # Read after load: the TIFF reader turns the picture itself and then drops the tag.
        return _rgb(image), _orientation(image)
    except Exception as failure:  # as in _open
        cut = "truncated" in str(failure) or "unexpected end" in str(failure).lower()
        raise PictureError("truncated" if cut else "broken") from None


def _rgb(image: Image.Image) -> Pixels:
    """Any mode as RGB: transparency over white, 16 bits by their upper eight."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        if image.mode == "F":
            grey = np.nan_to_num(grey) * (255.0 if grey.max(initial=0) <= 1 else 1.0)
        elif image.mode != "I" or grey.max(initial=0) > 255:
            grey = grey >> 8
        clipped = np.clip(grey, 0, 255).astype(np.uint8)
        return np.repeat(clipped[:, :, None], 3, axis=2)
    # Over white: without this, Pillow drops the alpha and shows whatever colour lies beneath it.
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return np.asarray(white)
    return np.asarray(image.convert("RGB"))


def _squash(pixels: Pixels, size: int) -> Pixels:
    """[H, W, 3] -> [size, size, 3]; equal to Pillow's bicubic within one level."""
    import torch  # here, as who serves without torch resizes in another way
    from torch.nn import functional

    pixels = np.require(pixels, requirements=("C", "W"))  # torch warns about read-only memory
    height, width, _ = pixels.shape
    # A view that torch knows as channels-last (permute leaves it in doubt): half the time.
    strides = (pixels.size, 1, 3 * width, 3)
    picture_13HW = torch.from_numpy(pixels).as_strided((1, 3, height, width), strides)
    # torch's, since it gives Pillow's antialiased bicubic on uint8 in less time: 520 pictures a
    # second and core at 500 pixels, with Pillow's own resize after the same decoding 205.
    small_13HW = functional.interpolate(picture_13HW, (size, size), mode="bicubic", antialias=True)
    small: Pixels = small_13HW[0].permute(1, 2, 0).contiguous().numpy()
    return small


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none that makes sense."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the picture unusable
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror as EXIF orientation 2..8 says.

    Done after the squash to a square, where it costs nothing: turning and squashing commute.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
