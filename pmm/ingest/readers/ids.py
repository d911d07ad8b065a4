"""Ids as they are compared: in Unicode's NFC, and which ones differ as a spreadsheet writes them.

A letter with an accent may be written as one sign (NFC) or as two (NFD, as macOS writes names of
files). To a reader both are the same, so they are here.
"""

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^0*([0-9]+)(?:\.0*)?$"


def nfc(text: str) -> str:
    """A text in NFC.

    >>> nfc("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def nfc_all(texts: pa.Array) -> pa.Array:
    """An array of texts in NFC; the array itself where all are.

    >>> nfc_all(pa.array(["cafe\\u0301", "b"])).to_pylist() == ["caf\\u00e9", "b"]
    True
    """
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    composed = pc.utf8_normalize(texts, form="NFC")
    return texts if composed.equals(texts) else composed


def as_number(texts: pa.Array) -> pa.Array:
    """Numbers as a spreadsheet would show them, without leading zeros and `.0`; others stay.

    >>> as_number(pa.array(["0012", "12.0", "12.", "0", "1.20", "a01"])).to_pylist()
    ['12', '12', '12', '0', '1.20', 'a01']
    """
    return pc.replace_substring_regex(texts, pattern=_NUMBER, replacement=r"\1")
