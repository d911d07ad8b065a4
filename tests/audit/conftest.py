"""A shop of the embedded world, clean in times, texts and pictures, to plant leaks into."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from pmm.audit.audit_request import AuditOptions
from pmm.audit.audit_target import Audit, audit_target
from pmm.demo.public_encoders import put_public_encoders
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home
from pmm.world.formats.csv_writer import write_csv
from pmm.world.formats.defects import Defects
from pmm.world.generate import generate

START, LATER = 1_577_836_800, 10_000_000


@dataclass
class Planted:
    """Raw rows, texts and pictures of a shop, to be changed by a test before it is audited."""

    home: Home
    pictures: Path
    encoder: Path
    histories: dict[str, list[str]]
    """User -> items, oldest first; all distinct."""
    times: dict[str, list[int]]
    """User -> the times of these, all distinct, the last two behind those of anybody's others."""
    texts: dict[str, str]
    images: dict[str, bytes] = field(default_factory=dict)

    def audit(self, *, with_pictures: bool = False, draws: int = 4, **options: object) -> Audit:
        """Ingest the shop as it is now, and audit it."""
        self.ingest(with_pictures=with_pictures, **options)
        return audit_target(self.home, "shop", AuditOptions(draws=draws))

    def ingest(self, *, with_pictures: bool = False, **options: object) -> None:
        raw = self.home.root.parent / "raw"
        (raw / "images").mkdir(parents=True, exist_ok=True)
        rows = [
            (time, user, item)
            for user, items in self.histories.items()
            for item, time in zip(items, self.times[user], strict=True)
        ]
        rows.sort(key=lambda row: row[0])  # in the order of each user's history where they tie
        with (raw / "inter.csv").open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["user_id", "item_id", "timestamp"])
            out.writerows((user, item, time) for time, user, item in rows)
        with (raw / "items.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("item_id", "title"), *self.texts.items()])
        for item, content in self.images.items() if with_pictures else ():
            (raw / "images" / f"{item}.jpg").write_bytes(content)
        files = CsvFiles(
            interactions=raw / "inter.csv", items=raw / "items.csv", images=raw / "images"
        )
        chosen = {"user_core": 0, "item_core": 0, "missing_image": "text-only", **options}
        ingest_csv(self.home, "shop", files, IngestOptions(**chosen))  # type: ignore[arg-type]
        if with_pictures:
            write_shards(self.home, "shop", ShardOptions(text_encoder=str(self.encoder), workers=1))


@pytest.fixture(scope="session")
def clean_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target of the embedded world as CSV without defects, and small encoders."""
    folder = tmp_path_factory.mktemp("clean")
    none = {each.name: 0.0 for each in dataclasses.fields(Defects)}
    write_csv(generate("tiny"), "HM Shoes", folder, Defects(**none))
    put_public_encoders(folder / "encoders")
    return folder


@pytest.fixture
def shop_to_plant(clean_files: Path, tmp_path: Path) -> Planted:
    """The shop with nothing planted: no repeats, no ties, and tests behind all training."""
    histories: dict[str, list[str]] = {}
    with (clean_files / "interactions.csv").open() as file:
        for row in csv.DictReader(file):
            items = histories.setdefault(row["user_id"], [])
            if row["item_id"] not in items:
                items.append(row["item_id"])
    histories = {user: items for user, items in histories.items() if len(items) >= 4}
    clock = itertools.count(START)
    times = {
        user: [next(clock) + LATER * (n >= len(items) - 2) for n in range(len(items))]
        for user, items in histories.items()
    }
    with (clean_files / "items.csv").open() as file:
        texts = {
            row["item_id"]: f"{row['title']} model {row['item_id']} {row['description']}"
            for row in csv.DictReader(file)
        }
    images = {
        path.stem: path.read_bytes() for path in sorted((clean_files / "images").glob("*.jpg"))
    }
    return Planted(
        home=Home(tmp_path / "home"),
        pictures=clean_files / "images",
        encoder=clean_files / "encoders" / "text",
        histories=histories,
        times=times,
        texts=texts,
        images=images,
    )


def changed(content: bytes, way: str) -> bytes:
    """A picture that was compressed harder, made smaller, or made a little brighter."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    match way:
        case "smaller":
            image = image.resize((image.width * 2 // 3, image.height * 2 // 3))
        case "brighter":
            image = ImageEnhance.Brightness(image).enhance(1.07)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=40 if way == "compressed" else 88)
    return out.getvalue()


@pytest.fixture(scope="session")
def change_picture() -> Callable[[bytes, str], bytes]:
    return changed
