import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.ingest.text import clean_text


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
