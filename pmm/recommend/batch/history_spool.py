"""Histories of a file on disk, a file for each piece of the work, whatever the order of the rows.

Rows of a long file may stand anywhere. So all rows go to parts by their user's hash, each small
enough to be grouped in memory; then users go to pieces, part by part. A file that is no larger than
a part keeps the order of its users.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pmm.errors import BrokenArtefact, InputError
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.ids import nfc_all
from pmm.ingest.readers.plain_file import head_of
from pmm.ingest.tables.interactions import (
    LONG_ID,
    LONGEST_ID,
    NO_ITEM,
    NO_USER,
    ORDER_BITS,
    OTHER_FORM,
)
from pmm.recommend.batch.history_files import HistoryRows, open_histories
from pmm.storage.artefact import write_json
from pmm.storage.json_files import read_json
from pmm.storage.schemas import HISTORIES, read_table, write_table
from pmm.storage.seal import is_damaged, sealed_file
from pmm.storage.verify import sha256_of

logger = logging.getLogger(__name__)

PART_BYTES, MOST_PARTS = 32 << 20, 256
"""Bytes of rows in a part, and parts there are at most; those of a file beyond 8 GiB are larger."""
PACKED = 8
"""How many times as large as a packed file its rows are, at most as a rule."""
DONE = "histories.json"
_PARTS = "parts"
_KEPT = ("zero times", OTHER_FORM)
"""What is counted of rows that stay."""
_MISSING = ("nan", "NaN")
_CALLED_NAN = "user called nan: a missing value that became text"


@dataclass(frozen=True, kw_only=True)
class SpooledHistories:
    """Histories on disk, a file a piece."""

    folder: Path
    users: int
    dropped: dict[str, int]
    """Rows that were left out, by reason."""

    def digest(self, number: int) -> str:
        """Of a piece's histories."""
        return sha256_of(self.folder / piece_name(number))

    def piece(self, number: int) -> pa.Table:
        """The histories of a piece, as `pmm.storage.schemas.HISTORIES`.

        Raises:
            BrokenArtefact: the file is damaged.
        """
        path = self.folder / piece_name(number)
        if not path.is_file() or is_damaged(path):
            raise BrokenArtefact(f"{path} is damaged. Delete {self.folder} and run the same again")
        return read_table(path, HISTORIES)


def piece_name(number: int) -> str:
    """Of a file in the folder."""
    return f"{number:06}.parquet"


