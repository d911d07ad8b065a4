"""Which raw files have public addresses, and where: Amazon's releases, MicroLens, MovieLens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pmm.errors import InputError, nearest
from pmm.ingest.download.raw_guide import GUIDES, describe

_UCSD = (
    "https://mcauleylab.ucsd.edu/public_datasets/data",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data",
)
_GROUPLENS = ("https://files.grouplens.org/datasets/movielens",)
_WESTLAKE = ("https://recsys.westlake.edu.cn",)

CATEGORIES_2018 = (
    *("AMAZON_FASHION", "All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Automotive"),
    *("Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry"),
    *("Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food"),
    *("Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store", "Luxury_Beauty"),
    *("Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products"),
    *("Patio_Lawn_and_Garden", "Pet_Supplies", "Prime_Pantry", "Software"),
    *("Sports_and_Outdoors", "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games"),
)
CATEGORIES_2023 = (
    *("All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive"),
    *("Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl"),
    *("Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music"),
    *("Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products"),
    *("Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen"),
    *("Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV"),
    *("Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies"),
    *("Software", "Sports_and_Outdoors", "Subscription_Boxes", "Tools_and_Home_Improvement"),
    *("Toys_and_Games", "Video_Games", "Unknown"),
)
MOVIELENS = (
    *("ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small", "ml-latest"),
)
MICROLENS = ("MicroLens-50k", "MicroLens-100k")

DownloadEdition = Literal["2018", "2023"]


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that can be fetched."""

    name: str
    path: str
    """Below the server's base address."""
    bases: tuple[str, ...]
    """Addresses of servers that have it; the next is asked where one does not."""
    md5: str | None = None
    """The path of a file with its published MD5."""
    unpack: Literal["as it is", "without top folder"] | None = None
    needed: bool = True


def remote_files(
    source: str, folder: Path, names: Sequence[str], edition: DownloadEdition = "2018"
) -> list[RemoteFile]:
    """The files that names stand for.

    Raises:
        InputError: a source that has no public addresses, an unknown name, or none.
    """
    if source == "amazon":
        return _amazon(names, edition)
    if source == "kwai":
        return [each for name in names or MICROLENS[:1] for each in _microlens(name)]
    if source == "movielens":
        return _movielens(names)
    if source in GUIDES:
        raise InputError(
            f"{GUIDES[source].title} cannot be fetched by pmm: it has no public addresses.\n"
            + describe(source, folder)
        )
    raise InputError(f'unknown source "{source}": {nearest(source, GUIDES)}')


def _amazon(names: Sequence[str], edition: DownloadEdition) -> list[RemoteFile]:
    categories = CATEGORIES_2018 if edition == "2018" else CATEGORIES_2023
    if not names:
        raise InputError(
            "say which of Amazon's categories to fetch (all together are some 100 GB), e.g. "
            "--category Clothing_Shoes_and_Jewelry; repeatable. "
            f"Those of {edition}: {', '.join(categories)}. Each brings its metadata and its "
            f"{'ratings' if edition == '2018' else 'reviews'}"
            + ("; for reviews name a file, as All_Beauty_5.json.gz" if edition == "2018" else "")
        )
    known = {each.casefold(): each for each in categories}
    found: dict[str, RemoteFile] = {}
    for name in names:
        for each in _amazon_files(name, known, edition):
            found[each.name] = each
    return list(found.values())


def _amazon_files(name: str, known: dict[str, str], edition: DownloadEdition) -> list[RemoteFile]:
    ending = r"(_5)?\.json\.gz|\.csv" if edition == "2018" else r"\.jsonl\.gz"
    parts = re.fullmatch(rf"(meta_)?([^.]+?)({ending})?", name)
    category = known.get(parts[2].casefold()) if parts else None
    if parts is None or category is None:
        asked = parts[2] if parts else name
        raise InputError(
            f'unknown category "{name}" of Amazon {edition}: {nearest(asked, known.values())}'
        )

    def remote(where: str, file: str) -> RemoteFile:
        release = "amazon_v2" if edition == "2018" else "amazon_2023/raw"
        return RemoteFile(name=file, path=f"{release}/{where}/{file}", bases=_UCSD)

    if edition == "2018":
        metadata = remote("metaFiles2", f"meta_{category}.json.gz")
        chosen = parts[3] or ".csv"
        where = "categoryFiles" if chosen == ".json.gz" else "categoryFilesSmall"
    else:
        metadata = remote("meta_categories", f"meta_{category}.jsonl.gz")
        chosen, where = ".jsonl.gz", "review_categories"
    if parts[1]:
        return [metadata]
    return [remote(where, f"{category}{chosen}"), metadata]


def _microlens(name: str) -> list[RemoteFile]:
    known = {each.casefold(): each for each in MICROLENS}
    release = known.get(name.casefold())
    if release is None:
        raise InputError(f'unknown release "{name}" of MicroLens: {nearest(name, MICROLENS)}')
    titles = "titles.csv" if release == "MicroLens-50k" else "title_en.csv"
    below = f"{release}-Dataset/{release}"
    return [
        RemoteFile(name=f"{release}_pairs.csv", path=f"{below}_pairs.csv", bases=_WESTLAKE),
        RemoteFile(name=f"{release}_{titles}", path=f"{below}_{titles}", bases=_WESTLAKE),
        RemoteFile(
            name=f"{release}_covers.zip",
            path=f"{below}_covers.zip",
            bases=_WESTLAKE,
            unpack="as it is",
            needed=False,
        ),
    ]


def _movielens(names: Sequence[str]) -> list[RemoteFile]:
    if len(names) != 1:
        advice = "a folder takes one of them; fetch the next to another --raw" if names else ""
        raise InputError(
            f"say which release of MovieLens to fetch: {', '.join(MOVIELENS)}"
            + (f" ({advice})" if advice else "")
        )
    release = names[0].lower().removesuffix(".zip")
    if release not in MOVIELENS:
        raise InputError(f'unknown release "{names[0]}": {nearest(names[0], MOVIELENS)}')
    name = f"{release}.zip"
    return [
        RemoteFile(
            name=name,
            path=name,
            md5=f"{name}.md5",
            bases=_GROUPLENS,
            unpack="without top folder",
        )
    ]
