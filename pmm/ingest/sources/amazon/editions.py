"""Which files of the Amazon releases a folder holds: their edition, categories and kinds.

Editions: 2014 (`reviews_<Cat>.json.gz`, metadata of Python literals), 2018 (`<Cat>.json.gz`,
`<Cat>_5.json.gz`, `<Cat>.csv`, `meta_<Cat>.json.gz`) and 2023 (`<Cat>.jsonl.gz`, `<Cat>.csv` with a
header, `meta_<Cat>.jsonl.gz`). Names tell the category and the kind, contents the edition.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmm.errors import InputError, nearest
from pmm.ingest.download.raw_guide import missing_raw
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import sniff
from pmm.ingest.readers.json_lines import LinesFile, sniff_lines

Edition = Literal["2014", "2018", "2023"]
Kind = Literal["all reviews", "5-core reviews", "ratings", "metadata"]

FULLEST: tuple[Kind, ...] = ("all reviews", "5-core reviews", "ratings")
"""Kinds of interactions; of several the first is read."""

_NAME = re.compile(r"(meta_|reviews_|ratings_)?([^.]+?)(_5)?\.(json|jsonl|csv)(\.gz)?")
_PICTURES = "images"


@dataclass(frozen=True, kw_only=True)
class AmazonFile:
    """A file of a release."""

    path: Path
    name: str
    """Its path below the raw folder."""
    category: str
    kind: Kind
    editions: frozenset[Edition]
    """Those it may be of; ratings without a header and reviews may be of 2014 or 2018."""
    lines: LinesFile | None
    """What it is, unless it holds ratings."""
    generation: str = ""
    """Of metadata: how they name pictures."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """The files of one edition that are read, by category."""

    folder: Path
    edition: Edition
    interactions: tuple[AmazonFile, ...]
    """One a category, in order of their names."""
    metadata: tuple[AmazonFile, ...]
    """One a category, in order of their names."""
    aside: tuple[str, ...]
    """Names of files that are not read, each with the reason."""

    def describe(self) -> dict[str, Any]:
        """What was found, for the card."""
        return {
            "edition": self.edition,
            "interactions": {
                each.name: {"kind": each.kind, **(each.lines.describe() if each.lines else {})}
                for each in self.interactions
            },
            "metadata": {
                each.name: {
                    "generation": each.generation,
                    **(each.lines.describe() if each.lines else {}),
                }
                for each in self.metadata
            },
            "left_aside": list(self.aside),
        }


def find_release(folder: Path, categories: Sequence[str] = ()) -> Release:
    """The files of the asked categories below a folder and its sub-folders (one level).

    Args:
        folder: the raw folder.
        categories: names such as "Gift_Cards", in any case, or of a file, as `Gift_Cards.csv`;
            empty = all that are there.

    Raises:
        InputError: nothing is there, an unknown category, two editions, reviews without metadata,
            or a file that cannot be read.
    """
    if folder.is_file():
        raise InputError(f"--raw {folder} is a file; expected is the folder that holds the files")
    named = list(_named(folder))
    chosen = _chosen(folder, named, categories)
    files: list[AmazonFile] = []
    aside: list[str] = []
    listed = {_fold(match[2]) for _, match in chosen if match[1] == "meta_"}
    for name, match in chosen:
        ratings = match[4] == "csv"
        stray = ratings and match[1] != "ratings_" and _fold(match[2]) not in listed
        file = (
            None
            if stray
            else _ratings(folder, name, match)
            if ratings
            else _lines(folder, name, match)
        )
        if file is None:
            aside.append(f"{name}: neither reviews, ratings nor metadata of Amazon")
        else:
            files.append(file)
    edition = _edition(folder, files)
    return _release(folder, edition, files, aside)


def _fold(category: str) -> str:
    return re.sub(r"[\s_-]+", "_", category.strip()).casefold()


def _named(folder: Path) -> Iterator[tuple[str, re.Match[str]]]:
    """Paths below the folder that are named as the releases name files."""
    names, folders = _entries(folder)
    for below in folders:
        if below != _PICTURES and not below.startswith("."):
            names += [f"{below}/{name}" for name in _entries(folder / below)[0]]
    for name in names:
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if match and (match[1] != "ratings_" or match[4] == "csv"):
            yield name, match


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the plain files and of the folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_file(), entry.is_dir()) for entry in entries)
    except FileNotFoundError:
        raise missing_raw("amazon", folder) from None
    except OSError as error:
        raise InputError(f"--raw {folder} cannot be read ({error.strerror})") from error
    return [name for name, plain, _ in found if plain], [name for name, _, below in found if below]


def _chosen(
    folder: Path, named: list[tuple[str, re.Match[str]]], categories: Sequence[str]
) -> list[tuple[str, re.Match[str]]]:
    known = {_fold(match[2]): match[2] for _, match in named}
    asked = [match[2] if (match := _NAME.fullmatch(each)) else each for each in categories]
    for each in asked:
        if _fold(each) not in known:
            hint = nearest(each, known.values()) if known else "there is none"
            raise InputError(f'no files of the category "{each}" are in {folder}: {hint}')
    wanted = {_fold(each) for each in asked} or set(known)
    return [(name, match) for name, match in named if _fold(match[2]) in wanted]


def _lines(folder: Path, name: str, match: re.Match[str]) -> AmazonFile | None:
    """A file of reviews or metadata; None if its first lines are neither."""
    path = folder / name
    lines = sniff_lines(path)
    keys = {key for row in lines.head for key in row}
    editions: frozenset[Edition]
    generation = ""
    if match[1] == "meta_":
        kind: Kind = "metadata"
        edition, generation = _metadata_kind(lines, keys)
        editions = frozenset({edition} if generation else ())
    else:
        kind = "5-core reviews" if match[3] else "all reviews"
        if "reviewerID" in keys and "asin" in keys:
            editions = frozenset({"2014", "2018"})
        else:
            editions = frozenset({"2023"} if {"user_id", "parent_asin"} <= keys else ())
    if not editions:
        return None
    return AmazonFile(
        path=path,
        name=name,
        category=match[2],
        kind=kind,
        editions=editions,
        lines=lines,
        generation=generation,
    )


def _metadata_kind(lines: LinesFile, keys: set[str]) -> tuple[Edition, str]:
    """The edition of metadata, and how they name pictures; "" if they are no metadata."""
    if "parent_asin" in keys:
        return "2023", "images by variant"
    if "asin" not in keys:
        return "2018", ""
    nested = any(
        isinstance(path, list) for row in lines.head for path in _list(row.get("categories"))
    )
    if lines.literal or "imUrl" in keys or nested:
        return "2014", "imUrl"
    if keys & {"imageURL", "imageURLHighRes"}:
        return "2018", "imageURL and imageURLHighRes (since May 2021)"
    return "2018", "image: thumbnails (before May 2021)"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _ratings(folder: Path, name: str, match: re.Match[str]) -> AmazonFile:
    _, head = sniff(folder / name)
    titled = {"user", "item"} <= find_roles(head[0], ["user", "item"]).keys()
    return AmazonFile(
        path=folder / name,
        name=name,
        category=match[2],
        kind="ratings",
        editions=frozenset({"2023"} if titled else {"2014", "2018"}),
        lines=None,
    )


def _edition(folder: Path, files: Sequence[AmazonFile]) -> Edition:
    """The one edition that all files may be of.

    Raises:
        InputError: there is none, or nothing to tell it by.
    """
    if not any(each.kind != "metadata" for each in files):
        raise missing_raw(
            "amazon", folder, [] if not files else ["reviews or ratings: <Cat>.json.gz"]
        )
    common: frozenset[Edition] = frozenset({"2014", "2018", "2023"})
    for each in files:
        if not common & each.editions:
            other = next(one for one in files if not one.editions & each.editions)
            raise InputError(
                f"{folder} holds files of two editions of Amazon's reviews: {other.name} is of "
                f"{_either(other)}, {each.name} of {_either(each)}. Keep each edition in a folder "
                "of its own, or choose categories of one edition with --category"
            )
        common &= each.editions
    return "2018" if "2018" in common else min(common)


def _either(file: AmazonFile) -> str:
    return " or ".join(sorted(file.editions))


def _release(
    folder: Path, edition: Edition, files: Sequence[AmazonFile], aside: list[str]
) -> Release:
    """One file of interactions and one of metadata for each category that has interactions."""
    interactions: dict[str, AmazonFile] = {}
    metadata: dict[str, AmazonFile] = {}
    for each in sorted(files, key=_rank):
        chosen = metadata if each.kind == "metadata" else interactions
        first = chosen.setdefault(_fold(each.category), each)
        if first is not each:
            aside.append(f"{each.name}: {first.name} is read instead")
    for category, each in sorted(metadata.items()):
        if category not in interactions:
            aside.append(f"{each.name}: no reviews or ratings of {each.category} are there")
    lack = [
        f"{_metadata_name(edition, each.category)}, the metadata to {each.name}"
        for category, each in sorted(interactions.items())
        if category not in metadata
    ]
    if lack:
        if len(interactions) > len(lack):
            lack[-1] += " (or name the categories that are complete with --category)"
        raise missing_raw("amazon", folder, lack)
    return Release(
        folder=folder,
        edition=edition,
        interactions=tuple(sorted(interactions.values(), key=lambda each: each.name)),
        metadata=tuple(
            sorted((metadata[category] for category in interactions), key=lambda each: each.name)
        ),
        aside=tuple(sorted(aside)),
    )


def _rank(file: AmazonFile) -> tuple[object, ...]:
    """Smaller is better: the fullest kind, the newer metadata, the shallower folder."""
    kind = FULLEST.index(file.kind) if file.kind != "metadata" else 0
    old = file.generation.startswith("image:")
    return kind, old, file.name.count("/"), file.name.endswith(".gz"), file.name


def _metadata_name(edition: Edition, category: str) -> str:
    return f"meta_{category}.{'jsonl' if edition == '2023' else 'json'}.gz"
