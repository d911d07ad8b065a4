import gzip
import math

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.readers.columns import parse_item_columns
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.tables.interactions import ORDER_BITS
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.inspect import summarise_cards
from pmm.storage.home import SOURCES, TARGETS

ROWS = [("u1", f"i{n}", 1_600_000_000 + n) for n in (0, 1, 2)]


def table(rows, delimiter=",", header="user_id,item_id,timestamp"):
    lines = [header.replace(",", delimiter)] if header else []
    return "\n".join([*lines, *(delimiter.join(map(str, row)) for row in rows)]) + "\n"


@pytest.mark.parametrize("delimiter", [",", "\t", "::", "|", ";"])
@pytest.mark.parametrize("header", [True, False])
def test_any_delimiter_with_and_without_header(ingest_text, sequences, delimiter, header):
    names = "user_id,item_id,timestamp"
    text = table(ROWS, delimiter, names if header else None)
    card = ingest_text(text, columns=None if header else names)
    assert sequences() == {"u1": ["i0", "i1", "i2"]}
    assert card["detected"]["interactions"]["header"] is header


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("userId,movieId,rating,timestamp", (0, 1, 3, 2)),
        ("user,item,timestamp", (0, 1, 2)),
        ("item_id,user_id,timestamp", (1, 0, 2)),
        ("user_id,asin,parent_asin,timestamp", (0, 3, 1, 2)),
        ("reviewerID,asin,unixReviewTime", (0, 1, 2)),
        ("customer_id,article_id,t_dat", (0, 1, 2)),
        ("uid,iid,ts", (0, 1, 2)),
        ("user_id:token,item_id:token,rating:float,timestamp:float", (0, 1, 3, 2)),
        ("rating,USER,Video_ID,Time", (3, 0, 1, 2)),
    ],
)
def test_columns_are_known_by_their_names_in_the_wild(ingest_text, sequences, header, order):
    rows = [[(*row, 5)[at] for at in order] for row in ROWS]
    ingest_text(table(rows, header=header))
    assert sequences() == {"u1": ["i0", "i1", "i2"]}


def test_item_first_files_need_their_columns_in_that_order(ingest_text, sequences):
    rows = [(item, user, 4.0, time) for user, item, time in ROWS]
    ingest_text(table(rows, header=None), columns="item,user,rating,timestamp")
    assert sequences() == {"u1": ["i0", "i1", "i2"]}


