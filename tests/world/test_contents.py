"""Titles and pictures show the attributes that they should, and hide the others."""

import itertools
import re

import numpy as np
import pytest

from pmm.storage.home import SOURCES
from pmm.world import World, generate
from pmm.world import drawing as pictures
from pmm.world.attributes import ATTRIBUTES
from pmm.world.formats.raw_files import item_picture, item_text, subject_of
from pmm.world.generate import stream
from pmm.world.words import COLOURS, KINDS, MOODS, ValueWords

PICTURED = [c for c, attribute in enumerate(ATTRIBUTES) if "picture" in attribute.shows]


def values_named(text: str, table: ValueWords) -> set[int]:
    """The values whose words stand in the text, longest first, no letter read twice."""
    words = [(word, value) for value, row in enumerate(table) for word in row]
    found = set()
    for word, value in sorted(words, key=lambda pair: -len(pair[0])):
        text, count = re.subn(f"(?<![a-z]){word}(?![a-z])", "|", text)
        if count:
            found.add(value)
    return found


@pytest.mark.parametrize("platform", SOURCES)
def test_title_and_description_each_name_the_right_value_and_no_other(platform: str) -> None:
    world = generate("tiny", seed=0)
    for number, values in enumerate(world.items(platform).values.tolist()):
        tables = (KINDS[platform][subject_of(world, platform, number)], MOODS[platform])
        text = item_text(world, platform, number)
        for part in (text.title.lower(), text.description.lower()):
            for column, table in enumerate((*tables, COLOURS[platform])):
                assert values_named(part, table) == {values[column]}


@pytest.mark.parametrize(
    ("platform", "times"), [("Bili", 1.6), ("Kwai", 1.6), ("HM", 2.4), ("Amazon", 2.4)]
)
def test_the_seen_attributes_of_pictures_can_be_read_off_coarse_thumbnails(
    platform: str, times: float
) -> None:
    world = generate("demo", seed=0)
    pixels = np.stack([thumbnail(world, platform, number) for number in range(0, 700)])
    values = world.items(platform).values[:700]
    for column in PICTURED:
        truth = values[500:, column]
        read = nearest(pixels[:500], values[:500, column], pixels[500:])
        assert np.mean(read == truth) > times / ATTRIBUTES[column].size


def thumbnail(world: World, platform: str, number: int) -> np.ndarray:
    picture = item_picture(world, platform, number).resize((28, 28))
    return np.asarray(picture, dtype=np.float32).ravel()


def nearest(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The label of the nearest known picture, by squared distance of pixels."""
    far = (known**2).sum(axis=1)[None, :] - 2 * asked @ known.T
    return labels[far.argmin(axis=1)]


def test_a_picture_does_not_depend_on_what_only_titles_show() -> None:
    drawn = []
    for kind, mood in itertools.product(range(4), repeat=2):
        values = np.array([kind, mood, 3, 1, 2], dtype=np.int8)
        drawn.append(pictures.draw("HM", "shoes", values, stream("HM", 0, "x")).tobytes())
    assert len(set(drawn)) == 1
