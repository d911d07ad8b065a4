"""A public corpus of the world: things that no catalogue holds, each told and shown twice.

What a hub's pre-trained encoders have read before anybody ingests a dataset. A thing is a point in
attribute space; two platforms that deal in its subject write about it and photograph it. Nothing is
said of users, of what follows what, or of any item of a generated catalogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pmm.world import drawing as pictures
from pmm.world import item_texts as titles
from pmm.world.attributes import ATTRIBUTES
from pmm.world.generate import stream
from pmm.world.platforms import Platform, Subject
from pmm.world.words import KINDS

_FAMILIES: tuple[tuple[Platform, Platform], ...] = (("Bili", "Kwai"), ("HM", "Amazon"))
"""Platforms that deal in the same subjects."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing of the corpus.

    Attributes:
        values: in the order of ATTRIBUTES; for measuring what an encoder has learned only.
        texts, photographs: of the two platforms.
    """

    subject: Subject
    values: tuple[int, ...]
    texts: tuple[str, str]
    photographs: tuple[Image.Image, Image.Image]


def draw_corpus(count: int, seed: int = 0) -> Iterator[Thing]:
    """Things drawn uniformly over families, subjects and attribute values.

    The first things of a longer corpus are those of a shorter one.
    """
    for number in range(count):
        rng = stream("public corpus", seed, "thing", number)
        family = _FAMILIES[int(rng.integers(len(_FAMILIES)))]
        subjects = sorted(set(KINDS[family[0]]) & set(KINDS[family[1]]))
        subject = subjects[int(rng.integers(len(subjects)))]
        values = np.array([rng.integers(each.size) for each in ATTRIBUTES], dtype=np.int8)
        first, second = (titles.write(platform, subject, values, rng) for platform in family)
        shown = [pictures.draw(platform, subject, values, rng) for platform in family]
        yield Thing(
            subject=subject,
            values=tuple(int(value) for value in values),
            texts=(_one_of(first, rng), _one_of(second, rng)),
            photographs=(shown[0], shown[1]),
        )


def _one_of(text: titles.Text, rng: np.random.Generator) -> str:
    return (text.title, text.description)[int(rng.integers(2))]
