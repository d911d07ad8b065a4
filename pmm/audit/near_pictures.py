"""Pictures that are nearly the same, however they were compressed, scaled or brightened.

A picture becomes 63 bits: the signs, around their median, of the lowest frequencies of its cosine
transform at 32 x 32 pixels. Pairs within a Hamming distance are found exactly without comparing
all: of d + 1 pieces of two such codes at least one is the same. Then colours decide, at 16 x
16 pixels, since things of one shape on white have nearly the same frequencies.

Shape legend: N items, G groups, P pairs.
"""

import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmm.arrays import Float32s, Int64s
from pmm.audit.near_items import NearItems
from pmm.evaluate.ranking import spans
from pmm.progress import progress
from pmm.shards.read import Shards

DISTANCE = 8
"""Bits of the 63 in which two pictures may differ. Of 150 photographs of clothes compressed hard
(quality 30), scaled to a half or made a tenth brighter or darker, 149 differ in no more."""
TOLERANCE = 2.0
"""Mean difference of their colours, of 255, once one is made as bright as the other. Of those 150
all but two differ by 1.7 at most; of 4,965 photographs of different clothes the nearest two by 1.9,
the next by 2.4."""
LEAST_GAIN, MOST_GAIN, MOST_SHIFT = 0.7, 1.4, 48.0
"""By how much one may be brighter: times, and of 255."""
_WHITE = 250.0
"""What is brighter may have been cut off at 255."""
PAIRS_AT_ONCE = 2_000_000
"""Pairs that are compared together: a few arrays of 16 MB."""
_SIDE, _LOW, _SMALL = 32, 8, 16
_BITS = _LOW * _LOW - 1

Codes64 = NDArray[np.uint64]
Colours = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PictureCodes:
    """What is compared of pictures."""

    code: Codes64
    """[N] 63 bits."""
    colour: Colours
    """[N, 768] mean colours of 16 x 16 fields, 0 to 255."""


def near_pictures(shards: Shards) -> NearItems:
    """The pictures of a target's shards in groups, and which groups are near.

    Memory is about 800 bytes a picture beside `PAIRS_AT_ONCE` pairs; time is that of decoding at a
    quarter of the size, and for the search grows with the square of the distinct codes over 14.
    """
    numbers = np.flatnonzero(shards.has_picture)
    code = np.zeros(len(numbers), np.uint64)
    colour = np.zeros((len(numbers), 3 * _SMALL * _SMALL), np.uint8)
    with progress(len(numbers), "Comparing", "pictures") as bar:
        for row, item in enumerate(numbers.tolist()):
            code[row], colour[row] = code_of(shards.jpeg(item) or b"")
            bar.advance()
    found = near_codes(PictureCodes(code=code, colour=colour))
    group_N = np.full(shards.n_items + 1, -1, np.int64)
    group_N[numbers] = found.group_N[1:]
    return NearItems(group_N=group_N, pairs_P2=found.pairs_P2)


def code_of(jpeg: bytes) -> tuple[np.uint64, Colours]:
    """A picture's 63 bits, and its colours at 16 x 16. [768]"""
    with Image.open(io.BytesIO(jpeg)) as opened:
        opened.draft("RGB", (2 * _SIDE - 8, 2 * _SIDE - 8))
        small = opened.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixel = np.asarray(small, np.float32)
    grey = pixel @ np.array([0.299, 0.587, 0.114], np.float32)
    low = (_COSINES @ grey @ _COSINES.T).ravel()[1:]  # the first is the brightness
    bits = (low > np.median(low)).astype(np.uint64)
    code = (bits << np.arange(_BITS, dtype=np.uint64)).sum(dtype=np.uint64)
    side = _SIDE // _SMALL
    fields = pixel.reshape(_SMALL, side, _SMALL, side, 3).mean((1, 3))
    return code, fields.round().astype(np.uint8).ravel()


