import csv

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.dataset_files import DatasetFiles, IncompleteDataset
from pmm.ingest.sources.video.datasets import VideoFiles, find_datasets
from pmm.ingest.sources.video.ninerec import read_titles
from pmm.ingest.targets.target_tables import IngestOptions

ROWS = [(item, user, 100 + n) for n, item in enumerate((7, 8, 9, 10)) for user in (901, 902, 903)]


@pytest.fixture
def write_bili(tmp_path):
    """Writes Bili_Food in NineRec's layout: pairs, items and pictures as bytes that are no text."""

    def write(pairs=ROWS, items=None, pictures=(7, 8, 9, 10), folder="raw/Bili_Food"):
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        name = place.name
        listed = [(n, f"菜 {n}", f"Dish {n}") for n in (7, 8, 9, 10)] if items is None else items
        for ending, rows in (("pair", pairs), ("item", listed)):
            if rows is not None:
                with (place / f"{name}_{ending}.csv").open("w", newline="", encoding="utf-8") as f:
                    csv.writer(f, lineterminator="\n").writerows(rows)
        for n in pictures:
            (place / f"{name}_cover").mkdir(exist_ok=True)
            (place / f"{name}_cover" / f"{n}.jpg").write_bytes(b"picture")
        return place

    return write


@pytest.fixture
def ingest(home, tmp_path):
    def run(*targets, raw="raw", language="zh", **options):
        files = VideoFiles(raw=tmp_path / raw, language=language)
        chosen = IngestOptions(**{"user_core": 3, "item_core": 0, **options})
        return ingest_bili(home, files, targets, chosen)

    return run


