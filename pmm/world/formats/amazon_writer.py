"""Writes the Amazon platform in the layouts of the Amazon review data of 2018 and of 2023.

One category, `Clothing_Shoes_and_Jewelry`: reviews and metadata as gzip-compressed JSON lines, and
the pictures, of which the real releases have the addresses only, as `images/<asin>.jpg`. The
category path tells Clothing from Shoes at level 2 or deeper, so Amazon Clothes and Amazon Shoes are
carved as from the real files. Editions: "2018"; "2018-old", its metadata before May 2021 (addresses
of thumbnails under `image`); "2023" (`parent_asin`, milliseconds, lists of pictures by variant).
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pmm.storage.artefact import storage_errors
from pmm.world.formats.defects import (
    Defects,
    TextDefect,
    planted,
    text_with_defect,
    title_with_defect,
)
from pmm.world.formats.raw_files import (
    RawDataset,
    item_text,
    plan_dataset,
    subject_of,
    write_json_lines,
    write_pictures,
)
from pmm.world.generate import World, stream
from pmm.world.item_texts import tag_words
from pmm.world.platforms import Subject

WrittenEdition = Literal["2018", "2018-old", "2023"]
Record = dict[str, Any]

CATEGORY = "Clothing_Shoes_and_Jewelry"
PICTURE_BASE = "https://images.example.com/I/"
_UNCLOSED = '<span class="a-size-medium a-color-secondary"'
_SCRIPT = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
NO_TITLES: dict[WrittenEdition, tuple[str, ...]] = {
    "2018": ("", _UNCLOSED),
    "2018-old": ("", _UNCLOSED, _SCRIPT),
    "2023": ("",),
}
"""What stands for a title that is missing: 3,153 of the 3,385 real magazines have the cut-off tag,
and older files also have a page's scripts."""

