"""A file of interactions alone: items are known by their ids."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pmm.cli import main
from pmm.errors import InputError
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.csv_presets import CsvRequest, ingest_as_asked
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home

OPTIONS = IngestOptions(user_core=0, item_core=0)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "inter.csv"
    lines = [
        "user,item,time",
        "u1, b ,1",
        "u1,a,2",
        "u1,c,3",
        "u2,a,1",
        "u2,b,2",
        "u2,c,3",
        "u2,,9",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_interactions_alone_are_enough(rows: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (card,) = ingest_csv(home, "x", CsvFiles(interactions=rows), OPTIONS)
    items = pq.read_table(home.target("x") / "items.parquet")
    assert items["item_id"].to_pylist() == ["a", "b", "c"]
    assert set(items["text"].to_pylist()) == {""}
    assert items["image"].null_count == 3
    assert card["rows"] == {"read": 7, "kept": 6, "dropped": {"empty item id": 1}}
    assert (card["items_without_image"], card["items_without_text"]) == (3, 3)
    assert card["options"]["missing_image"] == "keep"
    assert "items without picture: kept" in card["rules"]
    (again,) = ingest_csv(home, "x", CsvFiles(interactions=rows), OPTIONS)
    assert not again["fresh"]


def test_an_items_file_that_comes_later_is_read(rows: Path, tmp_path: Path) -> None:
    home, titles = Home(tmp_path / "home"), tmp_path / "items.csv"
    ingest_csv(home, "x", CsvFiles(interactions=rows), OPTIONS)
    titles.write_text("item,title\na,one\nb,two\nc,three\n")
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    (card,) = ingest_csv(home, "x", CsvFiles(interactions=rows, items=titles), options)
    assert card["fresh"]
    assert card["items_without_text"] == 0


def test_pictures_are_found_by_ids_where_no_file_lists_the_items(
    rows: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(images / f"{name}.png")
    home = Home(tmp_path / "home")
    files = CsvFiles(interactions=rows, images=images)
    (card,) = ingest_csv(home, "x", files, OPTIONS)
    assert card["items_without_image"] == 0
    (images / "c.png").rename(images / "d.png")
    rows.write_text(rows.read_text() + "u1,d,7\nu2,d,8\n")
    (card,) = ingest_csv(home, "x", files, OPTIONS)
    assert card["rows"]["dropped"]["item without picture"] == 2
    assert card["statistics"]["items"] == 3


def test_listed_items_without_content_are_kept_on_request(rows: Path, tmp_path: Path) -> None:
    titles = tmp_path / "items.csv"
    titles.write_text("item,title\na,\nb,\nc,one\n")
    home, files = Home(tmp_path / "home"), CsvFiles(interactions=rows, items=titles)
    options = IngestOptions(user_core=0, item_core=0, missing_image="keep")
    (card,) = ingest_csv(home, "x", files, options)
    assert card["statistics"]["items"] == 3
    with pytest.raises(InputError, match="for models on ids, with keep"):
        ingest_csv(home, "x", files, OPTIONS)


def test_the_command_needs_interactions_and_nothing_else(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="give --interactions FILE"):
        ingest_as_asked(CsvRequest(name="x", home=tmp_path))
    arguments = ["ingest", "csv", "--name", "x", "--interactions", str(rows), "--user-core", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--item-core", "0", "--home", str(tmp_path / "home")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"Next: pmm shard --target x --no-content --home {tmp_path / 'home'}" in said
