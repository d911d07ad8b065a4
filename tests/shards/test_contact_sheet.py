"""Contact sheets show any caption, and the same one twice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from pmm.shards.contact_sheet import draw, sheet_of_shards, wrap
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home

CAPTIONS = ["red shoe", "鞋子 🦊 हिन्दी", "x" * 500, "", "a\tb\n\0c", "word " * 2000, "ع"]


def test_any_caption_is_drawn_and_the_file_does_not_vary(tmp_path: Path) -> None:
    pictures = np.full((7, 50, 40, 3), 200, dtype=np.uint8)
    pictures[3] = (255, 0, 0)
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, pictures, CAPTIONS, columns=3, title="Title 鞋")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 50 * 40


def test_lines_are_no_wider_than_the_picture_and_lose_no_letter() -> None:
    font = ImageFont.load_default(11)
    assert isinstance(font, ImageFont.FreeTypeFont)
    for text in ("a longer text of several words", "unbreakable" * 9, "i"):
        lines = wrap(text, 60, font)
        assert max(map(font.getlength, lines)) <= 60
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_sheet_of_shards_shows_their_pictures(
    make_home: Callable[..., Home], options: ShardOptions, tmp_path: Path
) -> None:
    home = make_home(n_items=9)
    write_shards(home, "HM", options)
    sheet_of_shards(home.shards("HM"), tmp_path / "sheet.png", n=4)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
