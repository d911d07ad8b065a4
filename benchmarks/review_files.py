"""Generated Amazon 2018 files of a given size: review lines and metadata lines as gz.

    python -m benchmarks.review_files --to DIR --rows 1e6

Users and items follow power laws, lines are sorted by item, times are midnights, and one line in
5,000 stands twice, as in the real dump.
"""

import argparse
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK = 100_000
REPEATED = 5_000
FILES = 4
_FIRST_DAY, _DAYS = 12_000, 5_700  # since 1970: 2002 to 2018


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the files are together."""

    rows: int
    users: int
    items: int
    words: int = 25
    """Words of a review's text on average."""

    @classmethod
    def of(cls, rows: int) -> "Shape":
        """As many users and items for the rows as a large category has, roughly."""
        return cls(rows=rows, users=max(100, rows // 5), items=max(50, rows // 25))


def write_reviews(folder: Path, shape: Shape) -> int:
    """Write `FILES` categories with their metadata; returns the bytes of the review lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(min(FILES, 8), get_context("spawn")) as pool:
        jobs = [pool.submit(_write_category, folder, shape, k) for k in range(FILES)]
        return sum(job.result() for job in jobs)


def _write_category(folder: Path, shape: Shape, k: int) -> int:
    rng = np.random.default_rng(k)
    items = range(shape.items * k // FILES, shape.items * (k + 1) // FILES)
    rows = shape.rows * (k + 1) // FILES - shape.rows * k // FILES
    asins = pa.array([f"B{n * 7919:09d}" for n in items])
    name = f"Category_{k}"
    _write_gz(folder / f"meta_{name}.json.gz", _metadata(asins, k, rng))
    return _write_gz(folder / f"{name}.json.gz", _reviews(shape, rows, asins, rng))


def _write_gz(path: Path, lines: Iterator[pa.Array]) -> int:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    written = 0
    with path.open("wb") as file:
        for block in lines:
            data = block.buffers()[2]
            written += len(data)
            file.write(packer.compress(data))
        file.write(packer.flush())
    return written


def _reviews(
    shape: Shape, rows: int, asins: pa.Array, rng: np.random.Generator
) -> Iterator[pa.Array]:
    users = pa.array([f"A{n * 514_229:013X}" for n in range(shape.users)])
    texts = pa.array([_words(rng, int(n)) for n in rng.poisson(shape.words, 20_000)])
    heads = pa.array([_words(rng, 4) for _ in range(5_000)])
    days = np.arange(_FIRST_DAY, _FIRST_DAY + _DAYS)
    dates = [f"{d.month:02d} {d.day}, {d.year}" for d in days.astype("datetime64[D]").tolist()]
    dated = pa.array(dates)
    of_item = np.cumsum(1 / np.arange(1, len(asins) + 1) ** 0.7)
    of_user = np.cumsum(1 / np.arange(1, len(users) + 1) ** 0.6)
    item = np.sort(np.searchsorted(of_item, rng.random(rows) * of_item[-1]))
    for start in range(0, rows, BLOCK):
        size = min(BLOCK, rows - start)
        own = item[start : start + size].copy()
        user = np.searchsorted(of_user, rng.random(size) * of_user[-1])
        day = rng.integers(0, _DAYS, size)
        text, head = rng.integers(0, len(texts), size), rng.integers(0, len(heads), size)
        stars = rng.integers(1, 6, size)
        for column in (own, user, day, text, head, stars):  # this line once more
            column[REPEATED - 1 :: REPEATED] = column[REPEATED - 2 : -1 : REPEATED]
        yield pc.binary_join_element_wise(
            '{"overall": ', pa.array(stars).cast(pa.string()),
            '.0, "verified": true, "reviewTime": "',
            dated.take(pa.array(day)), '", "reviewerID": "', users.take(pa.array(user)),
            '", "asin": "', asins.take(pa.array(own)),
            '", "style": {"Size:": " Large", "Color:": " Black"}, "reviewerName": "',
            heads.take(pa.array(user % len(heads))),
            '", "reviewText": "', texts.take(pa.array(text)),
            '", "summary": "', heads.take(pa.array(head)), '", "unixReviewTime": ',
            pa.array((day + _FIRST_DAY) * 86_400).cast(pa.string()), "}\n", "",
        )  # fmt: skip


def _metadata(asins: pa.Array, k: int, rng: np.random.Generator) -> Iterator[pa.Array]:
    titles = pa.array([_words(rng, 8) for _ in range(20_000)])
    texts = pa.array([_words(rng, 40) for _ in range(20_000)])
    kinds = pa.array(["Clothing", "Shoes", "Jewelry"])
    root = f'"Clothing, Shoes & Jewelry", "Department {k}", "'
    for start in range(0, len(asins), BLOCK):
        own = asins.slice(start, BLOCK)
        size = len(own)

        def some(pool: pa.Array, size: int = size) -> pa.Array:
            return pool.take(pa.array(rng.integers(0, len(pool), size)))

        yield pc.binary_join_element_wise(
            '{"category": [', root, some(kinds), '", "', some(titles), '"], "description": ["',
            some(texts), '"], "title": "', some(titles), ' &amp; more", "also_buy": ["',
            some(asins), '"], "rank": [], "price": "$12.50", "asin": "', own,
            '", "imageURLHighRes": ["https://images.example.com/I/', own, '.jpg"]}\n', "",
        )  # fmt: skip


def _words(rng: np.random.Generator, count: int) -> str:
    syllables = ["ka", "lo", "mi", "ten", "sor", "pla", "vi", "der", "un", "est", "oro", "quil"]
    drawn = rng.integers(0, len(syllables), (count, 3))
    drawn[:, 0] //= 1 + (drawn[:, 1] % 3)
    return " ".join("".join(syllables[s] for s in word) for word in drawn.tolist())


def main() -> None:
    """Parse the options and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=1_000_000)
    options = parser.parse_args()
    written = write_reviews(options.to, Shape.of(options.rows))
    print(f"{options.to}: {options.rows:,} review lines, {written / 1e9:.2f} GB unpacked")


if __name__ == "__main__":
    main()
