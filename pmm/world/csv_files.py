"""Writes any target as plain CSV: interactions.csv, items.csv, images/<item_id>.jpg."""

from collections.abc import Iterator
from pathlib import Path

from pmm.artefact import storage_errors
from pmm.world.actions import Actions, actions_of
from pmm.world.defects import Defects, Plan, plan_defects, spoilt_text
from pmm.world.generate import World
from pmm.world.platforms import find_target
from pmm.world.raw_files import defect_stream, item_text, write_pictures, write_rows

_START = 1_577_836_800  # 2020-01-01 00:00 UTC
_UNIT = 4 * 3600


def write_csv(
    world: World, target_name: str, folder: Path, defects: Defects | None = None
) -> dict[str, int]:
    """Write a source or a target; the same world gives the same bytes, also over an existing
    folder.

    Interactions stand in order of time; among rows with the same time of one user the file order is
    the true order. Timestamps are UTC seconds.

    Args:
        defects: what to plant; a small share of everything by default. `stripped_ids` does not
        apply.

    Returns:
        rows, users, items, pictures, tied rows, and the planted defects by kind.

    Raises:
        InputError: no such target.
        StorageError: the folder cannot be written.
    """
    target = find_target(target_name)
    actions = actions_of(world, target.name)
    numbers = world.target_items(target.name).tolist()
    rng = defect_stream(world, target.name)
    plan = plan_defects(defects or Defects(), numbers, len(actions.user), rng)
    raw = world.item_ids(target.collection)
    with storage_errors(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        paths = {number: folder / "images" / f"{raw[number]}.jpg" for number in numbers}
        pictures = write_pictures(world, target.collection, paths, plan)
        write_rows(folder / "items.csv", _item_rows(world, target.collection, numbers, plan))
        rows = _interaction_rows(world, target.collection, actions, plan)
        write_rows(folder / "interactions.csv", rows)
    return {
        "rows": len(actions.user) + len(plan.repeated),
        "users": len(set(actions.user.tolist())),
        "items": len(numbers),
        "pictures": pictures,
        "tied_rows": actions.tied,
        **plan.counts(),
    }


def _item_rows(
    world: World, collection: str, numbers: list[int], plan: Plan
) -> Iterator[tuple[str, ...]]:
    raw = world.item_ids(collection)
    yield "item_id", "title", "description"
    for number in numbers:
        text = item_text(world, collection, number)
        yield raw[number], text.title, spoilt_text(text.description, plan.texts.get(number))


def _interaction_rows(
    world: World, collection: str, actions: Actions, plan: Plan
) -> Iterator[tuple[str, ...]]:
    items, users = world.item_ids(collection), world.user_ids(collection)
    yield "user_id", "item_id", "timestamp"
    columns = (actions.user.tolist(), actions.item.tolist(), actions.time.tolist())
    for place, (user, item, time) in enumerate(zip(*columns, strict=True)):
        row = users[user], items[item], str(_START + time * _UNIT)
        yield row
        if place in plan.repeated:
            yield row