def test_columns_also_name_a_file_whose_header_is_unknown(ingest_text, sequences):
    card = ingest_text(table(ROWS, header="who,what,when"), columns="user,item,timestamp")
    assert card["rows"]["read"] == 3
    assert sequences() == {"u1": ["i0", "i1", "i2"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "no user and no item column found; its first line has 'who', 'what', 'when'"),
        ("user,item", "names 2 columns, but the rows of .* have 3"),
        ("user,item,wen", "'wen' unknown"),
        ("user,user,timestamp", "'user' unknown or there twice"),
        ("user,-,timestamp", "must name a user and an item column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(ingest_text, columns, message):
    with pytest.raises(InputError, match=message):
        ingest_text(table(ROWS, header="who,what,when"), columns=columns)


@pytest.mark.parametrize("form", ["{}", "{}.0", "{}123", "{}123456"])
def test_times_in_any_unit_become_seconds(ingest_text, home, form):
    ingest_text(table([(u, i, form.format(t)) for u, i, t in ROWS]))
    stored = pq.read_table(home.tables("Shop") / "interactions.parquet")["timestamp"]
    assert stored.to_pylist() == [time for _, _, time in ROWS]


def test_rows_are_ordered_by_time_then_by_the_file(ingest_text, sequences):
    rows = [("u", "i3", 30), ("u", "i9", 10), ("u", "i1", 10), ("u", "i2", 20)]
    ingest_text(table(rows))
    assert sequences() == {"u": ["i9", "i1", "i2", "i3"]}


def test_without_times_the_file_is_the_order(ingest_text, sequences, home):
    card = ingest_text("user,item\nu,i2\nu,i1\nv,i5\nu,i0\n")
    assert sequences() == {"u": ["i2", "i1", "i0"]}
    assert card["tied_timestamps"] is None
    assert pq.read_table(home.tables("Shop") / "interactions.parquet")["timestamp"].null_count == 4


NEWEST_FIRST = [
    lambda n: f"160000000000{n}",  # ms
    lambda n: f"160000000000000{n}",  # us
    lambda n: f"160000000000000000{n}",  # ns
    lambda n: f"1600000000.{n}",
    lambda n: f"1600000000000.{n}",
    lambda n: f"2020-09-13T12:26:40.00{n}Z",
    lambda n: f"2020/09/13 12:26:40.{n} UTC",
    lambda n: f"13.09.2020 12:26:40.{n}",
    lambda n: ("1600000000", "1600000000001", "1600000000002000")[n],  # s, ms, us
    lambda n: f"0.{n + 1}",  # numbers that only grow
]


@pytest.mark.parametrize("form", NEWEST_FIRST)
def test_order_within_a_second_is_that_of_the_times(ingest_text, sequences, home, form):
    rows = [("u1", f"i{n}", form(n)) for n in (2, 1, 0)]
    card = ingest_text(table(rows))
    assert sequences() == {"u1": ["i0", "i1", "i2"]}
    assert card["tied_timestamps"] == 0
    stored = pq.read_table(home.tables("Shop") / "interactions.parquet")
    assert len(set(stored["timestamp"].to_pylist())) == 1
    by_order = stored.sort_by([("timestamp", "ascending"), ("order", "ascending")])
    assert by_order["item_id"].to_pylist() == ["i0", "i1", "i2"]


def test_rows_of_one_exact_time_keep_the_order_of_the_file(ingest_text, sequences, home):
    rows = [("u1", item, time) for item, time in zip("cabd", (2500, 1500, 1500, 500), strict=True)]
    rows = [(user, item, 1_600_000_000_000 + time) for user, item, time in rows]
    items = "item_id,title\n" + "".join(f"{each},T\n" for each in "abcd")
    card = ingest_text(table(rows), items)
    assert sequences() == {"u1": ["d", "a", "b", "c"]}
    assert card["tied_timestamps"] == 0.5
    order = pq.read_table(home.tables("Shop") / "interactions.parquet")["order"].to_pylist()
    assert [each & 2**ORDER_BITS - 1 for each in order] == [0, 1, 2, 3]


def test_times_in_whole_seconds_have_the_number_of_the_row_as_their_order(ingest_text, home):
    ingest_text(table([(u, i, f"{t}000") for u, i, t in ROWS]))
    stored = pq.read_table(home.tables("Shop") / "interactions.parquet")
    assert stored["order"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("factors", [(1, 1000), (1000, 1), (10**6, 1, 10**9)])
def test_units_that_differ_from_row_to_row_are_told_apart_and_counted(
    ingest_text, sequences, tables_card, caplog, factors
):
    rows = [
        ("u1", f"i{n}", (1_600_000_000 + n) * factor)
        for n, factor in zip(range(12), factors * 6, strict=False)
    ]
    items = "item_id,title\n" + "".join(f"i{n},T\n" for n in range(12))
    ingest_text(table(rows[::-1]), items)
    assert sequences() == {"u1": [f"i{n}" for n in range(12)]}
    units = tables_card()["interactions"]["time_units"]
    assert sum(units.values()) == 12
    assert len(units) == len(set(factors))
    assert "units differ: " in caplog.text


@pytest.mark.parametrize(
    "absurd", ["-1", "5", "86400", "2147483647", "99999999999999", "1900-01-01", "2999-12-31"]
)
@pytest.mark.parametrize("scale", [1, 1000])
def test_absurd_times_never_go_to_the_front(ingest_text, sequences, caplog, absurd, scale):
    rows = [(user, item, time * scale) for user, item, time in ROWS]
    card = ingest_text(table([("u1", "i7", absurd), *rows]))
    assert sequences() == {"u1": ["i0", "i1", "i2"]}
    assert card["rows"]["dropped"] == {"implausible time (before 1990 or after 2037)": 1}
    assert f"1 times are before 1990 or after 2037, e.g. '{absurd}'" in caplog.text


def test_mostly_absurd_times_are_refused_with_the_way_out(ingest_text, sequences):
    rows = [
        *((user, item, n) for n, (user, item, _) in enumerate(ROWS)),
        ("u1", "i1", 1_600_000_000),
    ]
    text = table([*rows, ("u1", "i2", 9)])
    with pytest.raises(InputError, match=r"3 of 5 times .* before 1990 .* --times numbers"):
        ingest_text(text)
    ingest_text(text, times="numbers")
    assert sequences() == {"u1": ["i0", "i1", "i2", "i2", "i1"]}


def test_the_way_to_write_dates_can_be_said(ingest_text, sequences):
    text = table(
        [("u1", "i2", "01/03/2020"), ("u1", "i0", "02/01/2020"), ("u1", "i1", "03/02/2020")]
    )
    with pytest.raises(InputError, match="--times day-first or --times month-first"):
        ingest_text(text)
    ingest_text(text, times="day-first")
    assert sequences() == {"u1": ["i0", "i1", "i2"]}
    ingest_text(text, times="month-first")
    assert sequences() == {"u1": ["i2", "i0", "i1"]}


def test_a_day_far_down_tells_the_order_of_all(ingest_text, sequences):
    rows = [("v", "i1", f"0{1 + n % 9}/0{1 + n % 7}/2020") for n in range(30_000)]
    rows += [("u1", "i1", "02/01/2020"), ("u1", "i0", "01/02/2020"), ("u1", "i2", "13/02/2020")]
    card = ingest_text(table(rows))
    assert card["detected"]["interactions"]["time"] == "date, day first"
    assert sequences()["u1"] == ["i1", "i0", "i2"]


def test_empty_times_are_dropped_and_a_column_of_them_is_none(ingest_text, sequences):
    card = ingest_text(table([*ROWS, ("u1", "i7", ""), ("u1", "i8", " ")]))
    assert card["rows"]["dropped"] == {"unreadable time": 2}
    card = ingest_text(table([(user, item, "") for user, item, _ in ROWS[::-1]]))
    assert card["detected"]["interactions"]["time"] == "none: the order of the rows counts"
    assert sequences() == {"u1": ["i2", "i1", "i0"]}


def test_times_of_zero_are_kept_and_counted(ingest_text, tables_card, sequences):
    ingest_text(table([*ROWS, ("u1", "i7", 0)]))
    assert tables_card()["interactions"]["zero_times"] == 1
    assert sequences() == {"u1": ["i7", "i0", "i1", "i2"]}


def test_times_of_zero_of_dropped_rows_are_not_counted(ingest_text, tables_card):
    ingest_text("user,item,ts\nu,i1,0\nu,i2,1\nu,i3,2\n,i4,0\nu,,0\n")
    assert tables_card()["interactions"]["zero_times"] == 1
    assert tables_card()["interactions"]["kept"] == 3


def test_repeats_are_kept_or_only_the_first_in_time(ingest_text, sequences):
    text = table([*ROWS, ("u1", "i2", 1_500_000_005), ("u1", "i3", 1_700_000_000)])
    ingest_text(text)
    assert sequences() == {"u1": ["i2", "i0", "i1", "i2", "i3"]}
    card = ingest_text(text, repeats="first")
    assert sequences() == {"u1": ["i2", "i0", "i1", "i3"]}
    assert card["rows"]["dropped"] == {"repeat of an earlier row": 1}


def test_columns_that_contradict_the_header_are_refused(ingest_text):
    with pytest.raises(InputError, match=r"takes field 2 of .* as user, but .* names it 'item_id'"):
        ingest_text(table(ROWS), columns="item,user,timestamp")


def test_columns_choose_between_two_columns_of_one_kind(ingest_text, sequences):
    text = table([(u, "p", i, t) for u, i, t in ROWS], header="user_id,parent_asin,asin,ts")
    ingest_text(text, columns="user,-,item,timestamp")
    assert sequences() == {"u1": ["i0", "i1", "i2"]}


def test_a_header_of_unknown_names_is_no_interaction(ingest_text):
    text = "who,what\n" + "".join(f"u1,i{n}\n" for n in range(4))
    assert ingest_text(text, columns="user,item")["rows"]["read"] == 4


def test_hostile_ids_survive_as_they_are(ingest_text, sequences, tmp_path):
    ids = ['a"b', "tab\there", "line\nbreak", "../../etc/passwd", "ключ", "007", "a,b", "x::y"]
    quoted = ['"' + each.replace('"', '""') + '"' for each in ids]
    items = "item_id,title\n" + "".join(f"{each},T\n" for each in quoted)
    (tmp_path / "pics").mkdir()
    (tmp_path / "passwd.jpg").write_bytes(b"x")
    text = "user,item,ts\n" + "".join(f"u,{each},{n}\n" for n, each in enumerate(quoted))
    card = ingest_text(text, items, images=tmp_path / "pics")
    assert sequences() == {"u": ids}
    assert card["items_without_image"] == len(ids)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(ingest_text, sequences, home, encoding, end):
    items = f"item_id,title{end}" + "".join(f"{i},Café{end}" for _, i, _ in ROWS)
    text = table(ROWS).replace("\n", end).replace("u1", "Zoë")
    ingest_text(text.encode(encoding), items.encode(encoding))
    assert sequences() == {"Zoë": ["i0", "i1", "i2"]}
    assert pq.read_table(home.target("Shop") / "items.parquet")["text"][0].as_py() == "Café"


def test_a_latin_1_byte_far_down_is_read(ingest_text, sequences):
    filler = "".join(f"v,i1,{1_600_000_000 + n}\n" for n in range(100_000))
    late = "".join(f"Zo\xeb,i{n},160000000{n}\n" for n in (1, 2, 3))
    text = table(ROWS) + filler + late
    card = ingest_text(text.encode("latin-1"))
    assert sequences()["Zoë"] == ["i1", "i2", "i3"]
    assert card["detected"]["interactions"]["encoding"] == "latin-1"


def test_gz_reads_as_plain_and_a_cut_one_is_refused(ingest_text, sequences, home):
    packed = gzip.compress(table(ROWS).encode(), mtime=0)
    ingest_text(packed)
    manifest = (home.target("Shop") / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="is damaged or was cut off"):
        ingest_text(packed[:-12])
    assert sequences() == {"u1": ["i0", "i1", "i2"]}
    assert (home.target("Shop") / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(
    ("items", "texts"),
    [
        ("item_id,title\ni0,A &amp; B\ni1,b\ni2,c\n", ["A & B", "b", "c"]),
        ("item,title,description\ni0,a,<b>x</b>\ni1,b,\ni2,c,z\n", ["a. x", "b", "c. z"]),
        ("i0,a\ni1,b\ni2,c\n", ["a", "b", "c"]),
        ("i0::War: IV::Action\ni1::b::c\ni2::d::e\n", ["War: IV. Action", "b. c", "d. e"]),
        ("movieId,title,genres\ni0,a,X|Y\ni1,b,\ni2,c,\n", ["a", "b", "c"]),
        ("item_id:token\ttitle:token_seq\ni0\ta\ni1\tb\ni2\tc\n", ["a", "b", "c"]),
    ],
)  # fmt: skip
def test_items_files_in_several_forms(ingest_text, home, items, texts):
    ingest_text(table(ROWS), items)
    table_ = pq.read_table(home.target("Shop") / "items.parquet")
    assert table_["text"].to_pylist() == texts


def test_pictures_come_from_the_named_path_or_the_id(ingest_text, home, tmp_path):
    for name in ("i0.jpg", "sub/cover7.png"):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).write_bytes(b"x")
    items = "item_id,title,image_path\ni0,a,\ni1,b,sub/cover7.png\ni2,c,../../secret.png\n"
    card = ingest_text(table(ROWS), items, images=tmp_path / "pics")
    images = pq.read_table(home.target("Shop") / "items.parquet")["image"].to_pylist()
    assert images == ["i0.jpg", "sub/cover7.png", None]
    assert card["pictures"] == str(tmp_path / "pics")
    assert card["items_without_image"] == 1


@pytest.mark.parametrize("text", ["", "user_id,item_id,timestamp\n"])
def test_files_without_rows_are_refused(ingest_text, text):
    with pytest.raises(InputError, match=r"is empty|has no rows"):
        ingest_text(text)


def test_items_that_match_no_interaction_are_refused(ingest_text):
    told = "item not in the items file: 3 rows.* look like 'i0', 'i1', 'i2', .* like 'other'"
    with pytest.raises(InputError, match=told):
        ingest_text(table(ROWS), "item_id,title\nother,a\n")


def test_interactions_without_rows_and_times_are_refused(ingest_text):
    with pytest.raises(InputError, match="the file of interactions has no rows"):
        ingest_text("user_id,item_id\n")


@pytest.mark.parametrize("names", ["art no,title,price", "art no,price,label"])
def test_items_whose_id_column_is_unknown_are_refused(ingest_text, names):
    items = names + "\n" + "".join(f"i{n},Title,9\n" for n in range(3))
    with pytest.raises(InputError, match="no item column found; its first line has 'art no'"):
        ingest_text(table(ROWS), items)


def test_files_swapped_by_mistake_are_refused(ingest_text, tmp_path):
    items = "item_id,title\ni0,a\n"
    with pytest.raises(InputError, match="were --interactions and --items swapped"):
        ingest_text(items, table(ROWS))
    with pytest.raises(InputError, match="were --interactions and --items swapped"):
        ingest_text(table(ROWS), table(ROWS), images=tmp_path)


def test_users_too_short_to_split_are_refused(ingest_text):
    with pytest.raises(InputError, match="no user has 3 interactions"):
        ingest_text(table(ROWS[:2]))


def test_a_temporal_split_keeps_users_with_all_three_parts(ingest_text, home, adds_up):
    rows = [(f"u{u}", f"i{t % 10}", t) for u in range(3) for t in range(0, 100, 5)]
    rows += [("early", f"i{t}", t) for t in range(5)]
    card = ingest_text(table(rows), split="temporal")
    found = pq.read_table(home.target("Shop") / "sequences.parquet").to_pylist()
    assert [row["user_id"] for row in found] == ["u0", "u1", "u2"]
    assert card["rows"]["dropped"] == {"outside the temporal split": 5 + 3 * 3}
    assert adds_up(card)


def test_sampling_takes_that_many_users_and_larger_samples_hold_smaller(ingest_text, sequences):
    rows = [(f"u{u}", f"i{n}", n) for u in range(30) for n in range(3)]
    chosen = []
    for users in (5, 12, 12):
        ingest_text(table(rows), users=users, seed=3)
        chosen.append(set(sequences()))
    assert [len(each) for each in chosen] == [5, 12, 12]
    assert chosen[0] < chosen[1] == chosen[2]
    ingest_text(table(rows), users=12, seed=4)
    assert set(sequences()) != chosen[1]


def test_items_are_numbered_by_id_and_counted_in_train_only(ingest_text, home):
    rows = [("u", item, n) for n, item in enumerate(["i9", "i2", "i9", "i5", "i2"])]
    card = ingest_text(table(rows), cold_below=2)
    items = pq.read_table(home.target("Shop") / "items.parquet").to_pylist()
    assert [(row["item"], row["item_id"], row["train_count"]) for row in items] == [
        (1, "i2", 1),
        (2, "i5", 0),
        (3, "i9", 2),
    ]
    cold = pq.read_table(home.target("Shop") / "cold.parquet").to_pylist()
    assert [(row["position"], row["target"]) for row in cold] == [(1, 1), (3, 2), (4, 1)]
    assert card["cold"] == {"items": 2, "cuts": 3}


def test_statistics_are_those_of_table_two(ingest_text):
    rows = [*ROWS, *(("u2", f"i{n}", 1_600_000_000 + n) for n in range(4))]
    stats = ingest_text(table(rows))["statistics"]
    expected = {"users": 2, "items": 4, "actions": 7, "average_length": 3.5}
    assert {name: stats[name] for name in expected} == expected
    assert math.isclose(stats["sparsity_per_cent"], 100 * (1 - 7 / 8))


def test_repeats_do_not_make_a_target_denser_than_full(ingest_text):
    stats = ingest_text(table([("u1", "i0", n) for n in range(4)] + [("u1", "i1", 9)]))[
        "statistics"
    ]
    assert (stats["actions"], stats["sparsity_per_cent"]) == (5, 0.0)


def test_a_rerun_does_nothing_and_a_changed_option_rebuilds_the_target(ingest_text, home):
    assert ingest_text(table(ROWS))["fresh"]
    tables = (home.tables("Shop") / "manifest.json").stat().st_mtime_ns
    assert not ingest_text(table(ROWS))["fresh"]
    assert ingest_text(table(ROWS), cold_below=3)["fresh"]
    assert (home.tables("Shop") / "manifest.json").stat().st_mtime_ns == tables
    assert ingest_text(table([*ROWS, ("u1", "i5", 9)]), cold_below=3)["rows"]["read"] == 4


@pytest.mark.parametrize(
    ("items", "categories"),
    [
        ("movieId,title,genres\ni0,a,X|Y\ni1,b,\ni2,c,(no genres listed)\n", [["X", "Y"], [], []]),
        ("item,title,class:token_seq\ni0,a,X Y\ni1,b, \ni2,c,Z\n", [["X", "Y"], [], ["Z"]]),
        ("item,title,tag\ni0,a,X Y;Z\ni1,b,\ni2,c,Z\n", [["X Y", "Z"], [], ["Z"]]),
    ],
)
def test_categories_are_kept_apart_from_the_text(ingest_text, home, items, categories):
    ingest_text(table(ROWS), items)
    found = pq.read_table(home.tables("Shop") / "items.parquet")
    assert found["categories"].to_pylist() == categories
    assert found["text"].to_pylist() == ["a", "b", "c"]


def test_item_columns_that_stand_in_the_file_too_are_no_item(tmp_path, home):
    (tmp_path / "inter").write_text(table(ROWS))
    (tmp_path / "items").write_text("item|title|Fun\n" + "".join(f"i{n}|T|1\n" for n in range(3)))
    files = CsvFiles(
        interactions=tmp_path / "inter", items=tmp_path / "items", item_columns="item,title,tag Fun"
    )
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    ingest_csv(home, "Shop", files, options)
    assert (
        pq.read_table(home.tables("Shop") / "items.parquet")["categories"].to_pylist()
        == [
            ["Fun"],
        ]
        * 3
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("item,title,colour", "name the columns item, title"),
        ("title,description,-", "item must be among them"),
        ("item,title", "its rows have 3 fields, but 2 were expected"),
    ],
)
def test_item_columns_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(InputError, match=message):
        parse_item_columns(columns, 3, "items.dat")


def test_columns_tell_two_delimiters_apart(ingest_text, sequences):
    rows = [f"u1\t{item},x\t{n}" for n, item in enumerate(("i0,a,b", "i1,a,b", "i2,a,b"))]
    ids = "".join(f'"{item}",T\n' for item in ("i0,a,b,x", "i1,a,b,x", "i2,a,b,x"))
    ingest_text("\n".join(rows), "item_id,title\n" + ids, columns="user,item,timestamp")
    assert sequences() == {"u1": ["i0,a,b,x", "i1,a,b,x", "i2,a,b,x"]}


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_a_name_that_is_no_folder_is_refused(home, tmp_path, name):
    files = CsvFiles(interactions=tmp_path / "a", items=tmp_path / "b")
    with pytest.raises(InputError, match="cannot name a target"):
        ingest_csv(home, name, files, IngestOptions())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HM", '"HM" is what the source hm makes'),
        ("hm-shoes", '"HM Shoes" is what the source hm makes'),
        *((name, f'"{name}" is what the source .* makes') for name in (*SOURCES, *TARGETS)),
        ("kwai  movie", '"Kwai Movie" is what the source kwai makes'),
        ("BILI", '"Bili" is what the source bili makes'),
        ("amazon-clothes", '"Amazon Clothes" is what the source amazon makes'),
        ("x" * 300, "take 100 bytes at most"),
    ],
)
def test_a_name_that_is_taken_or_too_long_is_refused(home, tmp_path, name, message):
    files = CsvFiles(interactions=tmp_path / "a", items=tmp_path / "b")
    with pytest.raises(InputError, match=message):
        ingest_csv(home, name, files, IngestOptions())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "--interactions .* is a folder; expected is one file"),
        ("none.csv", r"none.csv cannot be read \(No such file"),
        ("x" * 300, r"cannot be read \(File name too long\)"),
        ("/dev/null", "is no plain file"),
    ],
)
def test_what_is_no_file_is_refused(home, tmp_path, path, message):
    files = CsvFiles(interactions=tmp_path / path, items=tmp_path / "b")
    with pytest.raises(InputError, match=message):
        ingest_csv(home, "Shop", files, IngestOptions())


@pytest.mark.parametrize(
    ("option", "least"), [("user_core", 0), ("item_core", 0), ("cold_below", 0), ("users", 1)]
)
def test_options_below_their_least_value_are_refused(option, least):
    with pytest.raises(InputError, match=f"{least - 1}: must be at least {least}"):
        IngestOptions(**{option: least - 1})


def test_the_summary_says_where_the_rows_went(ingest_text):
    late = 1_600_000_007
    rows = [*ROWS, ("u1", "other", late), *(("u2", f"i{n}", late + n) for n in range(2))]
    said = summarise_cards([ingest_text(table(rows), user_core=3)])
    assert said.splitlines()[1].split() == ["Shop", "1", "3", "3", "3.00", "0.00", "written"]
    assert (
        "Shop: 6 rows read, 3 kept; dropped: 1 item not in the items file, 2 core (1 round)" in said
    )
