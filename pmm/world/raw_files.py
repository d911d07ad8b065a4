"""What the writers of all formats share: texts and pictures of items, and files of rows."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pmm.artefact import atomic_file
from pmm.progress import progress
from pmm.world import pictures, titles
from pmm.world.defects import Plan, picture_bytes
from pmm.world.generate import World, stream
from pmm.world.platforms import Subject, find_collection


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with LF line ends, header included in the rows."""
    with atomic_file(path) as place, place.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_pictures(world: World, collection: str, paths: dict[int, Path], plan: Plan) -> int:
    """Draw and write the pictures of items, and remove those that shall be missing.

    Args:
        paths: where the picture of each item number goes.

    Returns:
        the number of files written, broken ones included.
    """
    written = 0
    for folder in sorted({path.parent for path in paths.values()}):
        folder.mkdir(parents=True, exist_ok=True)
    with progress(len(paths), f"draw {collection}", "pictures") as bar:
        for number, path in paths.items():
            data = picture_bytes(item_picture(world, collection, number), plan.pictures.get(number))
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)
                written += 1
            bar.advance()
    return written


def subject_of(world: World, collection: str, number: int) -> Subject:
    """The department of an item."""
    department = int(world.items(collection).department[number])
    return find_collection(collection).departments[department].subject


def item_picture(world: World, collection: str, number: int) -> Image.Image:
    """The picture of an item."""
    platform, values = find_collection(collection).platform, world.items(collection).values[number]
    rng = stream(collection, world.seed, "pictures", number)
    return pictures.draw(platform, subject_of(world, collection, number), values, rng)


def item_text(world: World, collection: str, number: int) -> titles.Text:
    """Title and description of an item."""
    platform, values = find_collection(collection).platform, world.items(collection).values[number]
    rng = stream(collection, world.seed, "texts", number)
    return titles.write(platform, subject_of(world, collection, number), values, rng)


def defect_stream(world: World, target_name: str) -> np.random.Generator:
    """The generator that chooses the victims of planted defects."""
    return stream(target_name, world.seed, "defects")
