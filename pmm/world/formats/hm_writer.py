"""Writes the HM platform in the layout of H&M's Kaggle dump.

`transactions_train.csv`, `articles.csv` with its 25 columns, `images/<first three
digits>/<article_id>.jpg`. `product_group_name` tells Garments from Shoes, so HM Clothes and HM
Shoes are carved as from the real dump. The attributes that titles show stand in the name, in the
description and in category columns (product type, colour group, section); no column tells motif or
texture.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from pmm.storage.artefact import storage_errors
from pmm.world.attributes import ATTRIBUTES
from pmm.world.formats.defects import DefectPlan, Defects, text_with_defect
from pmm.world.formats.raw_files import (
    RawDataset,
    item_text,
    plan_dataset,
    subject_of,
    write_pictures,
    write_rows,
)
from pmm.world.generate import World, stream
from pmm.world.item_texts import tag_words
from pmm.world.platforms import Subject

ARTICLE_COLUMNS = (
    "article_id", "product_code", "prod_name", "product_type_no", "product_type_name",
    "product_group_name", "graphical_appearance_no", "graphical_appearance_name",
    "colour_group_code", "colour_group_name", "perceived_colour_value_id",
    "perceived_colour_value_name", "perceived_colour_master_id", "perceived_colour_master_name",
    "department_no", "department_name", "index_code", "index_name", "index_group_no",
    "index_group_name", "section_no", "section_name", "garment_group_no", "garment_group_name",
    "detail_desc",
)  # fmt: skip
TRANSACTION_COLUMNS = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
_FIRST_DAY = date(2018, 9, 20)
_GROUPS: dict[Subject, tuple[str, ...]] = {
    "clothes": (
        "Garment Upper body",
        "Garment Lower body",
        "Garment Full body",
        "Garment Upper body",
    ),
    "shoes": ("Shoes",) * 4,
    "accessories": ("Accessories",) * 4,
}


def write_hm(world: World, folder: Path, defects: Defects | None = None) -> dict[str, int]:
    """Write the HM platform; the same world gives the same bytes, also over an existing folder.

    Transactions are sorted by date, then customer, as in the real dump; several purchases of one
    day are tied, and among them the file order is the true order.

    Args:
        defects: what to plant; a small share of everything by default.

    Returns:
        rows, users, items, pictures, tied rows, and the planted defects by kind.

    Raises:
        StorageError: the folder cannot be written.
    """
    order = np.argsort(np.argsort(np.asarray(world.user_ids("HM"))))
    dataset = plan_dataset(world, "HM", defects, user_order=order)
    raw = world.item_ids("HM")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        images = folder / "images"
        paths = {number: images / name[:3] / f"{name}.jpg" for number, name in enumerate(raw)}
        pictures = write_pictures(world, "HM", paths, dataset.plan)
        write_rows(folder / "articles.csv", _article_rows(world, dataset.plan))
        write_rows(folder / "transactions_train.csv", _transaction_rows(world, dataset))
    return dataset.counts(pictures)


def _transaction_rows(world: World, dataset: RawDataset) -> Iterator[tuple[str, ...]]:
    actions, plan = dataset.actions, dataset.plan
    items, users = world.item_ids("HM"), world.user_ids("HM")
    rng = stream("HM", world.seed, "prices")
    prices = [f"{cents / 59_000:.16f}" for cents in rng.integers(300, 6000, size=len(items))]
    channels = rng.integers(1, 3, size=len(actions.user)).tolist()
    days = [
        (_FIRST_DAY + timedelta(days=day)).isoformat() for day in range(int(actions.time.max()) + 1)
    ]
    yield TRANSACTION_COLUMNS
    columns = (actions.user.tolist(), actions.item.tolist(), actions.time.tolist())
    for place, (user, item, time) in enumerate(zip(*columns, strict=True)):
        article = items[item].lstrip("0") if place in plan.stripped else items[item]
        row = days[time], users[user], article, prices[item], str(channels[place])
        yield row
        if place in plan.repeated:
            yield row


def _article_rows(world: World, plan: DefectPlan) -> Iterator[tuple[str, ...]]:
    yield ARTICLE_COLUMNS
    for number in range(len(world.item_ids("HM"))):
        yield _article(world, number, plan)


def _article(world: World, number: int, plan: DefectPlan) -> tuple[str, ...]:
    raw, subject = world.item_ids("HM")[number], subject_of(world, "HM", number)
    values = world.items("HM").values[number]
    text = item_text(world, "HM", number)
    value = {attribute.name: int(v) for attribute, v in zip(ATTRIBUTES, values, strict=True)}
    kind, mood, colour = (word.capitalize() for word in tag_words("HM", subject, values))
    group = _GROUPS[subject][value["kind"]]
    department = str(1200 + 10 * value["kind"] + value["mood"])
    shade = "Dark" if colour == "Black" else "Bright"
    return (
        raw, raw[:7], text.title, str(250 + value["kind"]), kind, group,
        "1010023", "Other pattern", str(10 * value["colour"] + 9), colour,
        "4" if shade == "Dark" else "2", shade, str(value["colour"] + 2), colour,
        department, f"{mood} {kind}", "A", "Ladieswear",
        "1", "Ladieswear", str(10 + value["mood"]), f"Womens {mood}", "1005",
        group if subject == "clothes" else subject.capitalize(),
        text_with_defect(text.description, plan.texts.get(number)),
    )  # fmt: skip
