"""The same seed is the same world on any machine; what is not asked for is not drawn."""

import hashlib

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.storage.home import SOURCES
from pmm.world import WORLD_VERSION, generate
from pmm.world.formats.raw_files import item_text
from pmm.world.generate import World, draw_items, draw_sequences
from pmm.world.platforms import (
    COLLECTIONS,
    TARGETS,
    Collection,
    find_collection,
    find_target,
)


def digest(world: World, collection: str) -> str:
    items, drawn = world.items(collection), world.sequences(collection)
    arrays = (items.department, items.values, items.weight, drawn.starts, drawn.items, drawn.gaps)
    parts = [np.ascontiguousarray(array, dtype="<i8").tobytes() for array in arrays]
    texts = [item_text(world, collection, number) for number in range(len(items))]
    names = repr((world.item_ids(collection), world.user_ids(collection), texts))
    return hashlib.sha256(b"".join([*parts, names.encode()])).hexdigest()[:16]


def test_version_1_of_the_world_is_fixed() -> None:
    assert WORLD_VERSION == 1
    assert digest(generate("demo", seed=0), "HM") == "4189b8504b7cc643"
    assert digest(generate("demo", seed=0), "Kwai Movie") == "41c5b063bc667594"


def test_another_seed_is_another_world(tiny: World) -> None:
    other = generate("tiny", seed=1)
    assert digest(other, "HM") != digest(tiny, "HM")
    assert not set(tiny.item_ids("HM")) & set(other.item_ids("HM"))


def test_strays_replace_their_share_of_the_actions_and_nothing_else() -> None:
    clean = generate("demo", seed=0).sequences("HM")
    items = generate("demo", seed=0).items("HM")
    for percent in (0, 10, 40, 100):
        world = generate("demo", seed=0, strays=percent)
        drawn = world.sequences("HM")
        changed = drawn.items != clean.items
        assert abs(100 * changed.mean() - percent) < 1
        assert (drawn.starts == clean.starts).all()
        assert (drawn.gaps == clean.gaps).all()
        assert (items.department[drawn.items] == items.department[clean.items]).all()
    again = generate("demo", seed=0, strays=100)
    assert (again.sequences("HM").items == drawn.items).all()
    by_item = np.bincount(drawn.items, minlength=len(items))
    assert np.corrcoef(by_item, items.weight)[0, 1] > 0.8


@pytest.mark.parametrize("strays", [0, 50])
@pytest.mark.parametrize("name", [collection.name for collection in COLLECTIONS])
def test_nobody_takes_an_item_twice(name: str, strays: int) -> None:
    drawn = generate("tiny", seed=0, strays=strays).sequences(name)
    for user in np.split(drawn.items, drawn.starts[1:-1]):
        assert len(set(user.tolist())) == len(user) >= 5


def test_collections_share_no_stream_so_no_items() -> None:
    food, movie = find_collection("Bili Food"), find_collection("Bili Movie")
    first, second = draw_items(food, "demo", 0), draw_items(movie, "demo", 0)
    assert (first.values != second.values).any()


def test_a_collection_drawn_alone_equals_one_drawn_after_others() -> None:
    collection = find_collection("Kwai Food")
    alone = draw_sequences(collection, draw_items(collection, "tiny", 0), "tiny", 0)
    world = generate("tiny", 0)
    digest(world, "HM")
    assert (world.sequences("Kwai Food").items == alone.items).all()


def test_the_world_has_four_sources_and_ten_targets() -> None:
    names = [target.name for target in TARGETS]
    assert tuple(names[:4]) == SOURCES
    assert len(set(names)) == 14
    assert find_target("hm shoes").name == "HM Shoes"


@pytest.mark.parametrize("strays", [-1, 101])
def test_strays_are_a_per_cent(strays: int) -> None:
    with pytest.raises(InputError, match="0 to 100"):
        generate("tiny", strays=strays)


def test_a_wrong_target_or_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match='"Kwai Movie"'):
        find_target("Kwai Movies")
    with pytest.raises(InputError, match='"demo"'):
        generate("demos")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 or more"):
        generate("tiny", seed=-1)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda one: one.name)
def test_popular_items_are_taken_more_often_than_cold_ones(
    tiny: World, collection: Collection
) -> None:
    name = collection.name
    counts = np.bincount(tiny.sequences(name).items, minlength=len(tiny.items(name)))
    assert np.corrcoef(counts, tiny.items(name).weight)[0, 1] > 0.4
