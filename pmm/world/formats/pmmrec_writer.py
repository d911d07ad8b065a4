"""Writes the video platforms in the layout of the paper's published code.

One folder a dataset, named as `bili_food`: `bilibili_food_users.tsv` (user, tab, items in order
with single spaces), `bilibili_food_items_texts.tsv` (item, tab, title), and the pictures as files
below `bilibili_food_items_images/` or as one LMDB `bilibili_food_items_images.lmdb`. Only bili_food
is published; the other names go by analogy. There are no times.
"""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import lmdb
import numpy as np
from PIL import Image

from pmm.storage.artefact import atomic_file, storage_errors
from pmm.world.formats.defects import DefectPlan, Defects, picture_bytes, title_with_defect
from pmm.world.formats.ninerec_writer import DATASETS, VideoPlatform
from pmm.world.formats.raw_files import (
    RawDataset,
    item_picture,
    item_text,
    plan_dataset,
    write_lines,
    write_pictures,
)
from pmm.world.generate import World
from pmm.world.lmdb_image import LMDB_Image

_COMPANIES: dict[VideoPlatform, str] = {"Bili": "bilibili", "Kwai": "kuaishou"}
_PICTURE_ROOM = 1 << 20  # bytes of the LMDB's address space a picture; none is that large
_PICKLE_PROTOCOL = 4


def write_pmmrec(
    world: World,
    platform: VideoPlatform,
    folder: Path,
    defects: Defects | None = None,
    *,
    pictures: Literal["folder", "lmdb"] = "folder",
) -> dict[str, dict[str, int]]:
    """Write a video platform's source and targets; the same world gives the same bytes, also over
    an existing folder.

    Args:
        defects: what to plant; a small share of everything by default. The defects of texts go into
            titles. A store of decoded pictures has no odd pictures: they are in it as RGB; a
            broken one is half a pickle or none.
        pictures: where the pictures are.

    Returns:
        for each dataset its rows, users, items, pictures, tied rows (none: there are no times), and
        the planted defects by kind.

    Raises:
        StorageError: the folder cannot be written.
    """
    counts = {}
    for name in DATASETS[platform]:
        dataset = plan_dataset(world, name, defects, order="user")
        place = folder / name.lower().replace(" ", "_")
        stem = place.name.replace(platform.lower(), _COMPANIES[platform], 1)
        with storage_errors(folder):
            place.mkdir(parents=True, exist_ok=True)
            write_lines(place / f"{stem}_users.tsv", _users(world, dataset))
            write_lines(place / f"{stem}_items_texts.tsv", _texts(world, dataset))
            match pictures:
                case "folder":
                    wrote = _write_folder(world, dataset, place / f"{stem}_items_images")
                case "lmdb":
                    wrote = _write_store(world, dataset, place / f"{stem}_items_images.lmdb")
        counts[name] = {**dataset.counts(wrote), "tied_rows": 0}
    return counts


def _users(world: World, dataset: RawDataset) -> Iterator[str]:
    items, users = world.item_ids(dataset.collection), world.user_ids(dataset.collection)
    for user, walk in dataset.walks().items():
        yield f"{users[user]}\t{' '.join(items[item] for item in walk)}"


def _texts(world: World, dataset: RawDataset) -> Iterator[str]:
    raw = world.item_ids(dataset.collection)
    for number in dataset.numbers:
        title = item_text(world, dataset.collection, number).title
        yield f"{raw[number]}\t{title_with_defect(title, dataset.plan.texts.get(number), number)}"


def _write_folder(world: World, dataset: RawDataset, folder: Path) -> int:
    raw = world.item_ids(dataset.collection)
    paths = {number: folder / f"{raw[number]}.jpg" for number in dataset.numbers}
    return write_pictures(world, dataset.collection, paths, dataset.plan)


def _write_store(world: World, dataset: RawDataset, path: Path) -> int:
    """Write the pictures as the published script does: one pickle a picture, and two for the keys.

    Returns:
        the number of pictures, broken ones included.
    """
    raw = world.item_ids(dataset.collection)
    keys = []
    room = (len(dataset.numbers) + 16) * _PICTURE_ROOM
    with atomic_file(path) as place:
        place.unlink(missing_ok=True)  # of a writer that was killed
        with (
            # No lock file, which would name the process: no other process knows the temporary name.
            lmdb.open(str(place), subdir=False, lock=False, map_size=room) as store,
            store.begin(write=True) as writing,
        ):
            for number in dataset.numbers:
                value = _pickled(world, dataset.collection, number, dataset.plan)
                if value is not None:
                    keys.append(str(int(raw[number].removeprefix("v"))).encode("ascii"))
                    writing.put(keys[-1], value)
            writing.put(b"__keys__", pickle.dumps(keys, _PICKLE_PROTOCOL))
            writing.put(b"__len__", pickle.dumps(len(keys), _PICKLE_PROTOCOL))
    return len(keys)


def _pickled(world: World, collection: str, number: int, plan: DefectPlan) -> bytes | None:
    """A picture as it stands in the store; None where there is to be none.

    A picture that the plan wants as an odd file has gone through that file.
    """
    defect = plan.pictures.get(number)
    if defect == "text":
        return picture_bytes(item_picture(world, collection, number), defect)
    data = picture_bytes(
        item_picture(world, collection, number), None if defect == "truncated" else defect
    )
    if data is None:
        return None
    with Image.open(io.BytesIO(data)) as file:
        pixels = np.asarray(file.convert("RGB"))
    image = LMDB_Image(pixels, int(world.item_ids(collection)[number].removeprefix("v")))
    value = pickle.dumps(image, _PICKLE_PROTOCOL)
    return value[: len(value) // 2] if defect == "truncated" else value
