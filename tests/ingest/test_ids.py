"""Ids are the same in any Unicode form; those that a spreadsheet has changed are proposed."""

import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.readers.ids import nfc_all
from pmm.ingest.readers.pairs import detect_pairs


def form(name: str, text: str) -> str:
    return unicodedata.normalize(name, text)


def interactions(item: str = "café{}", user: str = "ü{}") -> str:
    rows = [(user.format(u), item.format(i)) for u in range(4) for i in range(6)]
    return "user,item\n" + "".join(f"{u},{i}\n" for u, i in rows)


def items(item: str = "café{}") -> str:
    return "item_id,title\n" + "".join(f"{item.format(i)},Title {i}\n" for i in range(6))


@pytest.mark.parametrize("inner", ["NFC", "NFD"])
@pytest.mark.parametrize("outer", ["NFC", "NFD"])
def test_ids_are_compared_in_nfc_and_items_keep_theirs(ingest_text, home, inner, outer):
    card = ingest_text(form(inner, interactions()), form(outer, items()))
    assert card["statistics"]["items"] == 6
    kept = pq.read_table(home.target("Shop") / "items.parquet")["item_id"].to_pylist()
    assert kept == [form(outer, f"café{i}") for i in range(6)]


def test_rows_that_were_brought_to_nfc_are_counted(ingest_text, tables_card):
    ingest_text(interactions("a{}", "b{}"), items("a{}"))
    assert "ids_in_another_unicode_form" not in tables_card()["interactions"]
    ingest_text(form("NFD", interactions("a{}", "ü{}")), items("a{}"))
    assert tables_card()["interactions"]["ids_in_another_unicode_form"] == 24


def test_a_user_and_an_item_written_in_two_forms_are_one(ingest_text, sequences):
    rows = form("NFC", interactions()) + form("NFD", interactions()).split("\n", 1)[1]
    card = ingest_text(rows, items())
    assert (card["statistics"]["users"], card["statistics"]["items"]) == (4, 6)
    assert {len(each) for each in sequences().values()} == {12}


def test_an_item_that_is_listed_in_two_forms_is_counted_as_repeated(ingest_text, tables_card):
    second = form("NFD", items()).split("\n", 1)[1]
    ingest_text(interactions(), form("NFC", items()) + second + second)
    counts = tables_card()["items"]
    assert counts["kept"] == 6
    assert counts["dropped"] == {"item id repeated in another Unicode form": 12}


def test_pictures_of_names_in_another_form_are_found(ingest_text, home, tmp_path):
    (tmp_path / "pics").mkdir()
    for i in range(6):
        (tmp_path / "pics" / form("NFD", f"café{i}.jpg")).write_bytes(b"x")
    ingest_text(interactions(), items(), images=tmp_path / "pics", missing_image="drop")
    images = pq.read_table(home.target("Shop") / "items.parquet")["image"].to_pylist()
    assert images == [form("NFD", f"café{i}.jpg") for i in range(6)]


def test_the_column_of_items_is_found_whatever_form_their_ids_have(tmp_path):
    path = tmp_path / "pair.csv"
    path.write_text("".join(f"{form('NFD', f'é{i}')},u{i % 3},{1e9 + i:.0f}\n" for i in range(50)))
    found = detect_pairs(path, pa.array([form("NFC", f"é{i}") for i in range(50)]))
    assert found.columns["item"] == 0


def test_ids_without_accents_are_left_as_they_are():
    plain = pa.array(["a", "b", None])
    assert nfc_all(plain) is plain
    composed = pa.array(["é", "b"])
    assert nfc_all(composed) is composed
    assert nfc_all(pa.array([], pa.string())).to_pylist() == []


def test_ids_that_a_spreadsheet_has_changed_are_proposed(ingest_text):
    with pytest.raises(InputError, match=r"6 items of the interactions are in the items file but "):
        ingest_text(interactions("{}.0", "u{}"), items("00{}"))


def test_ids_of_which_some_were_changed_are_told_of_and_not_taken(ingest_text, caplog):
    both = interactions("{}", "u{}") + interactions("{}.0", "u{}").split("\n", 1)[1]
    card = ingest_text(both, items("{}"))
    assert card["rows"]["dropped"] == {"item not in the items file": 24}
    assert "6 items of the interactions are in the items file but for" in caplog.text
    assert "'0.0' and '0'" in caplog.text


def test_files_of_other_kinds_are_told_where_pictures_are_missing(ingest_text, tmp_path):
    (tmp_path / "pics").mkdir()
    for i in range(6):
        (tmp_path / "pics" / f"{i}.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"lie 6 files of other kinds \(\.heic 6\)"):
        ingest_text(
            interactions("{}", "u{}"), items("{}"), images=tmp_path / "pics", missing_image="drop"
        )
