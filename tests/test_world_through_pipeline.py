"""The embedded world in every raw format, from raw bytes to shards, held against what it knows.

Users, items, order, text and picture of every item of every target: nothing is lost, nothing is
invented, every planted defect is counted. What is expected comes from the world's own numbers and
the plan of its defects; no file is read for it.
"""

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.ingest.download.picture_download import DownloadOptions
from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home
from pmm.storage.schemas import SEQUENCES, SHARD_ITEMS, TARGET_ITEMS, read_table
from pmm.world import World, generate
from pmm.world.attributes import ATTRIBUTES
from pmm.world.formats.amazon_writer import (
    WrittenEdition,
    category_path,
    identical_repeats,
    plan_metadata_defects,
    write_amazon,
)
from pmm.world.formats.csv_writer import write_csv
from pmm.world.formats.defects import NO_DEFECTS, Defects, picture_bytes
from pmm.world.formats.ninerec_writer import english_title
from pmm.world.formats.raw_files import (
    RawDataset,
    RowOrder,
    item_picture,
    item_text,
    plan_dataset,
    subject_of,
)
from pmm.world.formats.raw_formats import write_raw
from pmm.world.item_texts import tag_words

SEED = 3
WHOLE = IngestOptions(user_core=0, item_core=0)
DEFECTS = Defects(
    missing_pictures=0.04,
    broken_pictures=0.04,
    odd_pictures=0.06,
    missing_texts=0.04,
    markup=0.06,
    repeated_rows=0.02,
    relisted_items=0.04,
    unlisted_items=0.02,
)
Cards = list[dict[str, Any]]
Counts = dict[str, dict[str, int]]
EDITIONS: tuple[WrittenEdition, ...] = ("2018", "2018-old", "2023")


Writer = Callable[[World, Path, Defects, str], Counts]


