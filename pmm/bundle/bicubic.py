"""The resize of the shards without torch: the same bytes, in NumPy.

Torch resizes uint8 with Pillow's antialiased bicubic filter in whole numbers: weights of 16 bits,
columns first, each pass rounded to eight bits. Written down once more it gives the same pixels to
the last bit (`tests/bundle/test_bicubic.py`), where Pillow's own differs by a level or two.

Shape suffixes: N pixels that are read, M that are made.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pmm.shards.jpeg import Pixels

_SUPPORT, _A = 2.0, -0.5
"""Reach of the filter at its own scale, and its parameter, as of Pillow."""
_MOST_BITS = 22


def squash(pixels: Pixels, size: int) -> Pixels:
    """[H, W, 3] -> [size, size, 3], as `pmm.shards.jpeg` with torch."""
    height, width, colours = pixels.shape
    if width != size:
        rows = pixels.transpose(1, 0, 2).reshape(width, -1)
        narrow = _resized(rows, size).reshape(size, height, colours)
        pixels = narrow.transpose(1, 0, 2)
    if height != size:
        columns = np.ascontiguousarray(pixels).reshape(height, -1)
        pixels = _resized(columns, size).reshape(size, size, colours)
    return np.ascontiguousarray(pixels)


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[N, C] -> [size, C]."""
    bands, bits = _weights(len(pixels), size)
    made = np.empty((size, pixels.shape[1]), np.uint8)
    half, shift = 1 << (bits - 1), np.float64(1 << bits)
    for row, (first, weight_K) in enumerate(bands):
        # Sums of whole numbers below 2^53: exact in any order.
        total = weight_K @ pixels[first : first + len(weight_K)].astype(np.float64)
        made[row] = np.clip(np.floor((total + half) / shift), 0, 255)
    return made


@lru_cache(maxsize=64)
def _weights(length: int, size: int) -> tuple[tuple[tuple[int, NDArray[np.float64]], ...], int]:
    """Of each pixel that is made: where its window begins, its whole weights; their places."""
    scale = length / size
    reach, inverse = (_SUPPORT * scale, 1 / scale) if scale >= 1 else (_SUPPORT, 1.0)
    bands = []
    for row in range(size):
        centre = scale * (row + 0.5)
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), length)
        weight_K = _filter((np.arange(first, last, dtype=np.float64) - centre + 0.5) * inverse)
        bands.append((first, weight_K / weight_K.sum()))
    most = max(float(weight_K.max()) for _, weight_K in bands)
    bits = 0
    while bits < _MOST_BITS and int(0.5 + most * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    whole = ((first, np.trunc(w * (1 << bits) + np.where(w < 0, -0.5, 0.5))) for first, w in bands)
    return tuple(whole), bits


def _filter(x_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution."""
    x_K = np.abs(x_K)
    near = ((_A + 2) * x_K - (_A + 3)) * x_K * x_K + 1
    far = (((x_K - 5) * x_K + 8) * x_K - 4) * _A
    return np.where(x_K < 1, near, np.where(x_K < 2, far, 0.0))
