import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.ingest.readers.text import clean_text, clean_title


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
