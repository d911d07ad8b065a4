"""The picture of recommendations."""

from pathlib import Path

import numpy as np
from PIL import Image

from pmm.evaluate import gallery

GREEN = (0x2F, 0x9E, 0x44)


def colour(item: int) -> np.ndarray:
    return np.full((224, 224, 3), (10 * item, 100, 200 - 10 * item), dtype=np.uint8)


def row(user: int, target: int, top: list[int]) -> gallery.Row:
    return gallery.Row(
        user=user, history=[1, 2, 3], target=target, rank=4, candidates=1234, top=top
    )


def test_a_gallery_is_a_png_of_the_stated_size_with_the_true_item_framed(tmp_path: Path) -> None:
    rows = [row(0, 7, [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]), row(1, 14, [4, 5, 0])]
    pictures = {item: colour(item) for item in range(1, 14)}
    texts = {item: f"Article {item} with a rather long description of it" for item in range(1, 15)}
    gallery.draw(rows, pictures, texts, tmp_path / "gallery.png", title="Shop, test")
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == gallery.size(2)
        pixels = np.asarray(picture.convert("RGB"))
    framed = (pixels == GREEN).all(axis=2)
    first, second = framed[: gallery.size(1)[1] - 24], framed[gallery.size(1)[1] - 24 :]
    assert first.any(axis=1).sum() > 0
    assert first.sum() == 2 * second.sum()  # hit among the ten: framed twice; missed: once
    assert (pixels == colour(5)[0, 0]).all(axis=2).sum() == 2 * gallery.TILE**2


def test_an_item_without_a_picture_shows_its_text_on_a_neutral_tile(tmp_path: Path) -> None:
    texts = {1: "Überraschend langer Titel " * 20, 2: "", 3: "x" * 300, 9: "Schuh"}
    gallery.draw([row(5, 9, [])], {}, texts, tmp_path / "text.png", title="no pictures")
    with Image.open(tmp_path / "text.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    neutral = (pixels == (0xEE, 0xF1, 0xF4)).all(axis=2).sum()
    assert neutral > 0.6 * 4 * gallery.TILE**2  # four tiles, less the letters on them


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        gallery.draw([row(0, 1, [2])], {1: colour(1)}, {2: "two"}, tmp_path / name, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
