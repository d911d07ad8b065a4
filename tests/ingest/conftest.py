"""Tiny real raw files: a shop in H&M's layout, and delimited files from text."""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.hm import CATEGORY_COLUMNS, ingest_hm
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home

HM_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "hm"
AMAZON_DATA = HM_DATA.with_name("amazon2018")
settings.register_profile("ingest", deadline=None, derandomize=True)
settings.load_profile("ingest")

ARTICLES = ["0100000001", "0100000002", "0100000003", "0200000004"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def hm_data() -> Path:
    if not (HM_DATA / "articles.csv").exists():
        pytest.skip(f"real H&M files are not in {HM_DATA}")
    return HM_DATA


@pytest.fixture(scope="session")
def amazon_data() -> Path:
    if not (AMAZON_DATA / "meta_Gift_Cards.json.gz").exists():
        pytest.skip(f"real Amazon files are not in {AMAZON_DATA}")
    return AMAZON_DATA


@pytest.fixture
def write_shop(tmp_path: Path) -> Callable[..., Path]:
    """Writes transactions (day, user, article), articles (id, group) and pictures."""

    def write(
        transactions: Iterable[Sequence[str]] | None = None,
        articles: Iterable[tuple[str, str]] | None = None,
        pictures: Iterable[str] = ARTICLES,
        folder: str = "raw",
    ) -> Path:
        raw = tmp_path / folder
        raw.mkdir(exist_ok=True)
        everyone = [
            (f"2020-01-0{day + 1}", f"user{user}", article)
            for day, article in enumerate(ARTICLES)
            for user in range(3)
        ]
        with (raw / "transactions_train.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["t_dat", "customer_id", "article_id", "price", "sales_channel_id"])
            rows.writerows([*row, "0.05", "2"] for row in transactions or everyone)
        with (raw / "articles.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["article_id", "prod_name", "detail_desc", *CATEGORY_COLUMNS])
            for article, group in articles or [(each, "Shoes") for each in ARTICLES]:
                tags = [group if "product_group" in name else "" for name in CATEGORY_COLUMNS]
                rows.writerow([article, "Tee", f"Article {article}, soft.", *tags])
        for article in pictures:
            path = raw / "images" / article[:3] / f"{article}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"picture")
        return raw

    return write


@pytest.fixture
def ingest_shop(home: Home) -> Callable[..., list[dict[str, Any]]]:
    """Ingests an H&M folder with a core of 3 and 0 unless told otherwise."""

    def ingest(raw: Path, *targets: str, **options: Any) -> list[dict[str, Any]]:
        chosen = {"user_core": 3, "item_core": 0, **options}
        return ingest_hm(home, raw, targets, IngestOptions(**chosen))

    return ingest


@pytest.fixture
def ingest_text(home: Home, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Ingests the bytes of two delimited files as "Shop", text-only, without a core."""

    def ingest(
        interactions: bytes | str,
        items: bytes | str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        listed = items or "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(10))
        for name, content in (("inter.csv", interactions), ("items.csv", listed)):
            raw = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(raw)
        of_files = {field.name for field in dataclasses.fields(CsvFiles)} & options.keys()
        files = CsvFiles(
            interactions=tmp_path / "inter.csv",
            items=tmp_path / "items.csv",
            **{name: options.pop(name) for name in of_files},
        )
        chosen = {"user_core": 0, "item_core": 0, "missing_image": "text-only", **options}
        return ingest_csv(home, "Shop", files, IngestOptions(**chosen))[0]

    return ingest


@pytest.fixture
def sequences(home: Home) -> Callable[..., dict[str, list[str]]]:
    """User id -> raw item ids of the full sequence, from the files of a target."""

    def read(target: str = "Shop") -> dict[str, list[str]]:
        place = home.target(target)
        ids = pq.read_table(place / "items.parquet")["item_id"].to_pylist()
        rows = pq.read_table(place / "sequences.parquet").to_pylist()
        return {
            row["user_id"]: [ids[n - 1] for n in (*row["train"], row["valid"], row["test"])]
            for row in rows
        }

    return read


@pytest.fixture
def tables_card(home: Home) -> Callable[..., dict[str, Any]]:
    """The card of a source's tables."""

    def read(source: str = "Shop") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((home.tables(source) / "card.json").read_text())
        return found

    return read


@pytest.fixture
def adds_up() -> Callable[[dict[str, Any]], bool]:
    """Whether a card accounts for every raw row."""

    def check(card: dict[str, Any]) -> bool:
        rows = card["rows"]
        return bool(rows["read"] == rows["kept"] + sum(rows["dropped"].values()))

    return check
