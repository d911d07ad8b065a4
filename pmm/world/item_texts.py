"""Titles and descriptions: they show kind, mood and colour, in the platform's words."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmm.world.attributes import ATTRIBUTES
from pmm.world.platforms import Platform, Subject
from pmm.world.words import BRANDS, COLOURS, FILLERS, KINDS, MOODS, Synonyms

_USUAL = 7  # of ten: how often the first synonym is used
_COLUMN = {attribute.name: column for column, attribute in enumerate(ATTRIBUTES)}


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is written about an item; title and description each show the same attributes."""

    title: str
    description: str


def write(
    platform: Platform, subject: Subject, values: npt.NDArray[np.int8], rng: np.random.Generator
) -> Text:
    """Put an item into words.

    Args:
        values: its attribute values, in the order of ATTRIBUTES.
        rng: the item's own generator.
    """
    title = _title(platform, _words(platform, subject, values, rng), rng)
    description = _description(platform, _words(platform, subject, values, rng), rng)
    return Text(title=title, description=description)


def tag_words(
    platform: Platform, subject: Subject, values: npt.NDArray[np.int8]
) -> tuple[str, str, str]:
    """The usual words for kind, mood and colour, as category columns have them.

    >>> tag_words("HM", "shoes", np.array([1, 2, 5, 0, 0], dtype=np.int8))
    ('boots', 'elegant', 'black')
    """
    kind, mood, colour = _rows(platform, subject, values)
    return kind[0], mood[0], colour[0]


def _rows(
    platform: Platform, subject: Subject, values: npt.NDArray[np.int8]
) -> tuple[Synonyms, Synonyms, Synonyms]:
    return (
        KINDS[platform][subject][values[_COLUMN["kind"]]],
        MOODS[platform][values[_COLUMN["mood"]]],
        COLOURS[platform][values[_COLUMN["colour"]]],
    )


def _words(
    platform: Platform, subject: Subject, values: npt.NDArray[np.int8], rng: np.random.Generator
) -> tuple[str, str, str]:
    kind, mood, colour = (_synonym(row, rng) for row in _rows(platform, subject, values))
    return kind, mood, colour


def _synonym(row: Synonyms, rng: np.random.Generator) -> str:
    if rng.integers(10) < _USUAL:
        return row[0]
    return row[int(rng.integers(1, len(row)))]


def _any(row: Synonyms, rng: np.random.Generator) -> str:
    return row[int(rng.integers(len(row)))]


def _title(platform: Platform, words: tuple[str, str, str], rng: np.random.Generator) -> str:
    kind, mood, colour = words
    brand, filler = _any(BRANDS[platform], rng), _any(FILLERS[platform], rng)
    number = int(rng.integers(2, 99))
    match platform:
        case "Bili":
            forms = (
                f"【{mood}】{colour}{kind}，{filler}",
                f"{brand}的{colour}{kind} {mood} {filler}",
            )
        case "Kwai":
            forms = (
                f"{filler} {mood} {kind} {colour} #{brand}",
                f"{brand}: {colour} {kind} {mood} {filler}",
            )
        case "HM":
            forms = (
                f"{brand} {mood} {colour} {kind}",
                f"{mood.capitalize()} {kind} {brand} {colour}",
            )
        case "Amazon":
            forms = (
                f"{brand} {mood.title()} {kind.title()} {filler} {colour.title()} {number}",
                f"{brand} {filler} {colour.title()} {kind.title()}, {mood.title()} Style",
            )
    return _any(forms, rng)


def _description(platform: Platform, words: tuple[str, str, str], rng: np.random.Generator) -> str:
    kind, mood, colour = words
    filler, more = _any(FILLERS[platform], rng), _any(FILLERS[platform], rng)
    match platform:
        case "Bili":
            forms = (f"{filler}，{mood}的{colour}{kind}", f"{colour}{kind}：{mood}，{more}")
        case "Kwai":
            forms = (f"{mood} {colour} {kind} {filler} {more}", f"{filler} {kind} {colour} {mood}")
        case "HM":
            forms = (
                f"{mood.capitalize()} {colour} {kind} {filler}. Comes {more}.",
                f"{colour.capitalize()} {kind}, {mood}, {filler}.",
            )
        case "Amazon":
            forms = (
                f"{filler}! Our {colour} {kind} have a {mood} look. {more}.",
                f"{mood.capitalize()} {kind} in {colour}; {filler.lower()}, {more.lower()}.",
            )
    return _any(forms, rng)