@dataclass(frozen=True)
class Part:
    """Where a target comes from: the source or target whose files are read, and what is carved."""

    source: str
    subject: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A raw format on its way through the pipeline.

    Attributes:
        write: the raw files into a folder; addresses of pictures begin with the text.
        ingest: them, for some targets.
        targets: target -> where it comes from.
        text: what an item's text must be.
        order: of the rows in the files.
        plain: whether ids are bare numbers.
        unseen: planted defects of pictures that leave an item without one.
        ground: the grey level over which a transparent picture stands.
        edition: of Amazon's files.
    """

    write: Writer
    ingest: Callable[[Home, Path, Sequence[str], IngestOptions], Cards]
    targets: dict[str, Part]
    text: Callable[[World, RawDataset, int], str]
    order: RowOrder = "scattered"
    plain: bool = False
    unseen: frozenset[str] = frozenset({"missing"})
    ground: int = 255
    edition: WrittenEdition | None = None


def hm_text(world: World, dataset: RawDataset, number: int) -> str:
    """The description, or the name where there is none, then the tags."""
    text, subject = item_text(world, "HM", number), subject_of(world, "HM", number)
    values = world.items("HM").values[number]
    kind, mood, colour = (word.capitalize() for word in tag_words("HM", subject, values))
    garments = ("Upper", "Lower", "Full", "Upper")
    group = subject.capitalize()
    if subject == "clothes":
        group = f"Garment {garments[values[[a.name for a in ATTRIBUTES].index('kind')]]} body"
    described = marked(text.description, dataset.plan.texts.get(number)) or text.title
    stop = "" if described.endswith(".") else "."
    return f"{described}{stop} {kind}, {group}, Other pattern, {colour}, Womens {mood}"


def marked(description: str, defect: str | None) -> str:
    """A description without the markup that was planted around it."""
    return {None: description, "missing": "", "markup": f"{description} & more"}[defect]


def csv_text(world: World, dataset: RawDataset, number: int) -> str:
    text = item_text(world, dataset.collection, number)
    described = marked(text.description, dataset.plan.texts.get(number))
    return f"{text.title}. {described}" if described else text.title


def ingest_own(home: Home, raw: Path, targets: Sequence[str], options: IngestOptions) -> Cards:
    files = CsvFiles(
        interactions=raw / "interactions.csv", items=raw / "items.csv", images=raw / "images"
    )
    return ingest_csv(home, targets[0], files, options)


def ingest_amazon_folder(
    home: Home, raw: Path, targets: Sequence[str], options: IngestOptions
) -> Cards:
    return ingest_amazon(home, AmazonFiles(raw=raw, images=raw / "images"), targets, options)


def ingest_amazon_download(
    home: Home, raw: Path, targets: Sequence[str], options: IngestOptions
) -> Cards:
    download = DownloadOptions(tries=1, allow_private_addresses=True)
    files = AmazonFiles(raw=raw, images="download", download=download)
    return ingest_amazon(home, files, targets, options)


def video_text(world: World, dataset: RawDataset, number: int) -> str:
    title = item_text(world, dataset.collection, number).title
    return titled(title, dataset.plan.texts.get(number), number)


def english_text(world: World, dataset: RawDataset, number: int) -> str:
    title = english_title(world, dataset.collection, number)
    return titled(title, dataset.plan.texts.get(number), number)


def titled(title: str, defect: str | None, number: int) -> str:
    """A title without the markup that was planted in it."""
    markup = f"{title} & more 'new'" if number % 2 else f"{title} & more"
    return {None: title, "missing": "", "markup": markup}[defect]


def amazon_text(edition: WrittenEdition, world: World, dataset: RawDataset, number: int) -> str:
    """Title, description and the path, each once; a full stop between what has none."""
    text, defect = item_text(world, "Amazon", number), dataset.plan.texts.get(number)
    parts = [titled(text.title, defect, number), marked(text.description, defect)]
    parts.append(", ".join(category_path(world, number, edition)))
    left = [part for part in parts if part]
    stops = [part if part.endswith((".", "!")) else f"{part}." for part in left[:-1]]
    return " ".join([*stops, *left[-1:]])


def ingest_video(
    home: Home, raw: Path, targets: Sequence[str], options: IngestOptions, *, language: Any = "zh"
) -> Cards:
    if targets[0].startswith("Bili"):
        return ingest_bili(home, VideoFiles(raw=raw, language=language), targets, options)
    listed = raw / "item_categories.csv"
    files = KwaiFiles(
        raw=raw, language=language, item_categories=listed if listed.exists() else None
    )
    return ingest_kwai(home, files, targets, options)


def raw_writer(platform: str, layout: str) -> Writer:
    return lambda world, to, defects, _: write_raw(world, platform, to, layout, defects)


def amazon_writer(edition: WrittenEdition) -> Writer:
    def write(world: World, to: Path, defects: Defects, base: str) -> Counts:
        counts = write_amazon(world, to, defects, edition=edition, picture_base=base)
        return {"Amazon": counts}

    return write


def own_writer(name: str) -> Writer:
    return lambda world, to, defects, _: {name: write_csv(world, name, to, defects)}


def carved(source: str, **subjects: str) -> dict[str, Part]:
    parts = {f"{source} {part}": Part(source, subject) for part, subject in subjects.items()}
    return {source: Part(source), **parts}


def whole(platform: str) -> dict[str, Part]:
    names = [platform, *(f"{platform} {part}" for part in ("Food", "Movie", "Cartoon"))]
    return {name: Part(name) for name in names}


# A store's pictures are decoded and a download's are looked at: what is broken is none.
BROKEN = frozenset({"missing", "truncated", "text"})

LAYOUTS: dict[str, Layout] = {
    "hm": Layout(
        write=raw_writer("hm", "kaggle"),
        ingest=ingest_hm,
        targets=carved("HM", Clothes="clothes", Shoes="shoes"),
        text=hm_text,
        order="time",
    ),
    **{
        f"csv {name}": Layout(
            write=own_writer(name),
            ingest=ingest_own,
            targets={f"my {name}": Part(name)},
            text=csv_text,
            order="time",
        )
        for name in ("Kwai Movie", "HM Shoes")
    },
    **{
        f"amazon {edition} {way}": Layout(
            write=amazon_writer(edition),
            ingest=ingest_amazon_folder if way == "folder" else ingest_amazon_download,
            targets=carved("Amazon", Clothes="clothes", Shoes="shoes"),
            text=partial(amazon_text, edition),
            unseen=BROKEN if way == "download" else frozenset({"missing"}),
            edition=edition,
        )
        for way in ("folder", "download")
        for edition in EDITIONS
    },
    **{
        f"{platform} {layout}": Layout(
            write=raw_writer(platform.lower(), layout),
            ingest=ingest_video,
            targets=whole(platform),
            text=video_text,
            order="user" if layout.startswith("pmmrec") else "scattered",
            unseen=BROKEN if layout == "pmmrec-lmdb" else frozenset({"missing"}),
            ground=0 if layout == "pmmrec-lmdb" else 255,
        )
        for platform in ("Bili", "Kwai")
        for layout in ("ninerec", "ninerec-user-first", "pmmrec", "pmmrec-lmdb")
    },
    "Bili ninerec in English": Layout(
        write=raw_writer("bili", "ninerec"),
        ingest=partial(ingest_video, language="en"),
        targets=whole("Bili"),
        text=english_text,
    ),
    **{
        f"Kwai {layout}": Layout(
            write=raw_writer("kwai", layout),
            ingest=ingest_video,
            targets=carved("Kwai", Food="food", Movie="movie", Cartoon="cartoon"),
            text=video_text,
            order="user" if layout.endswith("tsv") else "scattered",
            plain=True,
        )
        for layout in ("microlens", "microlens-crlf", "microlens-tsv")
    },
}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A source with its planted defects, as the writer's plans have them.

    Attributes:
        hidden: items whose picture is none.
        unlisted: items without metadata.
        relisted: how many stand twice in the metadata.
        foreign: how many of other categories stand there besides.
        identical: rows that are another one to the byte.
    """

    dataset: RawDataset
    hidden: frozenset[int]
    unlisted: frozenset[int] = frozenset()
    relisted: int = 0
    foreign: int = 0
    identical: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What must come out of a target, by raw ids.

    Attributes:
        walks: user -> items in order, planted repeats included.
        tied: share of the rows whose user has another at the same time; None without times.
        numbers: item -> its number in the collection.
        lost: reason -> rows that must have been dropped for it.
    """

    walks: dict[str, list[str]]
    tied: float | None
    numbers: dict[str, int]
    lost: dict[str, int]
    planted: Planted


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """A layout's targets in a home, with what writer and ingest say of them."""

    id: str
    layout: Layout
    world: World
    home: Home
    counts: dict[str, dict[str, int]]
    cards: dict[str, dict[str, Any]]


