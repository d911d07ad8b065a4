"""`pmm ingest …`: one command a source; all share the options of how a source becomes targets."""

import functools
import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pmm.storage.home import resolve_home

ingest_app = typer.Typer(
    help="Filter and split a raw dataset.",
    epilog="Example: pmm ingest hm --raw ~/hm",
    no_args_is_help=True,
    rich_markup_mode=None,
)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of all artefacts. [default: $PMM_HOME or ./pmm-data]"),
]
TargetsOption = Annotated[
    list[str] | None, typer.Option("--target", help="One of its datasets; repeatable. [all]")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="First fetch the raw files that have public addresses.")
]
LanguageOption = Annotated[
    Literal["zh", "en"], typer.Option(help="Of the titles, where the files have both.")
]


def _options(
    user_core: Annotated[
        int, typer.Option(help="Least interactions of a user; 0 switches it off.")
    ] = 5,
    item_core: Annotated[
        int, typer.Option(help="Least interactions of an item; 0 switches it off.")
    ] = 5,
    repeats: Annotated[
        Literal["keep", "first"], typer.Option(help="Same user and item again: all or the first.")
    ] = "keep",
    users: Annotated[
        int | None, typer.Option(help="Sample this many users after the core.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample of users.")] = 0,
    split: Annotated[
        Literal["leave-one-out", "temporal"],
        typer.Option(help="Each user's last two items, or two points in time for all."),
    ] = "leave-one-out",
    missing_image: Annotated[
        Literal["drop", "text-only"],
        typer.Option(help="Items without a picture: drop before the core, or keep."),
    ] = "drop",
    cold_below: Annotated[
        int, typer.Option(help="Items with fewer training occurrences are cold.")
    ] = 10,
) -> dict[str, Any]:
    """The options of `pmm.ingest.targets.target_tables.IngestOptions`, as every source's command
    takes them."""
    return dict(locals())


def _takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last parameter `options` is filled from the shared options of `_options`."""
    shared = inspect.signature(_options).parameters
    own = inspect.signature(command)
    parameters = [each for each in own.parameters.values() if each.name != "options"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        from pmm.ingest.targets.target_tables import IngestOptions

        chosen = IngestOptions(**{name: given.pop(name) for name in shared})
        command(**given, options=chosen)

    together = [*parameters, *shared.values()]
    run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in together}
    return run


@ingest_app.command(
    "amazon",
    epilog="Example: pmm ingest amazon --raw ~/amazon --category AMAZON_FASHION --images download",
)
@_takes_options
def ingest_amazon_command(
    options: Any,
    raw: Annotated[
        Path | None, typer.Option(help="Folder of reviews and metadata. [HOME/raw/amazon]")
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="As in the files' names, e.g. All_Beauty; repeatable. [all there]"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="A folder of <asin>.jpg; or the word download: fetch what is needed."),
    ] = None,
    connections: Annotated[
        int, typer.Option(help="With --images download: connections to a host at most.")
    ] = 8,
    target: TargetsOption = None,
    download: DownloadOption = False,
    edition: Annotated[
        Literal["2018", "2023"], typer.Option(help="With --download: which release.")
    ] = "2018",
    home: HomeOption = None,
) -> None:
    """Amazon reviews of 2018 or 2023: reviews or ratings, and metadata."""
    from pmm.ingest.download.picture_download import DownloadOptions
    from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon

    place = resolve_home(home)
    if download:
        _download("amazon", raw or place.raw("amazon"), category or [], edition)
    pictures: Path | Literal["download"] | None = None
    if images is not None:
        pictures = "download" if images == "download" else Path(images)
    files = AmazonFiles(
        raw=raw,
        categories=tuple(category or ()),
        images=pictures,
        download=DownloadOptions(connections_per_host=connections),
    )
    _print_cards(ingest_amazon(place, files, target or [], options), home)


@ingest_app.command("hm", epilog='Example: pmm ingest hm --raw ~/hm --target "HM Shoes"')
@_takes_options
def ingest_hm_command(
    options: Any,
    raw: Annotated[Path | None, typer.Option(help="The competition's files. [HOME/raw/hm]")] = None,
    target: TargetsOption = None,
    download: DownloadOption = False,
    home: HomeOption = None,
) -> None:
    """H&M's Kaggle files: transactions_train.csv, articles.csv, images/."""
    from pmm.ingest.sources.hm import ingest_hm

    place = resolve_home(home)
    if download:
        _download("hm", raw or place.raw("hm"))
    _print_cards(ingest_hm(place, raw, target or [], options), home)