def spool(
    path: Path, known: Collection[str], folder: Path, users_per_piece: int
) -> SpooledHistories:
    """Write the histories of a file to a folder, unless they are all there.

    Args:
        path: the file, whose content is that of the last time.
        known: ids of the catalogue.
        folder: of the pieces.
        users_per_piece: users of a piece.

    Raises:
        InputError: as `open_histories`; no history is left; or a user has several.
    """
    done = folder / DONE
    if done.is_file() and not is_damaged(done):
        about = read_json(done, again="Run the same command")
        names = [folder / piece_name(n) for n in range(-(-about["users"] // users_per_piece))]
        if all(name.is_file() and not is_damaged(name) for name in names):
            return SpooledHistories(folder=folder, users=about["users"], dropped=about["dropped"])
        logger.warning("%s: the histories that were read before are damaged: read again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _PARTS).mkdir(parents=True)
    rows = open_histories(path, known)
    counts = rows.drop_counts
    parts = _write_parts(rows, folder / _PARTS, parts_of(path))
    users = _write_pieces(_grouped(path, parts, rows.wide), folder, users_per_piece)
    shutil.rmtree(folder / _PARTS)
    read = counts.pop("read", 0)
    dropped = {reason: counts[reason] for reason in sorted(+counts) if reason not in _KEPT}
    if not users:
        why = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        raise InputError(f"--users {path}: no user is left of {read:,} rows ({why or 'no rows'})")
    for reason, count in dropped.items():
        if reason != MALFORMED:  # of these the reader has told
            logger.warning("%s: %s: %s", path.name, reason, f"{count:,}")
    with sealed_file(done) as temporary:
        write_json(temporary, {"users": users, "dropped": dropped})
    return SpooledHistories(folder=folder, users=users, dropped=dropped)


def parts_of(path: Path) -> int:
    """Into how many parts a file's rows go."""
    size = path.stat().st_size
    head, packed = head_of(path, 4)
    if packed or head == b"PAR1":
        size *= PACKED
    return int(np.clip(-(-size // PART_BYTES), 1, MOST_PARTS))


def _write_parts(rows: HistoryRows, folder: Path, parts: int) -> list[Path]:
    """All rows by the hash of their user; memory is that of a table of the reader."""
    paths = [folder / f"{part:03}.parquet" for part in range(parts)]
    order = 0
    with ExitStack() as stack:
        writers: dict[int, pq.ParquetWriter] = {}
        for table in rows.tables:
            clean = (_lists if rows.wide else _rows)(table, order, rows.drop_counts)
            order += table.num_rows
            users = clean["user_id"].combine_chunks()
            hashes = pl.Series("user_id", users, dtype=pl.String).hash(seed=11).to_numpy()
            part_R = hashes % np.uint64(parts)
            for part in np.unique(part_R).tolist():
                if part not in writers:
                    writer = pq.ParquetWriter(paths[part], clean.schema, compression="zstd")
                    writers[part] = stack.enter_context(writer)
                writers[part].write_table(clean.filter(pa.array(part_R == part)))
    return [path for path in paths if path.is_file()]


def _rows(table: pa.Table, order: int, counts: Counter[str]) -> pa.Table:
    """Rows of a long file: user_id, item_id, timestamp, order."""
    del order
    plain = [table[name].cast(pa.string()) for name in ("user_id", "item_id")]
    rest = [table[name].cast(pa.int64()) for name in ("timestamp", "order")]
    clean = pa.table([*plain, *rest], ["user_id", "item_id", "timestamp", "order"])
    missing = pc.is_in(clean["user_id"], pa.array(_MISSING))
    counts[_CALLED_NAN] += pc.sum(missing).as_py() or 0
    return clean.filter(pc.invert(missing))


def _lists(table: pa.Table, order: int, counts: Counter[str]) -> pa.Table:
    """Rows of a wide file: user_id, items, order; users without a name are counted and dropped."""
    users = _ids(table["user_id"].combine_chunks())
    lists = table["items"].combine_chunks()
    items = _ids(pc.list_flatten(lists))
    line = pc.list_parent_indices(lists)
    fits = pc.and_(pc.not_equal(items, ""), _is_short(items))
    counts[LONG_ID] += pc.sum(pc.invert(_is_short(items))).as_py() or 0
    counts[NO_ITEM] += pc.sum(pc.equal(items, "")).as_py() or 0
    line, items = line.filter(fits), items.filter(fits)
    per_line = np.bincount(line.to_numpy(), minlength=len(users))
    offsets = pa.array(np.concatenate([[0], np.cumsum(per_line)]), pa.int32())
    orders = pa.array(np.arange(order, order + len(users)))
    whole = pa.table(
        [users, pa.ListArray.from_arrays(offsets, items), orders], ["user_id", "items", "order"]
    )
    missing = pc.is_in(users, pa.array(_MISSING))
    empty, long = pc.equal(users, ""), pc.invert(_is_short(users))
    for reason, which in ((_CALLED_NAN, missing), (NO_USER, empty), (LONG_ID, long)):
        counts[reason] += pc.sum(which).as_py() or 0
    return whole.filter(pc.invert(pc.or_(pc.or_(missing, empty), long)))


def _ids(texts: pa.Array) -> pa.Array:
    plain = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
    return nfc_all(pc.utf8_trim_whitespace(plain.cast(pa.string()).fill_null("")))


def _is_short(ids: pa.Array) -> pa.Array:
    return pc.less_equal(pc.utf8_length(ids), LONGEST_ID)


def _grouped(path: Path, parts: list[Path], wide: bool) -> Iterator[pa.Table]:
    """The histories of one part after the other, users in the order of the file."""
    for part in parts:
        frame = pl.DataFrame(pq.read_table(part))
        part.unlink()
        if wide:
            twice = frame.filter(pl.col("user_id").is_duplicated())
            if len(twice):
                user = twice["user_id"][0]
                rows = twice.filter(user_id=user)["order"].to_list()[:2]
                raise InputError(
                    f"--users {path}: {user[:60]!r} stands in several rows (the {rows[0] + 1:,}. "
                    f"and the {rows[1] + 1:,}. user of the file), and which history is meant? Give "
                    "each user once, or a row an interaction: user_id, item_id"
                )
            found = frame.sort("order").select("user_id", "items")
        else:
            row = pl.col("order") & ((1 << ORDER_BITS) - 1)
            grouped = (
                frame.sort("timestamp", "order")
                .group_by("user_id", maintain_order=True)
                .agg(pl.col("item_id").alias("items"), row.min().alias("row"))
            )
            found = grouped.sort("row").select("user_id", "items")
        yield found.to_arrow().cast(_schema())


def _schema() -> pa.Schema:
    return pa.schema([("user_id", pa.string()), ("items", pa.list_(pa.string()))])


def _write_pieces(tables: Iterator[pa.Table], folder: Path, users_per_piece: int) -> int:
    """Write groups of users as pieces; how many users there are."""
    users = 0
    for number, table in enumerate(cut(tables, users_per_piece)):
        users += table.num_rows
        with sealed_file(folder / piece_name(number)) as temporary:
            write_table(temporary, table, HISTORIES)
    return users


def cut(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many; the last is shorter."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        waiting.append(table)
        held += table.num_rows
        if held < rows:
            continue
        whole = pa.concat_tables(waiting)
        end = held // rows * rows
        for start in range(0, end, rows):
            yield whole.slice(start, rows)
        waiting, held = [whole.slice(end)], held - end
    if held:
        yield pa.concat_tables(waiting)
