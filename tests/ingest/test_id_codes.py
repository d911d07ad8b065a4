import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.ingest.tables import id_codes as coding
from pmm.ingest.tables.id_codes import IdCodes

PIECES = st.lists(st.lists(st.sampled_from(["", "a", "B", "é", "漢", "zz", "a b"])), max_size=8)


@pytest.mark.parametrize("fold_at", [0, 3, 1 << 20])
def test_codes_ascend_with_the_ids_however_the_column_is_cut(fold_at, monkeypatch):
    monkeypatch.setattr(coding, "_FOLD_AT", fold_at)

    @given(PIECES)
    def check(pieces):
        coder = IdCodes()
        for piece in pieces:
            coder.add(pa.array(piece, pa.string()).dictionary_encode())
        ids, codes = coder.finish()
        rows = [value for piece in pieces for value in piece]
        assert ids.to_pylist() == sorted(set(rows), key=str.encode)
        assert [ids[code].as_py() for code in codes] == rows

    check()
