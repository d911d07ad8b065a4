"""Files as spreadsheets, R and others write them, and what is told of odd ones."""

import json
import logging
import sys
import zipfile

import pyarrow.parquet as pq
import pytest

from pmm.cli import main
from pmm.errors import InputError
from pmm.ingest.readers.delimited import BAD_ID
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.targets.target_tables import IngestOptions

ROWS = [(f"u{n % 3}", f"i{n * 7 % 5}", 1_500_000_000 + n) for n in range(18)]
HEADER = "user_id,item_id,timestamp"
PLAIN = "\n".join([HEADER, *(f"{user},{item},{time}" for user, item, time in ROWS)]) + "\n"


def form(header: str, row: str, delimiter: str = ",") -> str:
    lines = [header, *(row.format(*each, n) for n, each in enumerate(ROWS, 1))]
    return "\n".join(lines).replace(",", delimiter) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        form(HEADER, "{},{},{},"),  # a delimiter at the end
        form(HEADER + ",", "{},{},{},"),
        form(HEADER, "{3},{0},{1},{2}"),  # names of rows, as R writes them
        form('"user_id" "item_id" "timestamp"', '"{3}" "{0}" "{1}" {2}'),
        form("user_id item_id timestamp", "{}   {}\t{}"),
        form("  user_id item_id timestamp  ", "  {} {} {}  "),
        "sep=;\n" + form(HEADER, "{},{},{}", ";"),
        '"sep=|"\r\n' + form(HEADER, "{},{},{}", "|"),
        "\ufeffsep=,\n" + form(HEADER, '"{}","{}","{}"'),
    ],
)
def test_the_same_rows_in_other_forms(ingest_text, sequences, text):
    ingest_text(PLAIN)
    wanted = sequences()
    card = ingest_text(text)
    assert sequences() == wanted
    assert card["rows"] == {"dropped": {}, "kept": 18, "read": 18}


def test_columns_may_be_named_for_rows_that_end_in_a_delimiter(ingest_text, sequences):
    ingest_text(PLAIN)
    wanted = sequences()
    ingest_text(form("", "{},{},{},").lstrip(), columns="user,item,timestamp")
    assert sequences() == wanted


def test_rows_with_a_field_too_many_are_counted_in_the_message(ingest_text):
    text = form(HEADER, "{},{},{},7")
    with pytest.raises(
        InputError, match=r"18 of its first 18 rows have 4 fields, the header names 3"
    ):
        ingest_text(text)
    assert ingest_text(PLAIN + "u0,i1,1500000099,\n" * 2)["rows"]["kept"] == 20


def test_a_workbook_is_read_as_its_first_sheet(ingest_text, sequences, home, tmp_path):
    pytest.importorskip("python_calamine", reason="the extra xlsx is not installed")
    ingest_text(PLAIN)
    wanted = sequences()
    book = tmp_path / "inter.xlsx"
    write_workbook(book, [HEADER.split(","), *ROWS])
    files = CsvFiles(interactions=book, items=tmp_path / "items.csv")
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    card = ingest_csv(home, "Shop", files, options)[0]
    assert sequences() == wanted
    assert card["detected"]["interactions"]["workbook"] == "its first sheet"


def test_without_the_reader_a_workbook_says_what_to_install(ingest_text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    book = tmp_path / "book.xlsx"
    write_workbook(book, [HEADER.split(","), *ROWS])
    with pytest.raises(InputError, match=r"pip install 'pmmrec\[xlsx\]'"):
        ingest_text(book.read_bytes())


def write_workbook(path, rows):
    """The least that is a workbook: one sheet, texts and numbers in their cells."""
    cells = "".join(
        "<row>"
        + "".join(
            f"<c><v>{value}</v></c>"
            if isinstance(value, int)
            else f'<c t="inlineStr"><is><t>{value}</t></is></c>'
            for value in row
        )
        + "</row>"
        for row in rows
    )
    main_space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="rId1" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main_space}" xmlns:r="{office}"><sheets>'
            '<sheet name="s" sheetId="1" r:id="rId1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="rId1" '
            f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main_space}"><sheetData>{cells}</sheetData></worksheet>',
        )


