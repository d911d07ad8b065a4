from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmm.errors import BrokenArtefact, SchemaError
from pmm.storage.schemas import COLD, INTERACTIONS, SEQUENCES, TARGET_ITEMS, read_table, write_table


def items(**changed: list[object]) -> pa.Table:
    columns = {
        "item": [1, 2],
        "item_id": ["a", "b"],
        "text": ["x", ""],
        "image": [None, "b.jpg"],
        "train_count": [0, 3],
    }
    return pa.table({**columns, **changed})


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert write_table(tmp_path / "t.parquet", items(), TARGET_ITEMS) == 2
    found = read_table(tmp_path / "t.parquet", TARGET_ITEMS)
    assert found.schema.names == TARGET_ITEMS.schema.names
    assert found.to_pydict() == items().to_pydict()
    assert read_table(tmp_path / "t.parquet", TARGET_ITEMS, ["image"]).num_columns == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (items().drop_columns(["text"]), r"missing \['text'\]"),
        (items().append_column("more", pa.array([1, 2])), r"unexpected \['more'\]"),
        (items(item=[0, 1]), "item: found 0, the least value allowed is 1"),
        (items(text=["x", None]), "text: 1 empty values"),
        (items(train_count=["many", "few"]), "train_count: string does not fit int32"),
    ],
)
def test_a_wrong_table_is_neither_written_nor_read(
    tmp_path: Path, table: pa.Table, message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        write_table(tmp_path / "t.parquet", table, TARGET_ITEMS)
    pq.write_table(table, tmp_path / "u.parquet")
    with pytest.raises((SchemaError, BrokenArtefact)):
        read_table(tmp_path / "u.parquet", TARGET_ITEMS)


def test_padding_inside_a_list_is_refused(tmp_path: Path) -> None:
    users = {"user": [0], "user_id": ["u"], "train": [[3, 0]], "valid": [1], "test": [1]}
    with pytest.raises(SchemaError, match="train: found 0"):
        write_table(tmp_path / "t.parquet", pa.table(users), SEQUENCES)


def test_coded_strings_written_in_batches_read_back_plain(tmp_path: Path) -> None:
    def batches():
        for start in (0, 2):
            yield pa.RecordBatch.from_pydict(
                {
                    "user_id": pa.array(["u", "v"]).dictionary_encode(),
                    "item_id": pa.array(["a", "a"]).dictionary_encode(),
                    "timestamp": pa.array([1, None], pa.int64()),
                    "order": pa.array([start, start + 1], pa.int64()),
                }
            )

    assert write_table(tmp_path / "t.parquet", batches(), INTERACTIONS) == 4
    found = read_table(tmp_path / "t.parquet", INTERACTIONS)
    assert found.schema.field("user_id").type == pa.string()
    assert found["user_id"].to_pylist() == ["u", "v", "u", "v"]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, items(), TARGET_ITEMS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_stream_gives_an_empty_table(tmp_path: Path) -> None:
    assert write_table(tmp_path / "t.parquet", iter(()), COLD) == 0
    assert read_table(tmp_path / "t.parquet", COLD).num_rows == 0


def test_a_truncated_file_is_a_broken_artefact(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", items(), TARGET_ITEMS)
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(BrokenArtefact, match="target items"):
        read_table(tmp_path / "t.parquet", TARGET_ITEMS)
