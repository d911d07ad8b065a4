"""Amazon's metadata as items: text, category path and addresses of pictures, of every generation.

Text (paper IV-A): the title, the description, then the category tags without repeats. Titles that
hold a page's styles or scripts are empty.
"""

import multiprocessing
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.json_block import LONG_LINE, read_line, split_lines, text_of
from pmm.ingest.readers.json_lines import BAD_UTF8, read_blocks, require_objects, tell_replaced
from pmm.ingest.readers.text import LONGEST_TEXT, clean_text, clean_title, join_text
from pmm.ingest.sources.amazon.editions import AmazonFile, Edition
from pmm.ingest.tables.item_rows import ItemRows
from pmm.machine import cores
from pmm.progress import progress

MOST_URLS = 5
"""Addresses that are kept of an item's pictures."""

MOST_CATEGORIES = 100
"""Entries that are kept of an item's category path."""

_LONGEST_URL = 2_000
_WORTH_PROCESSES = 16
"""Blocks (of 8 MiB) from which on starting processes costs less than they save."""
_ADDRESS = re.compile(r"https?://[^\s/]+/\S+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Product:
    """A row of metadata as an item."""

    item_id: str
    text: str
    categories: tuple[str, ...]
    urls: tuple[str, ...]
    """Addresses of its pictures, best first."""


@dataclass(frozen=True, kw_only=True)
class _Cleaned:
    """What a block of metadata holds; plain tuples, since they travel between processes."""

    rows: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]
    malformed: int
    replaced: int
    example: bytes


def product_of(row: Mapping[str, Any], edition: Edition) -> Product:
    """A row of metadata as an item.

    >>> row = {"asin": "B1", "title": "Tee", "description": ["Soft."], "category": ["Men", "Men"]}
    >>> product_of(row, "2018")
    Product(item_id='B1', text='Tee. Soft. Men', categories=('Men', 'Men'), urls=())
    """
    title = clean_title(text_of(row.get("title")))
    described = row.get("description")
    pieces = described if isinstance(described, list) else [described]
    description = " ".join(filter(None, (clean_text(text_of(piece)) for piece in pieces)))
    path = tuple(filter(None, map(clean_text, _path(row)[:MOST_CATEGORIES])))
    return Product(
        item_id=text_of(row.get("parent_asin" if edition == "2023" else "asin")).strip(),
        text=join_text(join_text(title, [description[:LONGEST_TEXT]]), list(dict.fromkeys(path))),
        categories=path,
        urls=picture_urls(row),
    )


def _path(row: Mapping[str, Any]) -> list[str]:
    """The category path from its root; of several (2014) the first."""
    found = row.get("category") or row.get("categories")
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list):
        return []
    first = next((path for path in found if isinstance(path, list)), None)
    return [text_of(each) for each in (found if first is None else first)]


