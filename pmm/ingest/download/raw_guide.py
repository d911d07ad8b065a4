"""Which raw files each source needs, where they come from and where to put them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class NeededFile:
    """One raw file (or folder) of a source."""

    name: str
    """As it is published, with `<Cat>` and the like for what varies."""
    holds: str
    needed: bool = True


@dataclass(frozen=True, kw_only=True)
class PublishedLayout:
    """One form in which a source is published; any one of a source's layouts is enough."""

    name: str
    page: str
    access: str
    """What it takes to get the files."""
    files: tuple[NeededFile, ...]


@dataclass(frozen=True, kw_only=True)
class RawGuide:
    """What a user must fetch for a source, and what to run then."""

    source: str
    title: str
    """As sentences name it."""
    layouts: tuple[PublishedLayout, ...]
    run: Mapping[str, Any]
    """Options of the command that reads the files, beside the folder."""
    download: Mapping[str, Any] | None = None
    """Options with which it fetches them first, where they have public addresses."""

    def command(self, folder: Path, **more: Any) -> str:
        """The command that reads the files in a folder, with further options."""
        name = "csv" if "preset" in self.run else self.source
        return command("ingest", name, **{**self.run, **more, "raw": folder})


_FORM = "download in a browser (a shared drive: no direct addresses)"
_DIRECT = "public addresses, no login"

_PMMREC = PublishedLayout(
    name="the paper's own code (PMMRec)",
    page="https://github.com/ICDE24/PMMRec",
    access="a link in its README; only bili_food is published",
    files=(
        NeededFile(name="<D>_users.tsv", holds="user, tab, items in order of time"),
        NeededFile(name="<D>_items_texts.tsv", holds="item, tab, title"),
        NeededFile(
            name="<D>_items_images.lmdb", holds="the pictures, a file or folder", needed=False
        ),
    ),
)


def _ninerec(which: str, example: str) -> PublishedLayout:
    return PublishedLayout(
        name=f"NineRec ({which})",
        page="https://github.com/westlake-repl/NineRec",
        access=_FORM,
        files=(
            NeededFile(name=f"{example}_pair.csv", holds="item, user, timestamp; no header"),
            NeededFile(name=f"{example}_item.csv", holds="item, Chinese title, English title"),
            NeededFile(name=f"{example}_cover/<item>.jpg", holds="the covers", needed=False),
        ),
    )


_AMAZON = RawGuide(
    source="amazon",
    title="Amazon reviews",
    layouts=(
        PublishedLayout(
            name="the release of 2018",
            page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
            access=_DIRECT,
            files=(
                NeededFile(
                    name="<Cat>.csv, <Cat>.json.gz or <Cat>_5.json.gz",
                    holds="ratings, all reviews, or those of the published 5-core: one of them",
                ),
                NeededFile(
                    name="meta_<Cat>.json.gz", holds="titles, category paths, picture addresses"
                ),
            ),
        ),
        PublishedLayout(
            name="the release of 2023",
            page="https://amazon-reviews-2023.github.io/",
            access=_DIRECT,
            files=(
                NeededFile(name="<Cat>.jsonl.gz or <Cat>.csv", holds="reviews, or ratings"),
                NeededFile(
                    name="meta_<Cat>.jsonl.gz", holds="titles, category paths, picture addresses"
                ),
            ),
        ),
    ),
    run={"images": "download"},
    download={"category": "Clothing_Shoes_and_Jewelry", "download": True},
)

_HM = RawGuide(
    source="hm",
    title="H&M",
    layouts=(
        PublishedLayout(
            name="the Kaggle competition",
            page=(
                "https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations"
            ),
            access="log in to Kaggle and accept its rules there, then download",
            files=(
                NeededFile(name="transactions_train.csv", holds="t_dat, customer_id, article_id …"),
                NeededFile(name="articles.csv", holds="names, groups, descriptions"),
                NeededFile(
                    name="images/<first three digits>/<article_id>.jpg",
                    holds="the pictures",
                    needed=False,
                ),
            ),
        ),
    ),
    run={},
)

_BILI = RawGuide(
    source="bili",
    title="Bilibili",
    layouts=(_ninerec("Bili_500K, Bili_2M, Bili_Food, Bili_Movie, Bili_Cartoon", "<D>"), _PMMREC),
    run={},
)

_KWAI = RawGuide(
    source="kwai",
    title="Kuaishou",
    layouts=(
        PublishedLayout(
            name="MicroLens",
            page="https://recsys.westlake.edu.cn/MicroLens-50k-Dataset/",
            access=_DIRECT,
            files=(
                NeededFile(name="<M>_pairs.csv", holds="user, item, timestamp"),
                NeededFile(name="<M>_titles.csv", holds="item, title"),
                NeededFile(name="<M>_covers/<item>.jpg", holds="the covers", needed=False),
            ),
        ),
        _ninerec("KU", "KU"),
        _PMMREC,
    ),
    run={},
    download={"download": True},
)

