import csv
import gzip
import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.storage.home import Home

A, B, C, D = "0100000001", "0100000002", "0100000003", "0200000004"


def test_a_shop_becomes_sequences_in_order_of_time(write_shop, ingest_shop, sequences, adds_up):
    cards = ingest_shop(write_shop(), "HM")
    assert sequences("HM") == {f"user{n}": [A, B, C, D] for n in range(3)}
    assert cards[0]["statistics"]["actions"] == 12
    assert adds_up(cards[0])


def test_ties_stay_in_the_order_of_the_file_and_are_reported(write_shop, ingest_shop, sequences):
    rows = [("2020-01-02", "u", D), ("2020-01-02", "u", A), ("2020-01-02", "u", C)]
    card = ingest_shop(write_shop([*rows, ("2020-01-01", "u", B)]), "HM")[0]
    assert sequences("HM") == {"u": [B, D, A, C]}
    assert card["tied_timestamps"] == 0.75


@pytest.mark.parametrize("spoil", [lambda i: i.lstrip("0"), lambda i: i.lstrip("0") + ".0"])
def test_ids_that_became_numbers_are_repaired(write_shop, ingest_shop, sequences, spoil):
    rows = [("2020-01-01", "u", spoil(A)), ("2020-01-02", "u", B), ("2020-01-03", "u", spoil(D))]
    articles = [(spoil(each), "Shoes") for each in (A, B, D)]
    ingest_shop(write_shop(rows, articles), "HM")
    assert sequences("HM") == {"u": [A, B, D]}


def test_an_index_column_first_is_ignored(write_shop, ingest_shop, sequences):
    raw = write_shop()
    for name in ("transactions_train.csv", "articles.csv"):
        lines = (raw / name).read_text().splitlines()
        numbered = ["," + lines[0], *(f"{n},{line}" for n, line in enumerate(lines[1:]))]
        (raw / name).write_text("\n".join(numbered))
    ingest_shop(raw, "HM")
    assert sequences("HM")["user1"] == [A, B, C, D]


def test_rows_go_by_reason_and_all_add_up(write_shop, ingest_shop, tables_card, adds_up):
    good = [(f"2020-01-0{n}", "u", item) for n, item in enumerate((A, B, C), 1)]
    bad = [
        ("2020-01-01", "u", "0999999999"),
        ("2020-01-01", "u", D),
        ("2020-01-01", "", A),
        ("2020-01-01", "u", " "),
        ("yesterday", "u", A),
        ("2020-01-01", "short", A),
    ]
    card = ingest_shop(write_shop([*good, *bad], pictures=[A, B, C]), "HM")[0]
    assert card["rows"]["dropped"] == {
        "item not in the items file": 1,
        "item without picture": 1,
        "empty user id": 1,
        "empty item id": 1,
        "unreadable time": 1,
        "core round 1": 1,
    }
    assert card["rows"]["read"] == 9
    assert adds_up(card)
    assert tables_card("HM")["interactions"]["kept"] == 6


def test_text_is_the_description_and_then_the_tags(write_shop, ingest_shop, home):
    raw = write_shop()
    ingest_shop(raw, "HM")
    texts = pq.read_table(home.tables("HM") / "items.parquet")["text"].to_pylist()
    assert texts[0] == f"Article {A}, soft. Shoes"


def test_an_article_without_description_has_its_name(write_shop, ingest_shop, home):
    raw = write_shop()
    articles = (raw / "articles.csv").read_text().replace(f'"Article {A}, soft."', "")
    (raw / "articles.csv").write_text(articles)
    ingest_shop(raw, "HM")
    table = pq.read_table(home.tables("HM") / "items.parquet")
    assert table["text"].to_pylist()[0] == "Tee. Shoes"
    assert table["image"].to_pylist()[0] == f"010/{A}.jpg"


def test_a_repeated_article_counts_once_and_the_first_row_wins(write_shop, ingest_shop, home):
    ingest_shop(write_shop(articles=[(i, "Shoes") for i in (A, B, C, D)] + [(A, "Bags")]), "HM")
    card = json.loads((home.tables("HM") / "card.json").read_text())
    assert card["items"]["dropped"] == {"repeated item id": 1}
    table = pq.read_table(home.tables("HM") / "items.parquet")
    assert table["item_id"].to_pylist() == [A, B, C, D]
    assert "Shoes" in table["text"].to_pylist()[0]


def test_targets_are_carved_by_product_group_after_the_core(write_shop, ingest_shop, sequences):
    groups = [(A, "Garment Full body"), (B, "Shoes"), (C, "Shoes"), (D, "Shoes")]
    cards = ingest_shop(write_shop(articles=groups))
    assert sequences("HM Shoes") == {f"user{n}": [B, C, D] for n in range(3)}
    assert cards[2]["rows"]["dropped"] == {"outside the target": 3}
    assert cards[1]["target"] == "HM Clothes"
    assert "no user of the core has 3 interactions inside it" in cards[1]["left_out"]


