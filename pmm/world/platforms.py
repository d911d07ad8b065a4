"""The table of platforms, sources and targets: how many items and users, how long, how long-tailed,
how noisy.

A *collection* is one generated dataset: items in departments, and users. Each of the four sources
is one; the targets of Bili and Kwai are collections of their own (as published: already carved),
the targets of HM and Amazon are departments of their source.
"""

from dataclasses import dataclass
from typing import Literal

from pmm.errors import InputError, nearest

Size = Literal["tiny", "demo", "large"]
Platform = Literal["Bili", "Kwai", "HM", "Amazon"]
Subject = Literal["food", "movie", "cartoon", "music", "clothes", "shoes", "accessories"]


@dataclass(frozen=True, kw_only=True)
class Department:
    """A part of a catalogue in which users move by themselves, without regard to the other parts.

    Attributes:
        items: number of items at size "demo".
        share: how many of the users have it as their favourite, relative to the other departments.
    """

    subject: Subject
    items: int
    share: int = 1


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One generated dataset.

    Attributes:
        users: number of users at size "demo".
        shortest, mean_length: of the raw sequences; lengths are `shortest` plus a geometric excess.
        loyalty: percent of a user's actions that are certain to fall in the favourite department;
            the others fall in departments by their share.
        noise: percent of the steps that ignore the history and go by popularity alone.
        tail: the larger, the more of the items are cold: popularity goes as (1 - rank / items) **
        tail.
    """

    name: str
    platform: Platform
    departments: tuple[Department, ...]
    users: int
    shortest: int = 5
    mean_length: float
    loyalty: int = 0
    noise: int = 10
    tail: int = 2


COLLECTIONS: tuple[Collection, ...] = (
    Collection(
        name="Bili",
        platform="Bili",
        users=2000,
        shortest=8,
        mean_length=15.5,
        loyalty=40,
        noise=6,
        departments=(
            Department(subject="food", items=300, share=3),
            Department(subject="movie", items=300, share=3),
            Department(subject="cartoon", items=300, share=3),
            Department(subject="music", items=100),
        ),
    ),
    Collection(
        name="Kwai",
        platform="Kwai",
        users=3500,
        mean_length=7.6,
        loyalty=80,
        noise=15,
        departments=(
            Department(subject="food", items=240),
            Department(subject="movie", items=240),
            Department(subject="cartoon", items=240),
        ),
    ),
    Collection(
        name="HM",
        platform="HM",
        users=2400,
        shortest=11,
        mean_length=15.8,
        loyalty=5,
        noise=8,
        departments=(
            Department(subject="clothes", items=370, share=11),
            Department(subject="shoes", items=480, share=15),
            Department(subject="accessories", items=190, share=10),
        ),
    ),
    Collection(
        name="Amazon",
        platform="Amazon",
        users=2200,
        mean_length=7.5,
        loyalty=45,
        noise=4,
        tail=1,
        departments=(
            Department(subject="clothes", items=520, share=3),
            Department(subject="shoes", items=520, share=3),
            Department(subject="accessories", items=220),
        ),
    ),
    Collection(
        name="Bili Food",
        platform="Bili",
        users=1900,
        mean_length=6.04,
        departments=(Department(subject="food", items=450),),
    ),
    Collection(
        name="Bili Movie",
        platform="Bili",
        users=2150,
        mean_length=6.94,
        departments=(Department(subject="movie", items=450),),
    ),
    Collection(
        name="Bili Cartoon",
        platform="Bili",
        users=4400,
        mean_length=7.03,
        departments=(Department(subject="cartoon", items=700),),
    ),
    Collection(
        name="Kwai Food",
        platform="Kwai",
        users=2850,
        mean_length=8.5,
        departments=(Department(subject="food", items=700),),
    ),
    Collection(
        name="Kwai Movie",
        platform="Kwai",
        users=850,
        mean_length=7.3,
        tail=1,
        departments=(Department(subject="movie", items=700),),
    ),
    Collection(
        name="Kwai Cartoon",
        platform="Kwai",
        users=1080,
        mean_length=7.56,
        departments=(Department(subject="cartoon", items=450),),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A named dataset: a whole collection, or one department of it.

    Attributes:
        subject: the department that it is carved to; None for the whole collection.
        paper_length, paper_density: average length and actions an item of the paper's Table II.
    """

    name: str
    collection: str
    subject: Subject | None = None
    paper_length: float
    paper_density: float

    @property
    def department(self) -> int | None:
        """The number of the department in its collection; None for the whole collection."""
        if self.subject is None:
            return None
        parts = find_collection(self.collection).departments
        return [part.subject for part in parts].index(self.subject)


TARGETS: tuple[Target, ...] = (
    Target(name="Bili", collection="Bili", paper_length=15.38, paper_density=34.3),
    Target(name="Kwai", collection="Kwai", paper_length=7.56, paper_density=38.4),
    Target(name="HM", collection="HM", paper_length=15.80, paper_density=37.2),
    Target(name="Amazon", collection="Amazon", paper_length=7.42, paper_density=11.7),
    Target(name="Bili Food", collection="Bili Food", paper_length=6.04, paper_density=24.9),
    Target(name="Bili Movie", collection="Bili Movie", paper_length=6.94, paper_density=32.7),
    Target(name="Bili Cartoon", collection="Bili Cartoon", paper_length=7.03, paper_density=45.0),
    Target(name="Kwai Food", collection="Kwai Food", paper_length=8.51, paper_density=34.7),
    Target(name="Kwai Movie", collection="Kwai Movie", paper_length=7.10, paper_density=8.6),
    Target(name="Kwai Cartoon", collection="Kwai Cartoon", paper_length=7.56, paper_density=18.1),
    Target(
        name="HM Clothes", collection="HM", subject="clothes", paper_length=6.65, paper_density=67.6
    ),
    Target(
        name="HM Shoes", collection="HM", subject="shoes", paper_length=7.60, paper_density=44.0
    ),
    Target(
        name="Amazon Clothes",
        collection="Amazon",
        subject="clothes",
        paper_length=6.06,
        paper_density=5.2,
    ),
    Target(
        name="Amazon Shoes",
        collection="Amazon",
        subject="shoes",
        paper_length=6.16,
        paper_density=5.6,
    ),
)


def find_target(name: str) -> Target:
    """The target of this name, case ignored.

    Raises:
        InputError: no such target; the message has the nearest one.
    """
    for target in TARGETS:
        if target.name.casefold() == name.casefold():
            return target
    hint = nearest(name, [target.name for target in TARGETS])
    raise InputError(f'the embedded world has no target "{name}" ({hint})')


def find_collection(name: str) -> Collection:
    """The collection of exactly this name (a name that the tables above use)."""
    return next(collection for collection in COLLECTIONS if collection.name == name)