def truth_of(made: Ingested, name: str) -> Truth:
    """What the world and the plan of its defects say that the target is, without a core."""
    world, layout, part = made.world, made.layout, made.layout.targets[name]
    planted = planted_in(world, layout, part.source)
    dataset, plan = planted.dataset, planted.dataset.plan
    once = replace(dataset, plan=replace(plan, repeated=plan.repeated - planted.identical))
    lost = Counter({"identical row": len(planted.identical)})
    walks: dict[int, list[tuple[int, int]]] = {}
    for user, item, time in sorted(once.rows(), key=lambda row: row[2]):
        lost["item not in the items file"] += item in planted.unlisted
        lost["item without picture"] += item in planted.hidden
        usable = item not in planted.unlisted | planted.hidden
        if usable and part.subject in (None, subject_of(world, dataset.collection, item)):
            walks.setdefault(user, []).append((time, item))
    raw = [bare(each, layout) for each in world.item_ids(dataset.collection)]
    users = [bare(each, layout) for each in world.user_ids(dataset.collection)]
    # Fewer than three leave nothing to train, validate or test.
    kept = {users[user]: walk for user, walk in walks.items() if len(walk) >= 3}
    times = [Counter(time for time, _ in walk) for walk in kept.values()]
    ties = sum(n for each in times for n in each.values() if n > 1)
    return Truth(
        walks={user: [raw[item] for _, item in walk] for user, walk in kept.items()},
        tied=None if layout.order == "user" else ties / sum(len(walk) for walk in kept.values()),
        numbers={raw[item]: item for walk in kept.values() for _, item in walk},
        lost=dict(lost),
        planted=planted,
    )


def planted_in(world: World, layout: Layout, source: str, defects: Defects = DEFECTS) -> Planted:
    """The defects in a source's files."""
    by_customer = None
    if source == "HM":
        by_customer = np.argsort(np.argsort(np.asarray(world.user_ids("HM"))))
    dataset = plan_dataset(world, source, defects, order=layout.order, user_order=by_customer)
    hidden = frozenset(n for n, kind in dataset.plan.pictures.items() if kind in layout.unseen)
    if layout.edition is None:
        return Planted(dataset=dataset, hidden=hidden)
    listing = plan_metadata_defects(world, dataset, defects)
    return Planted(
        dataset=dataset,
        hidden=hidden,
        unlisted=listing.unlisted,
        relisted=len(listing.relisted),
        foreign=listing.foreign,
        identical=identical_repeats(dataset, layout.edition),
    )


