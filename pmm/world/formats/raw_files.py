"""What the writers of all formats share: a dataset with its defects, texts, pictures, and files."""

import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pmm.arrays import Int64s
from pmm.progress import progress
from pmm.storage.artefact import atomic_file
from pmm.world import drawing as pictures
from pmm.world import item_texts as titles
from pmm.world.formats.actions import PERIOD, Actions, actions_of
from pmm.world.formats.defects import DefectPlan, Defects, picture_bytes, plan_defects
from pmm.world.generate import World, stream
from pmm.world.platforms import Subject, find_collection, find_target

RowOrder = Literal["time", "scattered", "user"]


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A source or target about to be written.

    Attributes:
        name: of the source or target; its collection has the catalogue.
        numbers: its items, in the order of the collection's catalogue.
        actions: in the order of the file.
        plan: the defects; rows are counted in that order too.
    """

    name: str
    collection: str
    numbers: list[int]
    actions: Actions
    plan: DefectPlan

    def rows(self) -> list[tuple[int, int, int]]:
        """(user, item, time) of each action as numbers; planted repeats stand below their first."""
        columns = (self.actions.user, self.actions.item, self.actions.time)
        rows: list[tuple[int, int, int]] = []
        for place, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            rows += [row] * (2 if place in self.plan.repeated else 1)
        return rows

    def walks(self) -> dict[int, list[int]]:
        """User -> items in the true order, repeats included: what `rows` say, read by time."""
        walks: dict[int, list[int]] = {}
        for user, item, _ in sorted(self.rows(), key=lambda row: row[2]):
            walks.setdefault(user, []).append(item)
        return walks

    def counts(self, pictures: int) -> dict[str, int]:
        """Rows, users, items, pictures, tied rows, and the planted defects by kind."""
        return {
            "rows": len(self.actions.user) + len(self.plan.repeated),
            "users": len(set(self.actions.user.tolist())),
            "items": len(self.numbers),
            "pictures": pictures,
            "tied_rows": self.actions.tied,
            **self.plan.counts(),
        }


def plan_dataset(
    world: World,
    target_name: str,
    defects: Defects | None,
    *,
    order: RowOrder = "time",
    user_order: Int64s | None = None,
) -> RawDataset:
    """Draw a source's or target's actions in the order of a file, and what gets a defect.

    Args:
        defects: what to plant; a small share of everything by default.
        order: of the rows: by time; in no telling order, so that only their times say it; or user
            by user. In each, a user's rows of one time are in their true order.
        user_order: what comes first among the actions of one time; see `actions_of`.

    Raises:
        InputError: no such target.
    """
    target = find_target(target_name)
    actions = actions_of(world, target.name, user_order=user_order)
    match order:
        case "time":
            pass
        case "scattered":
            actions = _scattered(actions, stream(target.name, world.seed, "file order"))
        case "user":
            actions = _at(actions, np.argsort(actions.user, kind="stable"))
    numbers = world.target_items(target.name).tolist()
    rng = stream(target.name, world.seed, "defects")
    plan = plan_defects(defects or Defects(), numbers, len(actions.user), rng)
    return RawDataset(
        name=target.name, collection=target.collection, numbers=numbers, actions=actions, plan=plan
    )


def _scattered(actions: Actions, rng: np.random.Generator) -> Actions:
    """The actions mixed, but those of one user at one time together and in their order."""
    together, group = np.unique(actions.user * PERIOD + actions.time, return_inverse=True)
    return _at(actions, np.argsort(rng.permutation(len(together))[group], kind="stable"))


def _at(actions: Actions, order: Int64s) -> Actions:
    columns = (actions.user[order], actions.item[order], actions.time[order])
    return Actions(user=columns[0], item=columns[1], time=columns[2], tied=actions.tied)


def write_rows(
    path: Path, rows: Iterable[Sequence[object]], *, delimiter: str = ",", line_end: str = "\n"
) -> None:
    """Write a delimited file, quoted where needed; the header is one of the rows."""
    with atomic_file(path) as place, place.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=line_end).writerows(rows)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a plain text file with LF line ends."""
    with atomic_file(path) as place, place.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write gzip-compressed JSON lines; neither name nor time of the file stand in them."""
    with (
        atomic_file(path) as place,
        place.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        for record in records:
            packed.write(json.dumps(record).encode() + b"\n")


def write_pictures(world: World, collection: str, paths: dict[int, Path], plan: DefectPlan) -> int:
    """Draw and write the pictures of items, and remove those that are to be missing.

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
