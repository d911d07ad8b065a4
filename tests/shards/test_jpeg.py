"""Every kind of picture file becomes the picture Pillow sees, or a reason."""

import io
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pmm.shards.jpeg import PictureError, PictureFormat, encode, shrink, shrink_file

Draw = Callable[..., Image.Image]
Save = Callable[..., bytes]
CC0 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cc0_clothing_images"


def by_pillow(data: bytes, size: int = 224) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(small).astype(int)


def difference(data: bytes, size: int = 224) -> float:
    """Mean absolute difference to Pillow's full decode and bicubic, in levels of 255."""
    return float(np.abs(shrink(data, size)[0] - by_pillow(data, size)).mean())


@pytest.mark.parametrize("width_height", [(500, 500), (1166, 1750), (449, 448), (89, 60)])
def test_the_fast_way_gives_pillows_picture(
    draw_picture: Draw, jpeg: Save, width_height: tuple[int, int]
) -> None:
    assert difference(jpeg(draw_picture(1, *width_height), quality=95)) < 0.3


def test_the_fast_way_gives_pillows_picture_of_photographs() -> None:
    paths = sorted(CC0.rglob("*.jpg"))[:30]
    if not paths:
        pytest.skip(f"no photographs below {CC0}")
    differences = [difference(path.read_bytes()) for path in paths]
    assert max(differences) < 0.3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(
    draw_picture: Draw, jpeg: Save, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # 0.3: turning after the squash rounds in another order; a wrong turn differs by tens of levels.
    assert difference(jpeg(draw_picture(2, 300, 200), kind, exif=exif)) < 0.3


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_without_rgb_is_read(draw_picture: Draw, jpeg: Save, mode: str) -> None:
    assert difference(jpeg(draw_picture(3).convert(mode), quality=95)) < 0.3


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_opaque_pngs_are_read(draw_picture: Draw, jpeg: Save, mode: str) -> None:
    assert difference(jpeg(draw_picture(4).convert(mode), "PNG")) < 0.3


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_parts_turn_white(jpeg: Save, mode: str, kind: str) -> None:
    layer = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (0, 0, 20, 40))
    pixels = shrink(jpeg(layer.convert(mode), kind, lossless=True), 8)[0]
    assert pixels[:, 0].max() <= 2
    assert pixels[:, 7].min() >= 253


def test_a_transparent_palette_colour_turns_white(jpeg: Save) -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert shrink(jpeg(image, "PNG", transparency=1), 8)[0].min() == 255


def test_sixteen_bits_keep_their_upper_eight(jpeg: Save) -> None:
    grey = Image.fromarray(np.full((30, 30), 0x80FF, dtype=np.uint16))
    assert np.unique(shrink(jpeg(grey, "PNG"), 8)[0]).tolist() == [0x80]


def test_of_an_animation_the_first_frame_is_taken(jpeg: Save) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "black")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = jpeg(frames[0], kind, save_all=True, append_images=frames[1:])
        assert shrink(data, 8)[0].min() >= 250


@pytest.mark.parametrize("width_height", [(10_000, 20), (20, 10_000), (1, 1), (89, 89)])
def test_odd_shapes_are_squashed(
    draw_picture: Draw, jpeg: Save, width_height: tuple[int, int]
) -> None:
    data = jpeg(draw_picture(5, *width_height), quality=95)
    pixels, found = shrink(data, 64)
    assert (pixels.shape, found) == ((64, 64, 3), width_height)
    assert difference(data, 64) < 0.3


def png_header(width: int, height: int) -> bytes:
    """A PNG of one colour that would unfold to width x height pixels; 100 bytes or so."""
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = [len(d).to_bytes(4) + t + d + zlib.crc32(t + d).to_bytes(4) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("side", [11_000, 12_000, 50_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(PictureError, match="too-large"):
        shrink(png_header(side, side), 8)


def test_the_largest_size_can_be_chosen(draw_picture: Draw, jpeg: Save) -> None:
    data = jpeg(draw_picture(6, 100, 100))
    with pytest.raises(PictureError, match="too-large"):
        shrink(data, 8, max_pixels=9_999)
    assert shrink(data, 8, max_pixels=10_000)[1] == (100, 100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_a_cut_file_is_refused(draw_picture: Draw, jpeg: Save, tmp_path: Path, kind: str) -> None:
    data = jpeg(draw_picture(7, 300, 300), kind)
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    found = shrink_file(tmp_path, "cut", PictureFormat())
    assert found.jpeg is None
    assert found.reason in ("truncated", "broken", "not-a-picture")


def test_a_cut_jpeg_is_called_truncated_and_keeps_its_size(
    draw_picture: Draw, jpeg: Save, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(draw_picture(8, 300, 200))[:-100])
    found = shrink_file(tmp_path, "a.jpg", PictureFormat())
    assert (found.reason, found.width, found.height) == ("truncated", 300, 200)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is no picture", "not-a-picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not-a-picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "not-a-picture"),
    ],
)
def test_what_is_no_picture_gets_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert shrink_file(tmp_path, "a.jpg", PictureFormat()).reason == reason


def test_names_that_lead_nowhere_get_their_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    reasons = {"gone.jpg": "missing", "file/x.jpg": "missing", "pipe": "unreadable"}
    reasons |= {"../x.jpg": "unreadable", "/etc/hostname": "unreadable", ".": "unreadable"}
    reasons |= {"a\0b": "unreadable", "x" * 5000: "unreadable"}
    found = {name: shrink_file(tmp_path, name, PictureFormat()).reason for name in reasons}
    assert found == reasons


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert shrink_file(tmp_path, "a.jpg", PictureFormat()).reason == "unreadable"


def test_damaged_exif_does_not_spoil_the_picture(draw_picture: Draw, jpeg: Save) -> None:
    data = jpeg(draw_picture(9), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(20))
    assert shrink(data, 16)[0].shape == (16, 16, 3)


def test_any_damage_ends_in_a_picture_or_a_reason(
    draw_picture: Draw, jpeg: Save, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    kinds = ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"]
    originals = [jpeg(draw_picture(10, 60, 50), kind) for kind in kinds]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in originals * 25:
            spoiled = np.frombuffer(data, np.uint8).copy()
            spoiled[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            (tmp_path / "a").write_bytes(spoiled)
            found = shrink_file(tmp_path, "a", PictureFormat(size=16))
            assert (found.jpeg is None) == (found.reason is not None)


def test_the_stored_picture_is_close_to_the_squashed_one(draw_picture: Draw, jpeg: Save) -> None:
    pixels, _ = shrink(jpeg(draw_picture(11, 300, 300)), 224)
    stored = np.asarray(Image.open(io.BytesIO(encode(pixels, quality=90))))
    assert np.abs(stored.astype(int) - pixels).mean() < 3
    assert encode(pixels, 90) == encode(pixels, 90)
