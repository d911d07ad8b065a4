"""Which encoding a file is taken for, and what becomes of bytes that are not of it."""

import gzip

import pytest

from pmm.errors import InputError
from pmm.ingest.readers.encodings import MARK, find_encoding, known_encoding, read_blocks

TITLES = {
    "gb18030": ["红色运动鞋", "蓝色长裤", "儿童玩具", "手机壳 苹果11", "今天教大家做红烧肉"],
    "big5": ["紅色運動鞋", "藍色長褲", "短袖襯衫", "男士休閒夾克 2020", "廚房收納架多層置物架"],
    "shift_jis": ["赤いスニーカー", "青いズボン", "半袖シャツ", "料理動画 とてもおいしい"],
    "euc_jp": ["赤いスニーカー", "青いズボン", "半袖シャツ", "キッチン収納ラック"],
    "euc_kr": ["빨간 운동화", "파란 바지", "반팔 셔츠", "맛있는 음식 영상"],
    "cp1251": ["Красные кроссовки", "Синие брюки", "Чехол для телефона"],
    "koi8-r": ["Красные кроссовки", "Синие брюки", "Чехол для телефона"],
    "cp1252": ["Größe L", "L’étagère de cuisine – forêt", "Zapatillas niño", "Café"],
    "latin-1": ["Rote Schuhe für Männer", "Pantalon délavé", "Pantalón azul"],
    "cp1250": ["Czerwone buty męskie", "Niebieskie spodnie długie", "Półka kuchenna"],
    "cp1253": ["Κόκκινα παπούτσια", "Μπλε παντελόνι", "Πουκάμισο"],
    "utf-16": ["红色运动鞋", "Größe L"],
    "utf-16-le": ["红色运动鞋", "蓝色长裤", "Größe L"],
    "utf-16-be": ["赤いスニーカー", "Синие брюки"],
    "utf-8-sig": ["红色运动鞋", "Größe L"],
    "iso2022_jp": ["赤いスニーカー", "青いズボン"],
}


def text_of(path, asked=None):
    name = find_encoding(path, known_encoding(asked)).name
    return b"".join(block.data for block in read_blocks(path, name)).decode()


@pytest.mark.parametrize("encoding", TITLES)
@pytest.mark.parametrize("rows", [4, 8, 300])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_titles_come_out_right_in_any_encoding(tmp_path, encoding, rows, end):
    titles = TITLES[encoding]
    lines = ["item_id,title", *(f"i{n},{titles[n % len(titles)]}" for n in range(rows))]
    path = tmp_path / "items.csv"
    raw = (end.join(lines) + end).encode(encoding)
    path.write_bytes(gzip.compress(raw) if rows == 8 else raw)
    assert text_of(path).split("\n")[:-1] == lines
    if encoding not in ("utf-8-sig", "latin-1"):
        assert find_encoding(path).why


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"i2,Red shoe num\xffber", f"i2,Red shoe num{MARK}ber"),
        ("i2,美食视频".encode()[:-1], f"i2,美食视{MARK}"),
        (b"i2,\xe7\xbe", f"i2,{MARK}"),
        (b"i2\xe7,title", f"i2{MARK},title"),
        (b"i2,a\xc0\x80b\xed\xa0\x80", f"i2,a{MARK * 2}b{MARK * 3}"),
    ],
)
@pytest.mark.parametrize("others", ["Shoe {}", "鞋 {}", "Ñandú {}"])
def test_a_bad_byte_changes_no_other_line(tmp_path, line, read, others):
    path = tmp_path / "items.csv"
    lines = [f"i{n},{others.format(n)}" for n in range(9)]
    raw = [each.encode() for each in lines]
    lines[2], raw[2] = read, line
    path.write_bytes(b"\r\n".join(raw) + b"\r\n")
    assert find_encoding(path).name == "utf-8"
    assert text_of(path).split("\n")[:-1] == lines
    (block,) = read_blocks(path, "utf-8")
    assert block.bad == {2}


@pytest.mark.parametrize("encoding", ["gb18030", "cp949", "cp932", "cp1251", "latin-1", "big5"])
def test_a_bad_byte_in_another_encoding_changes_no_other_line(tmp_path, encoding):
    titles = TITLES[{"cp949": "euc_kr", "cp932": "shift_jis"}.get(encoding, encoding)]
    lines = [f"i{n},{titles[n % len(titles)]}" for n in range(9)]
    raw = [each.encode(encoding) for each in lines]
    raw[4] = raw[4][:4] + b"\x81"
    path = tmp_path / "items.csv"
    path.write_bytes(b"\n".join(raw))
    found = text_of(path).split("\n")[:-1]
    assert found[:4] + found[5:] == lines[:4] + lines[5:]


def test_what_the_user_says_goes_before_what_is_detected(tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes("i1,Größe\ni2,Café\n".encode("cp1252"))
    assert text_of(path, "iso-8859-2") == "i1,Größe\ni2,Café\n".encode("cp1252").decode("iso8859-2")
    assert MARK in text_of(path, "utf-8")
    with pytest.raises(InputError, match=r"2 of 2 lines that are not ASCII do not fit"):
        text_of(path, "ascii")
    path.write_bytes(b"i1,Shoe\n")
    for asked in ("gbk", "utf-16", "ascii"):  # a file of ASCII is read as it is
        assert text_of(path, asked) == "i1,Shoe\n"
    path.write_bytes("i1,鞋\n".encode("utf-16"))
    assert text_of(path, "gbk") == "i1,鞋\n"  # its byte-order mark is the better witness


def test_what_no_encoding_fits_is_refused_with_its_line(tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes(b"id,title\n" + b"".join(b"i%d,num\xffber%d\n" % (n, n) for n in range(30)))
    with pytest.raises(InputError, match=r"30 of 30 lines .*first is line 2.*--encoding"):
        find_encoding(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("utf-9", "utf-8"), ("gb1803", "gb18030"), ("base64", "known: utf-8"), ("cp1521", "cp125")],
)
def test_an_unknown_encoding_is_refused_with_the_nearest(name, hint):
    with pytest.raises(InputError, match=rf"is no encoding of text: .*{hint}"):
        known_encoding(name)