_FIRST_DAY = date(2016, 10, 1)
_DAY_MS = 86_400_000
_ROOT = "Clothing, Shoes & Jewelry"
_LEVEL_2: dict[Subject, str] = {
    "clothes": "Clothing",
    "shoes": "Shoes",
    "accessories": "Accessories",
}
_BULLETS = (
    "Imported",
    "Hand wash only; colours of Clothing, Shoes and bags may differ",
    'Measures approximately 9.5" from the arch',
    "100% Cotton",
)
_THUMBNAILS = ("._SX38_SY50_CR,0,0,38,50_.jpg", "._SR80,60_.jpg")
_CSS = ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{border-color:#e77600}"
_PRICES = ("$19.99", "", "$1,250.00", _CSS, "$10.49 - $24.00")
_FOREIGN: tuple[list[str], ...] = (
    ["Gift Cards", "Gift Cards"],
    ["Sports & Outdoors", "Outdoor Recreation", "Clothing", "Shoes"],
    [],
)


@dataclass(frozen=True, kw_only=True)
class MetadataDefects:
    """Which items' metadata are defective, by item number; no item has two of these defects.

    Attributes:
        relisted: have two rows, the first without a picture.
        unlisted: have no row.
        foreign: how many rows of other categories there are besides.
        dead_links: the first address of the picture leads nowhere, the second to it.
    """

    relisted: frozenset[int]
    unlisted: frozenset[int]
    foreign: int
    dead_links: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class _Shop:
    """What the rows of both files are made from."""

    world: World
    dataset: RawDataset
    listing: MetadataDefects
    edition: WrittenEdition
    base: str

    def asin(self, number: int) -> str:
        return self.world.item_ids("Amazon")[number]


def write_amazon(
    world: World,
    folder: Path,
    defects: Defects | None = None,
    *,
    edition: WrittenEdition = "2018",
    picture_base: str = PICTURE_BASE,
) -> dict[str, int]:
    """Write the Amazon platform; the same world gives the same bytes, also over an existing folder.

    The order of reviews says nothing. Those of 2018 have the time of midnight UTC, so several of
    one day are tied; among rows with the same time of one user the file order is the true order.

    Args:
        defects: what to plant; a small share of everything by default. The defects of texts go into
            titles. Of the repeated reviews some are the same line, some differ by their `style`
            (see `identical_repeats`).
        edition: which release, and which generation of its metadata.
        picture_base: what addresses of pictures begin with; the rest is the file's name in
            `images/`. An item without a picture has neither address nor file.

    Returns:
        rows, users, items, pictures, tied rows, and the planted defects by kind: to those of all
        formats come identical rows, relisted, unlisted and foreign items and dead links (see
        `MetadataDefects`).

    Raises:
        StorageError: the folder cannot be written.
    """
    dataset = plan_dataset(world, "Amazon", defects, order="scattered")
    listing = plan_metadata_defects(world, dataset, defects or Defects())
    shop = _Shop(world=world, dataset=dataset, listing=listing, edition=edition, base=picture_base)
    end = "jsonl.gz" if edition == "2023" else "json.gz"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths = {n: folder / "images" / f"{shop.asin(n)}.jpg" for n in dataset.numbers}
        pictures = write_pictures(world, "Amazon", paths, dataset.plan)
        write_json_lines(folder / f"meta_{CATEGORY}.{end}", _metadata(shop))
        write_json_lines(folder / f"{CATEGORY}.{end}", _reviews(shop))
    return {
        **dataset.counts(pictures),
        "identical_rows": len(identical_repeats(dataset, edition)),
        "relisted_items": len(listing.relisted),
        "unlisted_items": len(listing.unlisted),
        "foreign_items": listing.foreign,
        "dead_links": len(listing.dead_links),
    }


def plan_metadata_defects(world: World, dataset: RawDataset, defects: Defects) -> MetadataDefects:
    """Choose the items with defective metadata among those without another defect."""
    plan, rng = dataset.plan, stream("Amazon", world.seed, "listing")
    sound = [n for n in dataset.numbers if n not in plan.pictures and n not in plan.texts]
    left = rng.permutation(np.asarray(sound)).tolist()
    twice = planted(defects.relisted_items, len(dataset.numbers))
    absent = planted(defects.unlisted_items, len(dataset.numbers))
    return MetadataDefects(
        relisted=frozenset(left[:twice]),
        unlisted=frozenset(left[twice : twice + absent]),
        foreign=planted(defects.foreign_items, len(dataset.numbers)),
        dead_links=frozenset(left[twice + absent : twice + 2 * absent]),
    )


def _metadata(shop: _Shop) -> Iterator[Record]:
    make = _product_2023 if shop.edition == "2023" else _product_2018
    again = []
    for number in shop.dataset.numbers:
        if number in shop.listing.unlisted:
            continue
        record = make(shop, number)
        if number in shop.listing.relisted:
            again.append(record)
            record = {**record, **{key: [] for key in record if key.startswith("image")}}
        yield record
    yield from again
    for turn in range(shop.listing.foreign):
        record = make(shop, shop.dataset.numbers[turn])
        name = "parent_asin" if shop.edition == "2023" else "asin"
        path = "categories" if shop.edition == "2023" else "category"
        yield {**record, name: f"B1{record[name][2:]}", path: _FOREIGN[turn % len(_FOREIGN)]}


def category_path(world: World, number: int, edition: WrittenEdition) -> list[str]:
    """An item's path from the root; Baby and Novelty have the type at other levels than Women.

    Some of the accessories have no path, and every second path of 2018 ends in bullet text.
    """
    values, subject = world.items("Amazon").values[number], subject_of(world, "Amazon", number)
    kind, type_ = tag_words("Amazon", subject, values)[0].title(), _LEVEL_2[subject]
    match number % 5:
        case 0:
            path = [_ROOT, "Women", type_, kind]
        case 1:
            path = [_ROOT, "Men", type_, kind]
        case 2:
            path = [_ROOT, "Baby", "Baby Girls", type_, kind]
        case 3 if subject == "accessories":
            return []
        case 3:
            path = [_ROOT, "Novelty & More", type_, "Novelty", "Girls", kind]
        case _:
            path = [_ROOT, "Boys", type_]
    bullets = _BULLETS[: 1 + number % len(_BULLETS)] if number % 2 else ()
    return path if edition == "2023" else [*path, *bullets]


def _written_path(shop: _Shop, number: int) -> list[str]:
    """The path as it stands in the metadata: in 2018 with entities in every third."""
    path = category_path(shop.world, number, shop.edition)
    escaped = number % 3 == 0 and shop.edition != "2023"
    return [html.escape(entry, quote=False) for entry in path] if escaped else path


def _title(shop: _Shop, title: str, number: int) -> tuple[str, TextDefect | None]:
    """The title as it stands in the metadata, and its defect."""
    defect = shop.dataset.plan.texts.get(number)
    if defect == "missing":
        kinds = NO_TITLES[shop.edition]
        return kinds[number % len(kinds)], defect
    return title_with_defect(title, defect, number), defect


def _links(shop: _Shop, number: int) -> list[str]:
    """The names of an item's picture files, the best first; without the ending."""
    asin = shop.asin(number)
    if shop.dataset.plan.pictures.get(number) == "missing":
        return []
    if number in shop.listing.dead_links:
        return [f"{asin}-gone", asin]
    return [asin, f"{asin}-back"] if number % 4 == 1 else [asin]


def _product_2018(shop: _Shop, number: int) -> Record:
    text = item_text(shop.world, "Amazon", number)
    title, defect = _title(shop, text.title, number)
    links = _links(shop, number)
    asin, others = shop.asin(number), shop.dataset.numbers[:3]
    thumbnails = [f"{shop.base}{each}{_THUMBNAILS[number % 2]}" for each in links]
    described = [] if defect == "missing" else [text_with_defect(text.description, defect), ""]
    record: Record = {
        "category": _written_path(shop, number),
        "tech1": "",
        "description": described,
        "fit": "",
        "title": title,
        "also_buy": [],
        "tech2": "",
        "brand": text.title.split()[0],
        "feature": list(_BULLETS[: number % 3]),
        "rank": f"{number + 1:,} in {_ROOT} (" if number % 3 else [f">#{number + 1:,} in {_ROOT}"],
        "also_view": [shop.asin(other) for other in others if other != number],
        "details": {"Shipping Weight:": "8 ounces (", "ASIN: ": asin},
        "main_cat": "Amazon Fashion" if number % 2 else "Toys & Games",
        "similar_item": "",
        "date": "",
        "price": _PRICES[number % len(_PRICES)],
        "asin": asin,
    }
    if shop.edition == "2018-old":
        return {**record, "image": thumbnails}
    best = [f"{shop.base}{each}.jpg" for each in links]
    return {**record, "imageURL": thumbnails, "imageURLHighRes": best}


def _product_2023(shop: _Shop, number: int) -> Record:
    text = item_text(shop.world, "Amazon", number)
    title, defect = _title(shop, text.title, number)
    price = None if number % 3 == 0 else 10.49 + number % 90
    return {
        "main_category": "AMAZON FASHION" if number % 2 else None,
        "title": title,
        "average_rating": 1 + number % 41 / 10,
        "rating_number": 1 + number % 700,
        "features": list(_BULLETS[: number % 3]),
        "description": [] if defect == "missing" else [text_with_defect(text.description, defect)],
        "price": price,
        "images": _pictures_2023(shop, number),
        "videos": [],
        "store": text.title.split()[0],
        "categories": _written_path(shop, number),
        "details": {"Department": "womens", "Date First Available": "October 1, 2016"},
        "parent_asin": shop.asin(number),
        "bought_together": None,
    }


def _pictures_2023(shop: _Shop, number: int) -> list[Record]:
    """The picture under variant MAIN; before it, of some, a view that shows another item."""
    views = []
    for place, link in enumerate(_links(shop, number)):
        best = f"{shop.base}{link}.jpg"
        # Where there is no high resolution, `large` is the best.
        large = best if number % 3 == 1 else f"{shop.base}{link}._AC_.jpg"
        views.append(
            {
                "thumb": f"{shop.base}{link}._AC_SR38,50_.jpg",
                "large": large,
                "variant": f"PT{place:02}" if place else "MAIN",
                "hi_res": None if number % 3 == 1 else best,
            }
        )
    sound = number not in {*shop.dataset.plan.pictures, *shop.listing.dead_links}
    if sound and number % 5 == 2:
        other = f"{shop.base}{shop.asin(number - 1)}.jpg"
        views.insert(0, {"thumb": other, "large": other, "variant": "PT09", "hi_res": other})
    return views


def _reviews(shop: _Shop) -> Iterator[Record]:
    dataset, users = shop.dataset, shop.world.user_ids("Amazon")
    rng = stream("Amazon", shop.world.seed, "reviews")
    stars = rng.integers(1, 6, size=len(dataset.actions.user)).tolist()
    identical = identical_repeats(dataset, shop.edition)
    make = _review_2023 if shop.edition == "2023" else _review_2018
    columns = (dataset.actions.user, dataset.actions.item, dataset.actions.time)
    for place, (user, item, day) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        record = make(shop, users[user], item, day, stars[place])
        yield record
        if place in identical:
            yield record
        elif place in dataset.plan.repeated:
            yield {**record, "style": {"Size:": " Another", "Color:": " Black/White"}}


def identical_repeats(dataset: RawDataset, edition: WrittenEdition) -> frozenset[int]:
    """Which of the planted repeats are the same line again: every second one; in 2023, which has no
    `style`, all.
    """
    repeated = sorted(dataset.plan.repeated)
    return frozenset(repeated if edition == "2023" else repeated[1::2])


def _review_2018(shop: _Shop, user: str, item: int, day: int, stars: int) -> Record:
    """A review; which of the optional keys it has is decided by its numbers."""
    when, turn = _FIRST_DAY + timedelta(days=day), item + day
    record: Record = {
        "overall": float(stars),
        "verified": turn % 7 != 0,
        "reviewTime": f"{when:%m} {when.day}, {when.year}",
        "reviewerID": user,
        "asin": shop.asin(item),
        "style": {"Size:": f" {turn % 12} B(M) US", "Color:": " Blue/Orange"},
        "reviewerName": f"Customer {user[-3:]}",
        "reviewText": f'{stars} of 5, "as shown".\nWould {"" if stars > 2 else "not "}buy again',
        "summary": f"{stars} Stars",
        "unixReviewTime": int((when - date(1970, 1, 1)).total_seconds()),
    }
    if turn % 4 == 3:
        del record["style"]
    if turn % 5 == 0:
        del record["reviewText"]
    if turn % 11 == 0:
        del record["reviewerName"]
    if turn % 9 == 0:
        record["vote"] = f"{turn * 37 % 3000:,}"
    if turn % 13 == 0:  # a customer's own picture, which is not the product's
        record["image"] = [f"{shop.base}{shop.asin((item + 1) % len(shop.dataset.numbers))}.jpg"]
    return record


def _review_2023(shop: _Shop, user: str, item: int, day: int, stars: int) -> Record:
    """A review of a variant: every third has an `asin` that is not its `parent_asin`."""
    parent, turn = shop.asin(item), item + day
    day_ms = int((_FIRST_DAY - date(1970, 1, 1)).total_seconds()) * 1000 + day * _DAY_MS
    pictures = []
    if turn % 13 == 0:  # a customer's own
        other = f"{shop.base}{shop.asin((item + 1) % len(shop.dataset.numbers))}.jpg"
        sizes = dict.fromkeys(("small_image_url", "medium_image_url", "large_image_url"), other)
        pictures.append({**sizes, "attachment_type": "IMAGE"})
    return {
        "rating": float(stars),
        "title": f"{stars} Stars",
        "text": f'{stars} of 5,<br />"as shown"',
        "images": pictures,
        "asin": f"B2{parent[2:]}" if turn % 3 == 0 else parent,
        "parent_asin": parent,
        "user_id": user,
        # The time of day is the day's alone, so that ties stay ties.
        "timestamp": day_ms + (day * 7_919_113) % _DAY_MS,
        "helpful_vote": turn % 4,
        "verified_purchase": turn % 7 != 0,
    }