def test_all_columns_and_files_of_the_competition_may_be_there(write_shop, ingest_shop, sequences):
    """A garment group named Shoes makes no shoe: 55 of H&M's articles have it and another group."""
    raw = write_shop(articles=[(A, "Garment Full body"), (B, "Shoes"), (C, "Shoes"), (D, "Shoes")])
    with (raw / "articles.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    further = ("product_code", "garment_group_no", "garment_group_name", "index_group_name")
    with (raw / "articles.csv").open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow([header[0], *further, *header[1:]])
        written.writerows([row[0], row[0][:7], "1020", "Shoes", "", *row[1:]] for row in rows)
    (raw / "customers.csv").write_text("customer_id,FN,Active\nuser0,,1.0\nnobody,,\n")
    (raw / "sample_submission.csv").write_text(f"customer_id,prediction\nuser0,{A} {B}\n")
    ingest_shop(raw, "HM", "HM Shoes")
    assert sequences("HM") == {f"user{n}": [A, B, C, D] for n in range(3)}
    assert sequences("HM Shoes") == {f"user{n}": [B, C, D] for n in range(3)}


def test_an_empty_target_that_was_asked_for_is_an_error(write_shop, ingest_shop, home):
    with pytest.raises(InputError, match="HM Clothes: no item of HM is inside it"):
        ingest_shop(write_shop(), "hm clothes")
    assert not home.target("HM Clothes").exists()


def test_users_of_a_carved_target_need_the_core_inside_it(write_shop, ingest_shop, sequences):
    groups = [(A, "Garment Full body"), (B, "Shoes"), (C, "Shoes"), (D, "Shoes")]
    rows = [(f"2020-01-0{n}", user, i) for user in "uv" for n, i in enumerate((A, B, C, D), 1)]
    rows = [*rows[:4], ("2020-01-05", "u", B), *rows[4:]]
    card = ingest_shop(write_shop(rows, groups), "HM Shoes", user_core=4)[0]
    assert sequences("HM Shoes") == {"u": [B, C, D, B]}
    assert card["rows"]["dropped"] == {
        "outside the target": 2,
        "user with fewer than 4 inside the target": 3,
    }


def test_missing_files_are_listed_with_where_they_come_from(tmp_path, ingest_shop):
    with pytest.raises(InputError) as error:
        ingest_shop(tmp_path / "nowhere")
    message = str(error.value)
    for part in ("transactions_train.csv", "articles.csv", "images/", "--raw", "kaggle.com"):
        assert part in message


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_missing_columns_are_named_with_what_was_found(write_shop, ingest_shop, delimiter):
    raw = write_shop()
    header, _, rest = (raw / "transactions_train.csv").read_text().partition("\n")
    wrong = header.replace("t_dat", "when").replace(",", delimiter)
    text = wrong + "\n" + rest.replace(",", delimiter)
    (raw / "transactions_train.csv").write_text(text)
    with pytest.raises(InputError, match=r"'t_dat' are missing; its first line has 'when', 'cust"):
        ingest_shop(raw)


def test_an_unknown_target_of_hm_is_refused_before_anything_is_read(tmp_path, ingest_shop):
    with pytest.raises(InputError, match='unknown target "HM Shoos": did you mean "HM Shoes"'):
        ingest_shop(tmp_path / "nowhere", "HM Shoos")


def test_unreadable_dates_show_examples_and_the_accepted_forms(write_shop, ingest_shop):
    rows = [("2020-01-01", "u", A), *[("22nd of May", "u", B)] * 3]
    with pytest.raises(InputError, match=r"3 of 4 times cannot be read, e.g. '22nd of May'"):
        ingest_shop(write_shop(rows))


def test_days_that_a_spreadsheet_wrote_the_other_way_round_are_days(write_shop, ingest_shop, home):
    rows = [("13/01/2020", "u", A), ("02/02/2020", "u", B), ("14/02/2020", "u", A)]
    ingest_shop(write_shop(rows))
    stored = pq.read_table(home.tables("HM") / "interactions.parquet")["timestamp"].to_pylist()
    days = [datetime(2020, m, d, tzinfo=UTC) for d, m in ((13, 1), (2, 2), (14, 2))]
    assert stored == [int(day.timestamp()) for day in days]


def test_a_shop_without_pictures_says_what_to_do(write_shop, ingest_shop):
    with pytest.raises(InputError, match="--missing-image text-only"):
        ingest_shop(write_shop(pictures=[]))


def test_a_shop_without_pictures_can_go_on_as_text(write_shop, ingest_shop):
    card = ingest_shop(write_shop(pictures=[]), "HM", missing_image="text-only")[0]
    assert card["items_without_image"] == 4
    assert card["pictures"] is None


def test_a_gz_under_the_plain_name_reads_as_well(write_shop, ingest_shop, sequences):
    raw = write_shop()
    path = raw / "transactions_train.csv"
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    ingest_shop(raw, "HM")
    assert len(sequences("HM")) == 3


def test_a_failure_leaves_the_earlier_artefacts_whole(write_shop, ingest_shop, home: Home):
    raw = write_shop()
    ingest_shop(raw)
    before = {path: path.read_bytes() for path in sorted(home.root.rglob("*.*")) if path.is_file()}
    kept = [path for path in before if "partial" not in str(path) and ".digests" not in str(path)]
    (raw / "transactions_train.csv").write_text("t_dat,customer_id\n1,2\n")
    with pytest.raises(InputError):
        ingest_shop(raw)
    with pytest.raises(InputError, match="is empty"):
        ingest_shop(write_shop(), user_core=50)
    assert {path: path.read_bytes() for path in kept} == {path: before[path] for path in kept}


def test_a_target_left_out_says_that_an_earlier_one_stays(write_shop, ingest_shop, home):
    clothes = [(A, "Garment Upper body"), (B, "Shoes"), (C, "Shoes"), (D, "Shoes")]
    raw = write_shop(articles=clothes)
    first = ingest_shop(raw)
    assert first[1]["target"] == "HM Clothes"
    assert "stays" not in first[1]["left_out"]
    assert first[2]["fresh"]
    again = ingest_shop(raw, user_core=4)
    assert "stays as it was" in again[2]["left_out"]
    assert home.target("HM Shoes").is_dir()


def test_a_file_in_place_of_hms_raw_folder_is_refused(write_shop, ingest_shop):
    with pytest.raises(
        InputError, match=r"--raw .*articles\.csv is a file; expected is the folder"
    ):
        ingest_shop(write_shop() / "articles.csv")