def picture_urls(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Addresses of an item's pictures, best first, at most `MOST_URLS`.

    2018: those of high resolution, then thumbnails without the suffix that makes them small.
    2023: the variant MAIN before the others, of each the high resolution, then the large one.

    >>> picture_urls({"image": ["https://x.org/I/31A%2B._SX38_SY50_CR,0,0,38,50_.jpg"]})
    ('https://x.org/I/31A%2B.jpg',)
    >>> picture_urls({"images": [{"large": "https://x.org/L.jpg", "hi_res": None}]})
    ('https://x.org/L.jpg',)
    """
    found = [
        *_strings(row.get("imageURLHighRes")),
        *(
            _full_size(url)
            for key in ("imageURL", "image", "imUrl")
            for url in _strings(row.get(key))
        ),
    ]
    for variant in _variants(row.get("images")):
        found += [*_strings(variant.get("hi_res")), *_strings(variant.get("large"))]
    distinct = dict.fromkeys(url for url in found if _ADDRESS.fullmatch(url))
    return tuple(islice(distinct, MOST_URLS))


def _strings(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    texts = [text_of(each).strip() for each in values if isinstance(each, str)]
    return [each for each in texts if len(each) <= _LONGEST_URL]


def _full_size(url: str) -> str:
    """An address without the suffix that makes its picture small: `a._SX38_.jpg` -> `a.jpg`."""
    head, _, ending = url.rpartition(".")
    at = head.find("._", head.rfind("/") + 1)
    small = head.endswith("_") and 0 <= at < len(head) - 2 and re.fullmatch(r"\w+", ending)
    return f"{head[:at]}.{ending}" if small else url


def _variants(images: object) -> list[dict[str, object]]:
    """Pictures of 2023, MAIN first; given as a list of objects or as an object of lists."""
    if isinstance(images, dict):
        # Of any number of keys: with all of them a row would be as long as there are rows.
        wanted = {key: images.get(key) for key in ("variant", "hi_res", "large")}
        lists = {key: value for key, value in wanted.items() if isinstance(value, list)}
        rows = zip_longest(*lists.values())
        images = [dict(zip(lists, row, strict=True)) for row in rows]
    if not isinstance(images, list):
        return []
    found = [each for each in images if isinstance(each, dict)]
    return sorted(found, key=lambda each: each.get("variant") != "MAIN")


def read_products(
    files: Sequence[AmazonFile], edition: Edition, rows: ItemRows, notes: Counter[str]
) -> None:
    """Add the products of metadata files to `rows`, in the order of the files and their rows.

    A file of 128 MiB or more is cleaned by a process a core; the result does not depend on it.

    Raises:
        InputError: a file is damaged, or more than half of its lines are malformed or too long.
    """
    for file in files:
        assert file.lines is not None
        total = malformed = replaced = 0
        example = b""
        left_out: Counter[str] = Counter()
        with progress(None, f"reading {file.path.name}", "products") as bar:
            for cleaned in _cleaned(file, edition, left_out):
                for item_id, text, categories, urls in cleaned.rows:
                    rows.add(item_id, text, None, categories, urls)
                total += len(cleaned.rows) + cleaned.malformed
                malformed += cleaned.malformed
                example = example or cleaned.example
                replaced += cleaned.replaced
                bar.advance(len(cleaned.rows))
        if replaced:
            notes[BAD_UTF8] += replaced
            tell_replaced(file.path.name, replaced)
        long = left_out[LONG_LINE]
        rows.drop_counts["read"] += total + long
        rows.drop_counts[MALFORMED] += malformed
        rows.drop_counts[LONG_LINE] += long
        require_objects(file.path, total - malformed, malformed, long, example, "product")


def _cleaned(file: AmazonFile, edition: Edition, left_out: Counter[str]) -> Iterator[_Cleaned]:
    """The file's blocks in order, cleaned; lines that are too long are counted in `left_out`."""
    assert file.lines is not None
    literal = file.lines.literal
    blocks = read_blocks(file.lines, left_out)
    first = list(islice(blocks, _WORTH_PROCESSES))
    workers = cores()
    if len(first) < _WORTH_PROCESSES or workers < 2:
        for block in (*first, *blocks):
            yield _clean_block(block, edition, literal)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        ahead: deque[tuple[bytes, Future[_Cleaned]]] = deque()
        for block in (*first, *blocks):
            ahead.append((block, pool.submit(_clean_block, block, edition, literal)))
            if len(ahead) > workers + 1:
                yield _result(*ahead.popleft(), edition, literal)
        while ahead:
            yield _result(*ahead.popleft(), edition, literal)


def _result(block: bytes, cleaning: Future[_Cleaned], edition: Edition, literal: bool) -> _Cleaned:
    try:
        return cleaning.result()
    except BrokenProcessPool:  # killed for memory, say: slower, but not lost
        return _clean_block(block, edition, literal)


def _clean_block(block: bytes, edition: Edition, literal: bool) -> _Cleaned:
    rows = []
    malformed = replaced = 0
    example = b""
    for line in split_lines(block):
        row, valid = read_line(line, literal=literal)
        replaced += not valid
        if row is None:
            malformed += 1
            example = example or line
            continue
        product = product_of(row, edition)
        rows.append((product.item_id, product.text, product.categories, product.urls))
    return _Cleaned(rows=rows, malformed=malformed, replaced=replaced, example=example)
