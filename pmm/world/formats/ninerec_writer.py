"""Writes the video platforms in the layout of NineRec.

`Source_datasets/` and `Downstream_datasets/`, one folder a dataset: `<D>_pair.csv` (no header, rows
in no telling order), `<D>_item.csv` (no header: id, Chinese, English), `<D>_cover/<id>.jpg` and
`<D>_url.csv`. Kwai's targets, which NineRec does not have, are named by analogy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pmm.storage.artefact import storage_errors
from pmm.world.attributes import ATTRIBUTES
from pmm.world.formats.defects import Defects, title_with_defect
from pmm.world.formats.raw_files import (
    RawDataset,
    item_text,
    plan_dataset,
    subject_of,
    write_pictures,
    write_rows,
)
from pmm.world.generate import World, stream
from pmm.world.platforms import Subject

VideoPlatform = Literal["Bili", "Kwai"]
DATASETS: dict[VideoPlatform, dict[str, str]] = {
    "Bili": {
        "Bili": "Source_datasets/Bili_500K",
        "Bili Food": "Downstream_datasets/Bili_Food",
        "Bili Movie": "Downstream_datasets/Bili_Movie",
        "Bili Cartoon": "Downstream_datasets/Bili_Cartoon",
    },
    "Kwai": {
        "Kwai": "Downstream_datasets/KU",
        "Kwai Food": "Downstream_datasets/Kwai_Food",
        "Kwai Movie": "Downstream_datasets/Kwai_Movie",
        "Kwai Cartoon": "Downstream_datasets/Kwai_Cartoon",
    },
}
"""Each platform's source and targets -> their folders."""

START = 1_609_459_200  # 2021-01-01 00:00 UTC
UNIT = 5 * 3600

_KINDS: dict[Subject, tuple[str, ...]] = {
    "food": ("ramen", "cake", "barbecue", "hotpot"),
    "movie": ("comedy", "thriller", "romance", "documentary"),
    "cartoon": ("robots", "princesses", "pets", "campus"),
    "music": ("piano", "guitar", "rap", "choir"),
}
_MOODS = ("healing", "thrilling", "refined", "nostalgic")
_COLOURS = ("red", "yellow", "green", "blue", "purple", "black")


def write_ninerec(
    world: World,
    platform: VideoPlatform,
    folder: Path,
    defects: Defects | None = None,
    *,
    item_first: bool = True,
) -> dict[str, dict[str, int]]:
    """Write a video platform's source and targets; the same world gives the same bytes, also over
    an existing folder.

    Times are UTC seconds at Bili and milliseconds at Kwai; among rows with the same time of one
    user the file order is the true order.

    Args:
        defects: what to plant; a small share of everything by default. There are no descriptions:
            the defects of texts go into titles, in both languages.
        item_first: `<D>_pair.csv` is item, user, time, as the published loaders read it; else user,
            item, time, as its page says.

    Returns:
        for each dataset its rows, users, items, pictures, tied rows, and the planted defects by
        kind.

    Raises:
        StorageError: the folder cannot be written.
    """
    counts = {}
    for name, place in DATASETS[platform].items():
        dataset = plan_dataset(world, name, defects, order="scattered")
        below, stem = folder / place, Path(place).name
        raw = world.item_ids(dataset.collection)
        with storage_errors(folder):
            below.mkdir(parents=True, exist_ok=True)
            covers = {n: below / f"{stem}_cover" / f"{raw[n]}.jpg" for n in dataset.numbers}
            pictures = write_pictures(world, dataset.collection, covers, dataset.plan)
            write_rows(below / f"{stem}_item.csv", _items(world, dataset))
            per_second = 1000 if platform == "Kwai" else 1
            pairs = _pairs(world, dataset, per_second)
            if not item_first:
                pairs = ((user, item, time) for item, user, time in pairs)
            write_rows(below / f"{stem}_pair.csv", pairs)
            urls = ((raw[n], f"https://videos.example.com/{raw[n]}") for n in dataset.numbers)
            write_rows(below / f"{stem}_url.csv", urls)
        counts[name] = dataset.counts(pictures)
    return counts


def english_title(world: World, collection: str, number: int) -> str:
    """A video's title in English: it shows the same attributes as the Chinese one.

    >>> from pmm.world import generate
    >>> english_title(generate("tiny", 0), "Bili Food", 0)
    'Black hotpot, thrilling, episode 76'
    """
    row = world.items(collection).values[number].tolist()
    value = {attribute.name: v for attribute, v in zip(ATTRIBUTES, row, strict=True)}
    kind = _KINDS[subject_of(world, collection, number)][value["kind"]]
    episode = int(stream(collection, world.seed, "english", number).integers(1, 100))
    colour, mood = _COLOURS[value["colour"]].capitalize(), _MOODS[value["mood"]]
    return f"{colour} {kind}, {mood}, episode {episode}"


def _items(world: World, dataset: RawDataset) -> Iterator[tuple[str, str, str]]:
    raw = world.item_ids(dataset.collection)
    for number in dataset.numbers:
        defect = dataset.plan.texts.get(number)
        chinese = item_text(world, dataset.collection, number).title
        english = english_title(world, dataset.collection, number)
        yield (
            raw[number],
            title_with_defect(chinese, defect, number),
            title_with_defect(english, defect, number),
        )


def _pairs(world: World, dataset: RawDataset, per_second: int) -> Iterator[tuple[str, str, str]]:
    items, users = world.item_ids(dataset.collection), world.user_ids(dataset.collection)
    for user, item, time in dataset.rows():
        yield items[item], users[user], str((START + time * UNIT) * per_second)
