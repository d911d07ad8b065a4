"""The resize without torch makes the same bytes as that of the shards."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pmm.bundle.bicubic import squash
from pmm.recommend.answers import NewItem
from pmm.recommend.item_reader import ContentReading, ItemReader
from pmm.shards.jpeg import shrink


def torch_s(pixels: Any, size: int) -> Any:
    """By the door of the shards: a PNG loses nothing."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return shrink(data.getvalue(), size)[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 300), st.integers(8, 230))
def test_noise_is_resized_to_the_same_bytes(seed: int, height: int, width: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 2:  # sharp edges, at which a filter with negative weights overshoots
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    assert np.array_equal(squash(pixels, size), torch_s(pixels, size))


@pytest.mark.parametrize("shape", [(1166, 1750), (2500, 90), (224, 900)])
def test_large_pictures_are_resized_to_the_same_bytes(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(squash(pixels, 224), torch_s(pixels, 224))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_picture_files_are_read_to_the_same_pixels(kind: str) -> None:
    draw, data = np.random.default_rng(2), io.BytesIO()
    small = Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    small.resize((700, 500), Image.Resampling.BICUBIC).save(data, kind)
    reading = ContentReading(tokenizer=None, picture_size=224, jpeg_quality=90)
    items = [NewItem(item_id="new", image=data.getvalue())]
    with_torch, without = ItemReader(reading), ItemReader(reading, squash)
    one, other = (each.pictures(items).picture_I3HW for each in (with_torch, without))
    assert np.array_equal(one, other)
