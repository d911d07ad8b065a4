"""A target's rows are found again in its source's tables, with their times, whatever was asked."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmm.audit.audit_request import AuditOptions
from pmm.audit.audit_target import audit_target
from pmm.audit.timed_rows import read_audited
from pmm.errors import PmmError
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.targets.split import LEFT_OUT, TEST, TRAIN
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home
from pmm.storage.schemas import SEQUENCES, read_table

Row = tuple[str, str, float]


def draw(seed: int) -> list[Row]:
    """Rows of a file: out of order, with ties, repeats and halves of seconds."""
    rng = np.random.default_rng(seed)
    codes = zip(
        rng.integers(0, 12, 200), rng.integers(0, 15, 200), rng.integers(0, 60, 200), strict=True
    )
    return [(f"u{user}", f"i{item}", 1_600_000_000 + time / 2) for user, item, time in codes]


def ingest(folder: Path, rows: list[Row], **options: Any) -> Home:
    home = Home(folder / "home")
    lines = (f"{user},{item},{time}" for user, item, time in rows)
    (folder / "inter.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(15))
    )
    chosen = {"user_core": 4, "item_core": 4, "missing_image": "text-only", **options}
    files = CsvFiles(interactions=folder / "inter.csv", items=folder / "items.csv")
    ingest_csv(home, "shop", files, IngestOptions(**chosen))
    return home


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repeats": "first", "user_core": 3, "item_core": 3},
        {"last": 6},
        {"last": 6, "last_cut": "before-core", "user_core": 3, "item_core": 2},
        {"users": 5},
        {"split": "temporal"},
        {"split": "temporal", "last": 12},
    ],
    ids=str,
)
def test_each_row_has_its_own_time(seed: int, options: dict[str, Any], tmp_path: Path) -> None:
    rows = draw(seed)
    home = ingest(tmp_path, rows, **options)
    found = read_audited(home, "shop").rows
    assert found.moment is not None
    sequences = read_table(home.target("shop") / "sequences.parquet", SEQUENCES).to_pylist()
    items = read_audited(home, "shop").item_ids
    held = [each for row in sequences for each in (*row["train"], row["valid"], row["test"])]
    assert found.item[found.parts != LEFT_OUT].tolist() == held
    assert len(found.item[found.parts == TEST]) == len(sequences)
    # By users and moments the rows must be in the order of the file where they tie.
    times: dict[int, set[float]] = {}
    for user in range(len(sequences)):
        mine = found.user == user
        name = sequences[user]["user_id"]
        moments, numbers = found.moment[mine].tolist(), found.item[mine].tolist()
        assert moments == sorted(moments)
        left = [row for row in sorted(rows, key=lambda row: row[2]) if row[0] == name]
        for moment, number in zip(reversed(moments), reversed(numbers), strict=True):
            while (row := left.pop())[1] != items[number - 1]:
                assert left, "a row that the file does not have"
            if options.get("repeats") != "first":  # of which the earliest counts
                times.setdefault(moment, set()).add(row[2])
    if "repeats" not in options:
        assert all(len(each) == 1 for each in times.values())
        order = [times[moment] for moment in sorted(times)]
        assert [min(each) for each in order] == sorted(min(each) for each in order)


@pytest.mark.parametrize("seed", range(3))
def test_a_temporal_split_leaks_nothing_and_its_points_are_found_again(
    seed: int, tmp_path: Path
) -> None:
    home = ingest(tmp_path, draw(seed), split="temporal")
    rows = read_audited(home, "shop").rows
    assert rows.moment is not None
    assert rows.moment[rows.parts == TRAIN].max() < rows.moment[rows.parts == TEST].min()
    audit = audit_target(home, "shop", AuditOptions(draws=2))
    assert audit.time is not None
    assert audit.time.later_targets == audit.time.later_rows == 0


def test_without_times_the_rest_is_audited(tmp_path: Path) -> None:
    (tmp_path / "inter.csv").write_text(
        "user_id,item_id\n" + "".join(f"u{u},i{(u + k) % 7}\n" for u in range(9) for k in range(4))
    )
    (tmp_path / "items.csv").write_text(
        "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(7))
    )
    home = Home(tmp_path / "home")
    files = CsvFiles(interactions=tmp_path / "inter.csv", items=tmp_path / "items.csv")
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    ingest_csv(home, "shop", files, options)
    audit = audit_target(home, "shop")
    assert (audit.time, audit.ties) == (None, None)
    assert audit.not_looked_at["time"] == "the source shop has no times"
    assert audit.floors["item kNN"]["users"] == 9


def test_without_the_tables_the_rest_is_audited_and_the_command_is_named(tmp_path: Path) -> None:
    home = ingest(tmp_path, draw(0))
    shutil.rmtree(home.tables("shop"))
    audit = audit_target(home, "shop")
    assert audit.time is None
    assert "Run: pmm ingest csv" in audit.not_looked_at["ties"]


@pytest.mark.parametrize("name", ["sequences.parquet", "items.parquet"])
def test_a_damaged_target_is_refused(name: str, tmp_path: Path) -> None:
    home = ingest(tmp_path, draw(0))
    path = home.target("shop") / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PmmError, match="Run: pmm ingest"):
        audit_target(home, "shop")


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    home = ingest(tmp_path, draw(0))
    path = home.tables("shop") / "interactions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(PmmError, match="Run: pmm ingest"):
        audit_target(home, "shop")