_PIXELREC = RawGuide(
    source="pixelrec",
    title="PixelRec",
    layouts=(
        PublishedLayout(
            name="PixelRec50K, Pixel200K, Pixel1M, Pixel8M or PixelRec",
            page="https://github.com/westlake-repl/PixelRec",
            access=_FORM,
            files=(
                NeededFile(
                    name="Pixel200K.csv (or another size)", holds="item_id, user_id, timestamp"
                ),
                NeededFile(
                    name="the item information, a .csv", holds="item_id, title, tag, description …"
                ),
                NeededFile(name="cover/<item_id>.jpg", holds="the covers", needed=False),
            ),
        ),
    ),
    run={"preset": "pixelrec", "name": "PixelRec"},
)

_MOVIELENS = RawGuide(
    source="movielens",
    title="MovieLens",
    layouts=(
        PublishedLayout(
            name="latest, latest-small, 20M, 25M, 32M",
            page="https://grouplens.org/datasets/movielens/",
            access=_DIRECT,
            files=(
                NeededFile(name="ratings.csv", holds="userId, movieId, rating, timestamp"),
                NeededFile(name="movies.csv", holds="movieId, title, genres"),
            ),
        ),
        PublishedLayout(
            name="1M, 10M",
            page="https://grouplens.org/datasets/movielens/1m/",
            access=_DIRECT,
            files=(
                NeededFile(name="ratings.dat", holds="user::item::rating::timestamp"),
                NeededFile(name="movies.dat", holds="item::title::genres"),
            ),
        ),
        PublishedLayout(
            name="100K",
            page="https://grouplens.org/datasets/movielens/100k/",
            access=_DIRECT,
            files=(
                NeededFile(name="u.data", holds="user, item, rating, timestamp"),
                NeededFile(name="u.item", holds="item, title, genres"),
            ),
        ),
    ),
    run={"preset": "movielens", "name": "MovieLens", "missing_image": "text-only"},
    download={"download": "ml-1m"},
)

_RECBOLE = RawGuide(
    source="recbole",
    title="RecBole",
    layouts=(
        PublishedLayout(
            name="atomic files",
            page="https://github.com/RUCAIBox/RecSysDatasets",
            access=_FORM + ", or write them with RecBole",
            files=(
                NeededFile(
                    name="<D>.inter", holds="user_id:token, item_id:token, timestamp:float …"
                ),
                NeededFile(name="<D>.item", holds="item_id:token and a column of titles"),
            ),
        ),
    ),
    run={"preset": "recbole", "name": "NAME"},
)

GUIDES: dict[str, RawGuide] = {
    guide.source: guide for guide in (_AMAZON, _BILI, _KWAI, _HM, _PIXELREC, _MOVIELENS, _RECBOLE)
}
"""Source as it is typed ("amazon", "bili" …) -> its guide."""


_SHOWN = 10
"""Names of files that are there that an error names at most."""


class MissingRaw(InputError):
    """Raw files are not there; the message says which, and what to run once they are."""

    def __init__(
        self,
        source: str,
        folder: Path,
        lack: Sequence[str],
        said: Mapping[str, Any],
        hints: Sequence[str] = (),
    ):
        head = f"the raw files of {source} are not in {folder}"
        if not folder.exists():
            head += ", which does not exist"
        missing = [f"  missing: {each}" for each in lack]
        seen = [f"  there are: {found}"] if (found := _seen(folder)) else []
        lines = [head + ":", *missing, *seen, *hints, describe(source, folder, said)]
        super().__init__("\n".join(lines))
        self._about, self._hints = (source, folder, lack), hints

    def asked_with(self, said: Mapping[str, Any]) -> "MissingRaw":
        """The same where it is known with which options the source was asked for."""
        return MissingRaw(*self._about, said, self._hints)


def missing_raw(
    source: str, folder: Path, lack: Sequence[str] = (), hints: Sequence[str] = ()
) -> MissingRaw:
    """The error for raw files that are not there: each file, where it comes from, where to put it.

    It also names the files that are there.

    Args:
        source: as it is typed: "amazon", "bili", "hm", "kwai" …
        folder: where they were looked for.
        lack: what exactly is missing, where more is known than that nothing is there.
        hints: what else to say of it, a line each.
    """
    return MissingRaw(source, folder, lack, {}, hints)


def _seen(folder: Path) -> str:
    """The names of the first files and folders in a folder; "" where there are none."""
    try:
        names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError:
        return ""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def describe(source: str, folder: Path, said: Mapping[str, Any] | None = None) -> str:
    """What a source needs, where it comes from, where to put it, and what to run then.

    Args:
        source: as it is typed.
        folder: where the files go.
        said: options of the command that asked for them, with its home.

    Raises:
        InputError: an unknown source.
    """
    if source not in GUIDES:
        raise InputError(f'unknown source "{source}": {nearest(source, GUIDES)}')
    guide = GUIDES[source]
    several = len(guide.layouts) > 1
    lines = [f"Needed are the files of {'one of these' if several else guide.layouts[0].name}:"]
    for layout in guide.layouts:
        if several:
            lines.append(f"  {layout.name}")
        for each in layout.files:
            lines.append(f"    {each.name}: {each.holds}{'' if each.needed else ' (optional)'}")
        lines.append(f"    from {layout.page} ({layout.access})")
    lines += [
        f"Put them into {folder}, or name the folder that has them with --raw DIR.",
        f"Then run: {guide.command(folder, **(said or {}))}",
    ]
    if guide.download:
        fetched = guide.command(folder, **{**guide.download, **(said or {})})
        lines.append(f"To have them fetched: {fetched}")
    return "\n".join(lines)