def _cosines() -> NDArray[np.float32]:
    """The rows of the lowest frequencies in a cosine transform (DCT-II)."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None]
    return np.cos(math.pi * frequency * (2 * place + 1) / (2 * _SIDE)).astype(np.float32)


_COSINES = _cosines()


def near_codes(codes: PictureCodes, *, distance: int = DISTANCE) -> NearItems:
    """Groups of pictures of one code and like colours, and groups within the distance.

    Returns:
        of N pictures as items 1..N.
    """
    group, firsts = _same(codes)
    one, other = pairs_within(codes.code[firsts], distance)
    alike = _alike(codes.colour, firsts[one], firsts[other])
    return NearItems(
        group_N=np.concatenate([[-1], group]),
        pairs_P2=np.stack([one[alike], other[alike]], axis=1).astype(np.int64),
    )


def _same(codes: PictureCodes) -> tuple[Int64s, Int64s]:
    """The group of each picture [N], and the first picture of each group [G]."""
    order = np.argsort(codes.code, kind="stable")
    bounds = np.flatnonzero(np.diff(codes.code[order])) + 1
    group = np.zeros(len(order), np.int64)
    firsts: list[int] = []
    for rows in np.split(order, bounds) if len(order) else []:
        left = rows
        while len(left):  # once, but where pictures of one code differ in colour
            close = _alike(codes.colour, np.repeat(left[:1], len(left)), left)
            close[0] = True
            group[left[close]] = len(firsts)
            firsts.append(int(left[0]))
            left = left[~close]
    return group, np.array(firsts, np.int64)


def _alike(colour: Colours, one_P: Int64s, other_P: Int64s) -> NDArray[np.bool_]:
    """Whether the colours of pairs differ by little beside the brightness. [P]"""
    found = [np.zeros(0, np.bool_)]
    step = max(1, PAIRS_AT_ONCE // colour.shape[1])
    for start in range(0, len(one_P), step):
        part = slice(start, start + step)
        one_PC, other_PC = (colour[each[part]].astype(np.float32) for each in (one_P, other_P))
        found.append(_unlikeness(one_PC, other_PC) <= TOLERANCE)
    return np.concatenate(found)


def _unlikeness(one_PC: Float32s, other_PC: Float32s) -> Float32s:
    """How far the darker of two pictures, made as bright as the other, is from that. [P]

    As bright by a factor and a shift, fitted to what is not white in either, and cut off at 255 as
    when a picture is made brighter.
    """
    darker = (one_PC.mean(1) <= other_PC.mean(1))[:, None]
    low_PC, high_PC = np.where(darker, one_PC, other_PC), np.where(darker, other_PC, one_PC)
    told = ((low_PC < _WHITE) & (high_PC < _WHITE)).astype(np.float32)
    many = np.maximum(told.sum(1, keepdims=True), 1)
    low_mean = (told * low_PC).sum(1, keepdims=True) / many
    high_mean = (told * high_PC).sum(1, keepdims=True) / many
    low_rest, high_rest = told * (low_PC - low_mean), told * (high_PC - high_mean)
    square = (low_rest**2).sum(1, keepdims=True)
    both = (low_rest * high_rest).sum(1, keepdims=True)
    plain = square <= many  # of one colour, so nothing tells a factor from a shift
    gain = np.where(plain, 1, np.clip(both / np.maximum(square, 1), LEAST_GAIN, MOST_GAIN))
    shift = np.clip(high_mean - gain * low_mean, -MOST_SHIFT, MOST_SHIFT)
    made = np.clip(gain * low_PC + shift, 0, 255)
    apart: Float32s = np.abs(made - high_PC).mean(1)
    return apart


def pairs_within(code_G: Codes64, distance: int) -> tuple[Int64s, Int64s]:
    """All pairs of codes of 64 bits that differ in at most so many: (one < other), by both.

    Of distance + 1 pieces of two such codes one is the same at least, so only codes that share a
    piece are compared, `PAIRS_AT_ONCE` at a time.

    >>> [each.tolist() for each in pairs_within(np.array([0, 255, 3], np.uint64), 2)]
    [[0], [2]]
    """
    held = [np.zeros(0, np.int64)]
    n = len(code_G)
    for piece in _pieces(code_G, distance + 1):
        order = np.argsort(piece, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(piece[order])) + 1, n)
        partners = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(n) - 1
        for start, stop in spans(partners, PAIRS_AT_ONCE):
            many = partners[start:stop]
            first = np.repeat(np.arange(start, stop), many)
            step = np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
            one, other = order[first], order[first + 1 + step]
            near = _ones(code_G[one] ^ code_G[other]) <= distance
            low, high = np.minimum(one, other)[near], np.maximum(one, other)[near]
            held.append(low * n + high)
    found = np.unique(np.concatenate(held))
    return found // max(n, 1), found % max(n, 1)


def _pieces(code_G: Codes64, pieces: int) -> Iterator[Codes64]:
    bounds = np.linspace(0, 64, pieces + 1).astype(int).tolist()
    for low, high in itertools.pairwise(bounds):
        yield (code_G >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)


def _ones(code_P: Codes64) -> Codes64:
    """How many bits are 1: added up in fields of 2, 4 and 8 bits, then all (Warren, 2002)."""
    two, four, eight = (
        np.uint64(each) for each in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    )
    found = code_P - ((code_P >> np.uint64(1)) & two)
    found = (found & four) + ((found >> np.uint64(2)) & four)
    found = (found + (found >> np.uint64(4))) & eight
    ones: Codes64 = (found * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return ones