def items_of(home, name="Bili Food"):
    table = pq.read_table(home.tables(name) / "items.parquet")
    return dict(zip(table["item_id"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_pairs_are_read_in_whichever_order_they_are(write_bili, ingest, sequences, adds_up, order):
    write_bili([tuple(row[k] for k in order) for row in ROWS])
    (card,) = ingest("Bili Food")
    assert sequences("Bili Food") == {u: ["7", "8", "9", "10"] for u in ("901", "902", "903")}
    assert adds_up(card)
    assert card["detected"]["dataset"] == {"name": "Bili_Food", "layout": "NineRec"}


def test_the_addresses_and_the_list_of_bad_covers_are_left_alone(write_bili, ingest, sequences):
    place = write_bili()
    (place / "Bili_Food_url.csv").write_text("7,https://x.example.com/7\n")
    (place / "bad_file.tsv").write_text("7\n")
    assert len(ingest("Bili Food")) == 1
    assert sequences("Bili Food")["901"] == ["7", "8", "9", "10"]


def test_ids_that_begin_with_v_are_as_good(write_bili, ingest, sequences):
    rows = [(f"v{item}", user, time) for item, user, time in ROWS]
    ids = ["v7", "v8", "v9", "v10"]
    write_bili(rows, [(item, "菜", "Dish") for item in ids], pictures=ids)
    ingest("Bili Food")
    assert sequences("Bili Food")["901"] == ids


def test_titles_hold_commas_quotes_and_line_breaks(write_bili, ingest, home):
    odd = '红烧, "肉"\n做法'
    write_bili(items=[(7, odd, "Pork"), (8, "b", "B, c"), (9, "c", ""), (10, "", "D")])
    ingest("Bili Food")
    assert items_of(home) == {"7": '红烧, "肉" 做法', "8": "b", "9": "c", "10": ""}


def test_english_is_the_third_column_and_an_empty_title_stays_empty(
    write_bili, ingest, home, tables_card
):
    write_bili(items=[(7, "a", "Pork"), (8, "b", "B, c"), (9, "c", ""), (10, "", "D")])
    ingest("Bili Food", language="en")
    assert items_of(home) == {"7": "Pork", "8": "B, c", "9": "", "10": "D"}
    assert tables_card("Bili Food")["items"]["without_text"] == 1


def test_english_of_a_file_that_has_none_is_refused(write_bili, ingest):
    write_bili(items=[(n, f"菜 {n}") for n in (7, 8, 9, 10)])
    with pytest.raises(InputError, match=r"has 2 columns.*leave --language out"):
        ingest("Bili Food", language="en")
    assert ingest("Bili Food")[0]["statistics"]["items"] == 4


def test_items_without_a_cover_are_dropped_and_counted(write_bili, ingest, adds_up):
    write_bili(pictures=(7, 8, 9))
    card = ingest("Bili Food")[0]
    assert card["rows"]["dropped"] == {"item without picture": 3}
    assert adds_up(card)


def test_repeated_and_malformed_items_are_counted(write_bili, ingest, tables_card):
    items = [(7, "a", "A"), (7, "z", "Z"), (8, "b", "B"), (9, "c", "C"), (10, "d"), ("", "e", "E")]
    write_bili(items=items)
    ingest("Bili Food")
    card = tables_card("Bili Food")["items"]
    assert card["read"] == 6
    assert card["dropped"] == {"malformed row": 1, "empty item id": 1, "repeated item id": 1}


def test_a_behaviour_file_is_read_where_there_are_no_pairs(write_bili, ingest, sequences):
    place = write_bili(pairs=None)
    (place / "Bili_Food_behaviour.tsv").write_text("a\t7 8 9\nb\t10 9 8 7\n")
    card = ingest("Bili Food")[0]
    assert sequences("Bili Food") == {"a": ["7", "8", "9"], "b": ["10", "9", "8", "7"]}
    assert card["detected"]["interactions"]["form"] == "histories"
    assert card["tied_timestamps"] is None


def test_pairs_go_before_histories_for_they_have_times(write_bili, ingest):
    place = write_bili()
    (place / "Bili_Food_behaviour.tsv").write_text("a\t7 8 9\n")
    detected = ingest("Bili Food")[0]["detected"]["interactions"]
    assert (detected["file"], detected["time"]) == ("Bili_Food_pair.csv", "s")


def test_pairs_without_times_keep_the_order_of_the_file(write_bili, ingest, sequences):
    write_bili([(item, user) for item, user, _ in reversed(ROWS)])
    ingest("Bili Food")
    assert sequences("Bili Food")["902"] == ["10", "9", "8", "7"]


@pytest.mark.parametrize("place", ["raw", "raw/Source_datasets", "raw/Source_datasets/Bili_500K"])
def test_both_sources_have_one_folder_of_covers(write_bili, ingest, home, tmp_path, place):
    write_bili(pictures=(), folder="raw/Source_datasets/Bili_500K")
    covers = tmp_path / place / "Source_Bili_2M_cover"
    covers.mkdir(parents=True, exist_ok=True)
    for n in (7, 8, 9, 10):
        (covers / f"{n}.jpg").write_bytes(b"picture")
    raw = "raw/Source_datasets/Bili_500K" if place.endswith("datasets") else place
    card = ingest("Bili", raw=raw)[0]
    assert card["pictures"] == str(covers)
    assert home.tables("Bili").is_dir()


def test_a_header_above_the_items_is_understood(tmp_path):
    path = tmp_path / "D_item.csv"
    path.write_text("chinese,item_id,english\na,1,A\nb,2,B\n")
    assert read_titles(path, "zh").rows == [("1", "a"), ("2", "b")]
    assert read_titles(path, "en").rows == [("1", "A"), ("2", "B")]


def test_half_a_dataset_is_found_as_such(tmp_path):
    (tmp_path / "Bili_Food_pair.csv").write_text("1,2,3\n")
    (tmp_path / "Bili_Movie_item.csv").write_text("1,a\n")
    found = list(find_datasets(tmp_path))
    assert all(isinstance(each, IncompleteDataset) for each in found)
    assert sorted(each.missing.partition(" beside")[0] for each in found) == [
        "Bili_Food_item.csv",
        "Bili_Movie_pair.csv or Bili_Movie_behaviour.tsv",
    ]


def test_a_plain_file_goes_before_its_packed_copy_and_case_does_not_matter(write_bili, tmp_path):
    place = write_bili()
    (place / "Bili_Food_item.csv.gz").write_bytes(b"")
    (place / "Bili_Food_pair.csv").rename(place / "bili_food_PAIR.csv")
    (found,) = find_datasets(tmp_path / "raw")
    assert isinstance(found, DatasetFiles)
    assert found.titles == (place / "Bili_Food_item.csv",)


def test_a_shared_folder_named_images_is_nobodys_where_there_are_two_datasets(tmp_path):
    for name in ("Bili_Food", "Bili_Movie"):
        (tmp_path / f"{name}_pair.csv").write_text("1,2,3\n")
        (tmp_path / f"{name}_item.csv").write_text("1,a\n")
    (tmp_path / "images").mkdir()
    assert [each.pictures for each in find_datasets(tmp_path)] == [None, None]
