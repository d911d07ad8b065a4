"""Which rows and columns of a table of interactions count."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.readers.columns import assigned, find_roles, parse_item_columns
from pmm.ingest.readers.duplicate_rows import hash_rows
from pmm.ingest.sources.csv_presets import CsvRequest, ingest_as_asked
from pmm.ingest.sources.csv_rows import choose_time

START = 1_600_000_000
HEADER = "user_id,item_id,rating,timestamp\n"


def rated(ratings, header=HEADER):
    return header + "".join(f"u,i{n},{r},{START + n}\n" for n, r in enumerate(ratings))


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        ("USER ID,Product ID,Date", ("user", "item", "time")),
        ("User-Id,product_id,event_time", ("user", "item", "time")),
        ("Customer ID,StockCode,InvoiceDate", ("user", "item", "time")),
        ("visitorid,ProductId,createdAt", ("user", "item", "time")),
        ("user.id,sku,order_date", ("user", "item", "time")),
        ("product_id,product_name,product_description", ("item", "title", "description")),
        ("Item ID,Item Name,Product Category", ("item", "title", "categories")),
        ("ISBN,Book-Title,Image File", ("item", "title", "image")),
        ("product_id:token,item_name:token_seq", ("item", "title")),
    ],
)
def test_names_in_the_wild_have_their_role(names, roles):
    listed = names.split(",")
    assert find_roles(listed, roles) == {role: at for at, role in enumerate(roles)}


def test_headers_with_spaces_and_products_are_read(ingest_text, sequences):
    inter = "USER ID,Product ID,Event Time\n" + "".join(
        f"u,i{n},2020/09/1{n} 08:30:00 UTC\n" for n in (2, 1, 0)
    )
    items = "product_id,product_name\n" + "".join(f"i{n},Name {n}\n" for n in range(3))
    ingest_text(inter, items)
    assert sequences() == {"u": ["i0", "i1", "i2"]}


ITEMS = "Art No,Kind,Label,Picture 2\n" + "".join(f"i{n},Shoe,Label {n},x.jpg\n" for n in range(3))


@pytest.mark.parametrize(
    "columns",
    [
        "item=Art No,title=Label,categories=Kind",
        "item=art_no, title=LABEL ,categories=2",
        "item=1,title=3,categories=2",
        "item,categories,title,-",
    ],
)
def test_columns_of_items_are_chosen_by_name_or_number(ingest_text, home, columns):
    ingest_text(rated([5, 5, 5]), ITEMS, item_columns=columns)
    stored = pq.read_table(home.tables("Shop") / "items.parquet").to_pydict()
    assert stored["item_id"] == ["i0", "i1", "i2"]
    assert stored["text"] == ["Label 0", "Label 1", "Label 2"]
    assert stored["categories"] == [["Shoe"]] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "item=Art No,title=Lable",
            r"no column 'Lable': did you mean \"Label\"\?.* number, 1 to 4",
        ),
        ("item=0,title=Label", "no column '0'"),
        ("item=5,title=Label", "no column '5'"),
        ("item=Label,title=3", "'3' is both item and title"),
        ("item=Art No,Label", "'Label' is no assignment"),
        ("title=Label", "item must be among them"),
        ("item=Art No,colour=Label", "name the columns item, title"),
    ],
)
def test_columns_of_items_that_are_not_there_are_refused(ingest_text, columns, message):
    with pytest.raises(InputError, match=message):
        ingest_text(rated([5, 5, 5]), ITEMS, item_columns=columns)


def test_a_name_that_stands_twice_asks_for_its_number():
    with pytest.raises(InputError, match="several columns are called 'a'; give its number"):
        assigned("item=a", ["a", "a"], "f")
    assert assigned("item=A", ["a", "A"], "f") == ("-,item", True)
    assert parse_item_columns(assigned("item=2,tag Fun=1", ["a", "b"], "f")[0], 2, "f") == (
        {"item": 1},
        {"Fun": 0},
    )


@pytest.mark.parametrize(
    "columns", ["user=Who,item=What,timestamp=When", "user=4,item=who is it,time=2"]
)
def test_columns_of_interactions_are_chosen_by_name_or_number(ingest_text, sequences, columns):
    named = {"Who": ("Who", "What"), "who is it": ("z", "who is it")}
    user, item = named["Who" if "Who" in columns else "who is it"]
    text = f"n,When,{item},{user}\n" + "".join(f"0,{START + n},i{n},u\n" for n in (2, 0, 1))
    ingest_text(text, columns=columns)
    assert sequences() == {"u": ["i0", "i1", "i2"]}


def test_the_command_knows_the_columns_of_items(home, tmp_path):
    (tmp_path / "inter").write_text(rated([5, 5, 5]))
    (tmp_path / "items").write_text(ITEMS)
    request = CsvRequest(
        name="shop",
        interactions=tmp_path / "inter",
        items=tmp_path / "items",
        item_columns="item=Art No,title=Label",
        home=home.root,
        user_core=0,
        item_core=0,
        missing_image="text-only",
    )
    assert ingest_as_asked(request)[0]["statistics"]["items"] == 3


def test_rows_with_a_low_rating_are_dropped_and_counted(ingest_text, sequences):
    card = ingest_text(rated([5, 3, "3.5", "4,0".replace(",", "."), "n/a", "", 4]), min_rating=3.5)
    assert sequences() == {"u": ["i0", "i2", "i3", "i6"]}
    assert card["rows"]["dropped"] == {"unreadable rating": 2, "rating below 3.5": 1}
    card = ingest_text(rated([5, 3, 4, 4]))
    assert card["rows"]["kept"] == 4
    assert "rating" not in card["detected"]["interactions"]["columns"]


def test_ratings_are_found_by_other_names_and_by_columns(ingest_text, sequences):
    ingest_text(rated([5, 1, 4, 4], "userId,asin,overall,ts\n"), min_rating=2)
    assert sequences() == {"u": ["i0", "i2", "i3"]}
    ingest_text(rated([5, 1, 4, 4], ""), min_rating=2, columns="user,item,rating,timestamp")
    assert sequences() == {"u": ["i0", "i2", "i3"]}
    with pytest.raises(InputError, match=r"--min-rating 2: .* has no column of ratings"):
        ingest_text(rated([5, 1, 4], "user,item,-,ts\n"), min_rating=2)


def test_identical_rows_are_counted_and_dropped_on_demand(
    ingest_text, sequences, tables_card, caplog
):
    rows = rated([5, 5, 5]) + f"u,i1,5,{START + 1}\nu,i1,4,{START + 1}\nu,i1,5,{START + 1}\n"
    ingest_text(rows)
    assert tables_card()["interactions"]["identical_rows"] == 2
    assert "2 of 6 rows are identical to an earlier one; they are kept" in caplog.text
    assert sequences() == {"u": ["i0", "i1", "i1", "i1", "i1", "i2"]}
    card = ingest_text(rows, drop_identical=True)
    assert card["rows"]["dropped"] == {"identical row": 2}
    assert sequences() == {"u": ["i0", "i1", "i1", "i2"]}
    ingest_text(rated([5, 5, 5]))
    assert "identical_rows" not in tables_card()["interactions"]


def test_rows_that_differ_in_a_column_that_is_not_read_are_not_identical(ingest_text, tables_card):
    ingest_text("user,item,ts,text\n" + "".join(f"u,i1,{START},{n}\n" for n in range(5)))
    assert "identical_rows" not in tables_card()["interactions"]


def test_hashes_of_rows_are_equal_where_the_rows_are():
    rng = random.Random(3)
    rows = [tuple(rng.choice(["", "a", "b", "ab", "c"]) for _ in range(3)) for _ in range(500)]
    pieces = [rows[:123], rows[123:]]
    hashes = []
    for piece in pieces:
        columns = [pa.array(list(each)).dictionary_encode() for each in zip(*piece, strict=True)]
        hashes += hash_rows(columns).tolist()
    assert len(set(zip(rows, hashes, strict=True))) == len(set(rows)) == len(set(hashes))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("clocks", [("08:30", "8:31", "23:00"), ("1:00 AM", "2:00 AM", "1:00 PM")])
def test_a_date_and_a_time_of_day_are_joined(ingest_text, sequences, order, clocks):
    names = [("date", "time")[at] for at in order]
    rows = [[("2020-09-13", clock)[at] for at in order] for clock in clocks]
    text = f"user,item,{','.join(names)}\n"
    text += "".join(f"u,i{n},{','.join(rows[n])}\n" for n in (2, 1, 0))
    card = ingest_text(text)
    assert sequences() == {"u": ["i0", "i1", "i2"]}
    columns = card["detected"]["interactions"]["columns"]
    assert (columns["time"], columns["time of day"]) == ("date", "time")


@pytest.mark.parametrize(
    ("names", "rows", "chosen"),
    [
        (["timestamp", "date"], [["", "2020-09-13"], ["", "2020-09-14"]], (1, None)),
        (["timestamp", "date"], [["1600000000", "2020-09-13"]], (0, None)),
        (["time", "timestamp"], [["08:30", "1600000000"]], (1, None)),
        (["time", "date"], [["5", "2020-09-13"]], (1, None)),
        (["time", "datetime"], [["08:30", "2020-09-13 08:30"]], (1, None)),
        (["time", "date"], [["soon", "later"]], (0, None)),
    ],
)
def test_of_two_columns_with_times_the_one_that_holds_some_is_read(names, rows, chosen):
    assert choose_time(names, rows) == chosen