ITEMS = ["item_id,title", *(f"i{n},鞋 {n} ñandú" for n in range(5))]


def texts(home):
    rows = pq.read_table(home.tables("Shop") / "items.parquet").to_pylist()
    return {row["item_id"]: row["text"] for row in rows}


def test_one_bad_byte_costs_a_character_and_is_told(ingest_text, home, caplog):
    raw = [line.encode() for line in ITEMS]
    raw[3] = raw[3][:-3] + b"\xff" + raw[3][-3:]
    with caplog.at_level(logging.WARNING):
        card = ingest_text(PLAIN, b"\r\n".join(raw))
    wanted = {f"i{n}": f"鞋 {n} ñandú" for n in range(5)}
    assert texts(home) == {**wanted, "i2": "鞋 2 ñan\ufffddú"}
    assert "items.csv: rows with bytes that are not utf-8: 1 (line 4)" in caplog.text
    assert "line 4" in json.dumps(card["detected"]["items"])


def test_a_row_whose_id_has_a_bad_byte_is_dropped_and_counted(ingest_text, adds_up, caplog):
    raw = PLAIN.encode().replace(b"u1,", b"u\xff1,", 2)
    with caplog.at_level(logging.WARNING):
        card = ingest_text(raw)
    assert card["rows"]["dropped"][BAD_ID] == 2
    assert adds_up(card)
    assert "inter.csv: rows with ids that are not utf-8: 2 (lines 3, 6), left out" in caplog.text


def test_another_encoding_is_told_and_can_be_named(ingest_text, home, tmp_path, capsys, caplog):
    titles = ["红色运动鞋", "蓝色长裤", "儿童玩具", "短袖衬衫", "手机壳"]
    raw = "\n".join(["item_id,title", *(f"i{n},{t}" for n, t in enumerate(titles))])
    with caplog.at_level(logging.WARNING):
        ingest_text(PLAIN, raw.encode("gbk"))
    assert list(texts(home).values()) == titles
    assert "items.csv is read as gb18030: 5 of 5 lines" in caplog.text
    files = ["--interactions", str(tmp_path / "inter.csv"), "--items", str(tmp_path / "items.csv")]
    options = ["--missing-image", "text-only", "--user-core", "0", "--item-core", "0"]
    command = ["ingest", "csv", "--home", str(home.root), "--name", "Shop", *files, *options]
    assert run([*command, "--encoding", "latin-1"]) == 0
    assert texts(home)["i0"] == titles[0].encode("gbk").decode("latin-1")
    assert run([*command, "--encoding", "gbk2"]) == 1
    assert 'did you mean "gbk"?' in capsys.readouterr().err


def run(command):
    try:
        return main(command) or 0
    except SystemExit as ended:
        return ended.code or 0


def test_a_quote_that_is_not_closed_costs_no_item(ingest_text, home):
    lines = ["item_id\ttitle", *(f"i{n}\tShoe {n}" for n in range(3000))]
    lines[1000] = 'i999\t"Shoe 999'
    lines[2000] = 'i1999\tShoe 1999"'
    ingest_text(PLAIN, "\n".join(lines))
    found = texts(home)
    assert len(found) == 3000
    assert found["i999"] == '"Shoe 999'
    assert found["i1500"] == "Shoe 1500"


def test_rows_over_lines_are_read_and_told(ingest_text, home, caplog):
    lines = ["item_id,title", *(f'i{n},"Shoe, {n}"' for n in range(9))]
    lines[5] = 'i4,"Shoe, soft\nand warm"'
    with caplog.at_level(logging.WARNING):
        ingest_text(PLAIN, "\n".join(lines))
    assert texts(home)["i4"] == "Shoe, soft and warm"
    assert "rows with line breaks in quotes: 1 (line 6)" in caplog.text


def test_rows_that_cannot_be_parsed_are_told_by_line(ingest_text, caplog):
    text = PLAIN + "u0,i1\n" + "u1,i2,3,4\n"
    with caplog.at_level(logging.WARNING):
        assert ingest_text(text)["rows"]["dropped"] == {"malformed row": 2}
    assert "rows without 3 fields: 2 (lines 20, 21), left out, e.g. 'u0,i1' has 2" in caplog.text
