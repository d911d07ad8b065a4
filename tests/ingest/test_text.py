import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.ingest.readers.text import LONGEST_RAW, LONGEST_TEXT, clean_text, clean_title


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a \t b\r\n c  ", "a b c"),
        ("Tom &amp; Jerry&#39;s &eacute;t&eacute;", "Tom & Jerry's été"),
        ("<p>Soft<br/>cotton</p>", "Soft cotton"),
        ("a<style>.x{color:red}</style>b", "a b"),
        ('x<script type="a">if (a<b) {"<p>"}</script >y', "x y"),
        ("cut <script>never closed", "cut"),
        ("<!-- hidden <b> -->seen", "seen"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("size 5 < 6 > 4 & more", "size 5 < 6 > 4 & more"),
        ("I <3 it", "I <3 it"),
        ("e\u0301", "é"),
        ("nul\x00 and bell\x07", "nul and bell"),
        ("no\u00a0break", "no break"),
        ("漢字 &quot;かな&quot;", '漢字 "かな"'),
        ("", ""),
        (" \n ", ""),
        ("<br>", ""),
        ('<span class="a-size-medium a-color-secondary"', ""),
        ('Monthly <span class="a-size', "Monthly"),
        ("Monthly <div", "Monthly"),
        ("Monthly <a href=x", "Monthly"),
        ("bold</b", "bold"),
        ("&lt;span class=&quot;x", ""),
        ("a <b", "a <b"),
        ("for x <y in z", "for x <y in z"),
        (None, ""),
    ],
)
def test_text_reads_as_a_reader_would_see_it(raw, clean):
    assert clean_text(raw) == clean


@given(st.text())
def test_clean_text_is_one_nfc_line_without_outer_space(raw):
    clean = clean_text(raw)
    assert clean == " ".join(clean.split())
    assert unicodedata.is_normalized("NFC", clean)


@pytest.mark.parametrize(
    "raw",
    [
        ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{border-color:#e77600}",
        "var aPageStart = (new Date()).getTime();",
        "(function(f) {var _np=(window.P._namespace)",
        "function init() {}",
        "<!-- nav -->Tee",
        "<script type='text/javascript'>var ue_t0=1</script>",
        "<style>.x{}</style> Tee",
        "",
        None,
    ],
)
def test_a_title_that_is_a_page_s_code_is_no_title(raw):
    assert clean_title(raw) == ""


@pytest.mark.parametrize(
    "title",
    [
        "Function (2) Pack",
        "Variety Pack {Small}",
        "Women's No. 5 Shoes: Red",
        "Var 5 = good",
        "A.B.C. {Book: 1}",
    ],
)
def test_a_title_that_only_resembles_code_stays(title):
    assert clean_title(title) == title


def seconds(raw):
    """Of this process alone, the best of three: other work on the machine does not count."""
    found = []
    for _ in range(3):
        start = time.process_time()
        clean_title(raw)
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.parametrize(
    "piece",
    [
        *("<script", "<style ", "<script>", "</script ", "<!--", "<!-", "<", "</", "<a =", "<a\t"),
        *("<script><style>", "<div ", "&", "&#9", "&lt;script", "&lt;!--", "var ", ".aa-", " .a"),
        *("a\u0301\u0327", "\u0327\u0301", "\u0f73", "\u0344", "\u200b", "\x00", " ", "\u2126"),
    ],
)
def test_time_grows_with_the_length_of_a_text_and_not_with_its_square(piece):
    short, long = (piece * (n // len(piece)) for n in (12_500, 100_000))
    clean_title(short)
    assert seconds(long) < 24 * seconds(short) + 0.05  # linear: 8 times; quadratic: 64


def test_of_a_long_text_the_beginning_is_read():
    assert clean_text("<p>" * (LONGEST_RAW // 3) + "x" + "never read") == "x"
    assert clean_text("word " * 10**6) == ("word " * 10**6)[:LONGEST_TEXT].rstrip()
    assert clean_text("a" * LONGEST_TEXT + "b") == "a" * LONGEST_TEXT


def test_marks_in_a_row_are_as_many_as_a_script_can_need():
    assert clean_text("a" + "\u0327\u0301" * 500 + "b") == unicodedata.normalize(
        "NFC", "a" + "\u0327\u0301" * 15 + "b"
    )
    kept = "a" + "\u0301\u0327" * 15
    assert clean_text(kept) == unicodedata.normalize("NFC", kept)


def test_numbers_of_thousands_of_digits_are_no_trouble():
    assert clean_text(f"&#{'9' * 5000}; &#{'0' * 5000}65; &#x{'0' * 5000}41;") == "\ufffd A A"