@ingest_app.command("bili", epilog='Example: pmm ingest bili --raw ~/NineRec --target "Bili Food"')
@_takes_options
def ingest_bili_command(
    options: Any,
    raw: Annotated[
        Path | None, typer.Option(help="Folder with NineRec's or PMMRec's. [HOME/raw/bili]")
    ] = None,
    language: LanguageOption = "zh",
    target: TargetsOption = None,
    download: DownloadOption = False,
    home: HomeOption = None,
) -> None:
    """Bilibili, as in NineRec or in the paper's own code."""
    from pmm.ingest.sources.video.bili import ingest_bili
    from pmm.ingest.sources.video.datasets import VideoFiles

    place = resolve_home(home)
    if download:
        _download("bili", raw or place.raw("bili"))
    files = VideoFiles(raw=raw, language=language)
    _print_cards(ingest_bili(place, files, target or [], options), home)


@ingest_app.command(
    "kwai", epilog='Example: pmm ingest kwai --raw ~/MicroLens --target "Kwai Movie"'
)
@_takes_options
def ingest_kwai_command(
    options: Any,
    raw: Annotated[
        Path | None,
        typer.Option(help="Folder with NineRec's, PMMRec's or MicroLens' files. [HOME/raw/kwai]"),
    ] = None,
    language: LanguageOption = "zh",
    item_categories: Annotated[
        Path | None, typer.Option(help="A table item,category that says what is food, movie …")
    ] = None,
    hashtags: Annotated[
        Path | None, typer.Option(help="A TOML of hashtags a target, over those of docs/paper.md.")
    ] = None,
    target: TargetsOption = None,
    download: DownloadOption = False,
    home: HomeOption = None,
) -> None:
    """Kuaishou, as in NineRec, MicroLens or the paper's own code."""
    from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai

    place = resolve_home(home)
    if download:
        _download("kwai", raw or place.raw("kwai"))
    files = KwaiFiles(
        raw=raw, language=language, item_categories=item_categories, hashtags=hashtags
    )
    _print_cards(ingest_kwai(place, files, target or [], options), home)


@ingest_app.command(
    "csv",
    epilog="Example: pmm ingest csv --name shop --interactions ratings.csv --items items.csv",
)
@_takes_options
def ingest_csv_command(
    options: Any,
    name: Annotated[str, typer.Option(help="The name of the new dataset.")],
    interactions: Annotated[
        Path | None, typer.Option(help="One row an interaction: user, item, time.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="One row an item: id, title, description, image.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures, found by path or by item id.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of a file without header, as user,item,rating,timestamp."),
    ] = None,
    preset: Annotated[
        Literal["pixelrec", "movielens", "recbole"] | None,
        typer.Option(help="Find the files of a known dataset in the folder --raw."),
    ] = None,
    raw: Annotated[
        Path | None, typer.Option(help="With --preset: the folder. [HOME/raw/PRESET]")
    ] = None,
    download: Annotated[
        list[str] | None,
        typer.Option(help="With --preset: first fetch this release, e.g. ml-1m."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Any user-item-time table.

    Delimited by `,` `;` tab `::` or `|`, with or without header, gz or plain.
    """
    from pmm.errors import InputError
    from pmm.ingest.sources.csv import CsvFiles, ingest_csv

    place = resolve_home(home)
    if preset is not None:
        from pmm.ingest.sources.csv_presets import preset_files

        if interactions or items or columns:
            raise InputError("--preset finds --interactions, --items and --columns itself")
        folder = raw or place.raw(preset)
        if download:
            _download(preset, folder, download)
        files = preset_files(preset, folder, images)
    elif raw or download:
        raise InputError("--raw and --download go with --preset; give --interactions and --items")
    elif interactions is None or items is None:
        raise InputError(
            "give --interactions FILE and --items FILE, or --preset pixelrec, movielens or recbole"
        )
    else:
        files = CsvFiles(interactions=interactions, items=items, images=images, columns=columns)
    _print_cards(ingest_csv(place, name, files, options), home)


def _download(
    source: str,
    folder: Path,
    names: Sequence[str] = (),
    edition: Literal["2018", "2023"] = "2018",
) -> None:
    from pmm.ingest.download.raw_download import download_raw

    for each in download_raw(source, folder, names=names, edition=edition):
        print(f"{each.name}: {each.state}, {each.bytes:,} bytes")


def _print_cards(cards: list[dict[str, Any]], home: Path | None) -> None:
    from pmm.inspect import summarise_cards

    print(summarise_cards(cards))
    print(f"Artefacts are below {resolve_home(home).root}.")
    made = [card["target"] for card in cards if "left_out" not in card]
    if made:
        print(f'Next: pmm shard --target "{made[0]}"{at_home(home)}')


def at_home(home: Path | None) -> str:
    """The option that names the same home, for a command to run next."""
    return "" if home is None else f" --home {shlex.quote(str(home))}"