def bare(raw: str, layout: Layout) -> str:
    return raw[1:] if layout.plain else raw


@pytest.fixture(scope="module")
def world() -> World:
    return generate("tiny", SEED)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = SmallSizes(width=32, blocks=1, heads=1)
    text, _ = save_small_encoders(
        tmp_path_factory.mktemp("encoders"), ["red boots 红色"], seed=0, sizes=sizes
    )
    return str(text)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """What addresses of the folder's files begin with, while a local server answers there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def made(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Ingested:
    """A layout written and ingested without a core."""
    layout = LAYOUTS[request.param]
    home = Home(tmp_path_factory.mktemp("home"))
    raw = tmp_path_factory.mktemp("raw")
    with serving(raw / "images") as base:
        counts = layout.write(world, raw, DEFECTS, base)
        cards = layout.ingest(home, raw, list(layout.targets), WHOLE)
    found = {card["target"]: card for card in cards}
    return Ingested(
        id=request.param, layout=layout, world=world, home=home, counts=counts, cards=found
    )


EVERY = pytest.mark.parametrize("made", LAYOUTS, indirect=True)


def ids_of(home: Home, name: str) -> list[str]:
    table = read_table(home.target(name) / "items.parquet", TARGET_ITEMS)
    found: list[str] = table["item_id"].to_pylist()
    return found


@EVERY
def test_every_user_has_the_walk_of_the_world_in_its_order(made: Ingested) -> None:
    assert made.cards.keys() == made.layout.targets.keys()
    for name in made.layout.targets:
        ids = ids_of(made.home, name)
        rows = read_table(made.home.target(name) / "sequences.parquet", SEQUENCES).to_pylist()
        found = {
            row["user_id"]: [ids[k - 1] for k in (*row["train"], row["valid"], row["test"])]
            for row in rows
        }
        assert found == truth_of(made, name).walks
        assert len(found) > 20


@EVERY
def test_every_item_that_is_taken_is_there_and_no_other(made: Ingested) -> None:
    for name in made.layout.targets:
        ids = ids_of(made.home, name)
        assert len(ids) == len(set(ids))
        assert set(ids) == truth_of(made, name).numbers.keys()


@EVERY
def test_every_text_is_what_the_world_wrote_without_the_planted_markup(made: Ingested) -> None:
    for name in made.layout.targets:
        truth = truth_of(made, name)
        table = read_table(made.home.target(name) / "items.parquet", TARGET_ITEMS)
        found = dict(zip(table["item_id"].to_pylist(), table["text"].to_pylist(), strict=True))
        assert found == {
            item: made.layout.text(made.world, truth.planted.dataset, number)
            for item, number in truth.numbers.items()
        }


@EVERY
def test_every_raw_row_is_kept_or_dropped_for_the_planted_reason(made: Ingested) -> None:
    for name, part in made.layout.targets.items():
        rows, truth = made.cards[name]["rows"], truth_of(made, name)
        assert rows["read"] == made.counts[part.source]["rows"]
        assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
        assert rows["kept"] == sum(len(walk) for walk in truth.walks.values())
        for reason, lost in truth.lost.items():
            assert rows["dropped"].get(reason, 0) == lost
        assert made.cards[name]["tied_timestamps"] == pytest.approx(truth.tied, abs=1e-6)


@EVERY
def test_every_planted_defect_is_counted_by_the_writer_and_by_the_source(made: Ingested) -> None:
    for name, part in made.layout.targets.items():
        if part.subject is not None:
            continue  # of the same source
        card = json.loads((made.home.tables(name) / "card.json").read_text(encoding="utf-8"))
        planted, counts = planted_in(made.world, made.layout, part.source), made.counts[part.source]
        plan, listed = planted.dataset.plan, set(planted.dataset.numbers) - planted.unlisted
        assert counts == counts | plan.counts()
        texts = [made.layout.text(made.world, planted.dataset, number) for number in listed]
        drop_counts = dict(card["items"])
        drop_counts.pop("with_picture_urls", None)
        twice = {"repeated item id": planted.relisted} if planted.relisted else {}
        unseen = planted.hidden & listed
        if "download" in made.id:
            unseen |= listed - set(planted.dataset.actions.item.tolist())  # nobody asks for it
        assert drop_counts == {
            "read": len(listed) + planted.relisted + planted.foreign,
            "kept": len(listed) + planted.foreign,
            "dropped": twice,
            "without_image": len(unseen) + planted.foreign,
            "without_text": texts.count(""),
        }
        assert min(counts["missing_pictures"], counts["repeated_rows"], len(twice) or 1) > 0


def shards_of(made: Ingested, name: str, tokenizer: str) -> tuple[Shards, list[dict[str, Any]]]:
    """The shards of a target, and the rows of their tables."""
    write_shards(made.home, name, ShardOptions(text_encoder=tokenizer, workers=1))
    place = made.home.shards(name)
    tables = [read_table(path, SHARD_ITEMS) for path in sorted(place.glob("items-*.parquet"))]
    return Shards(place), [row for table in tables for row in table.to_pylist()]


@EVERY
def test_every_picture_text_and_sequence_in_the_shards_is_that_of_the_world(
    made: Ingested, tokenizer: str
) -> None:
    for name in made.layout.targets:
        truth, (shards, rows) = truth_of(made, name), shards_of(made, name, tokenizer)
        records = [shards.record(item) for item in range(1, shards.n_items + 1)]
        assert {record["item_id"] for record in records} == truth.numbers.keys()
        sequences = shards.sequences()
        found = [
            [records[k - 1]["item_id"] for k in (*train, valid, test)]
            for train, valid, test in zip(
                sequences.train, sequences.valid, sequences.test, strict=True
            )
        ]
        assert sorted(found) == sorted(truth.walks.values())
        for item, (record, row) in enumerate(zip(records, rows, strict=True), start=1):
            number = truth.numbers[record["item_id"]]
            assert record["text"] == made.layout.text(made.world, truth.planted.dataset, number)
            defect = truth.planted.dataset.plan.pictures.get(number)
            broken = defect in ("truncated", "text")
            assert row["status"] == ("text-only" if broken else "ok")
            assert (row["reason"] is not None) is broken
            if not broken:
                true = squashed(made, truth.planted.dataset, number)
                assert np.abs(true - shards.picture(item)).mean() < 4  # JPEG, once more


def squashed(made: Ingested, dataset: RawDataset, number: int) -> np.ndarray:
    """A picture as its planted file holds it, 224 x 224."""
    drawn = item_picture(made.world, dataset.collection, number)
    data = picture_bytes(drawn, dataset.plan.pictures.get(number))
    with Image.open(io.BytesIO(data or b"")) as file:
        layer = file.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (*[made.layout.ground] * 3, 255))
    flat = Image.alpha_composite(ground, layer).convert("RGB")
    return np.asarray(flat.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize(
    "layout",
    [
        *("hm", "csv Kwai Movie", "amazon 2018 folder", "amazon 2023 download"),
        *("Bili ninerec", "Kwai pmmrec", "Kwai microlens"),
    ],
)
def test_the_core_of_a_whole_world_is_that_of_its_definition(
    world: World, tmp_path: Path, layout: str
) -> None:
    chosen = LAYOUTS[layout]
    with serving(tmp_path / "raw" / "images") as base:
        chosen.write(world, tmp_path / "raw", NO_DEFECTS, base)
        home = Home(tmp_path / "home")
        chosen.ingest(home, tmp_path / "raw", list(chosen.targets), IngestOptions())
    for name, part in chosen.targets.items():
        raw = [bare(each, chosen) for each in world.item_ids(part.source)]
        ids = ids_of(home, name)
        rows = read_table(home.target(name) / "sequences.parquet", SEQUENCES).to_pylist()
        found = [[ids[k - 1] for k in (*row["train"], row["valid"], row["test"])] for row in rows]
        kept = [[raw[item] for item in walk] for walk in cored(world, part)]
        assert sorted(found) == sorted(kept)


def cored(world: World, part: Part) -> list[list[int]]:
    """The walks of a source's 5-core, then inside the target those that still have five items."""
    dataset = plan_dataset(world, part.source, NO_DEFECTS)
    walks, before = list(dataset.walks().values()), -1
    while sum(map(len, walks)) != before:
        before = sum(map(len, walks))
        taken = Counter(item for walk in walks for item in walk)
        walks = [[item for item in walk if taken[item] >= 5] for walk in walks]
        walks = [walk for walk in walks if len(walk) >= 5]
    if part.subject is not None:
        inside = partial(subject_of, world, dataset.collection)
        walks = [[item for item in walk if inside(item) == part.subject] for walk in walks]
    return [walk for walk in walks if len(walk) >= 5]
