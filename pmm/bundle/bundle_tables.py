"""The tables of a bundle: items with their vectors and pictures, and test users. NumPy alone.

By the test users whoever opens a bundle can tell that it answers as the run was evaluated.

Shape suffixes: N items, W what the user encoder is given of an item, D width.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pmm.arrays import Float32s, Int32s, Int64s
from pmm.bundle.layout import AGAIN, ITEMS, PICTURES, USERS, VECTORS, BundleHeader
from pmm.errors import BrokenArtefact, InputError
from pmm.machine import free_bytes
from pmm.progress import progress
from pmm.recommend.answers import TestUser
from pmm.recommend.loaded_model import ItemSource
from pmm.shards.tars import BLOCK, TarWriter
from pmm.storage.safetensors_errors import system_errors
from pmm.storage.schemas import BUNDLE_ITEMS, BUNDLE_USERS, read_table, write_table


def write_items(
    draft: Path, ids: list[str], source: ItemSource, count_N: Int64s, *, pictures: bool
) -> int:
    """Write the table of the items and, where asked, their pictures; how many have one."""
    n_items = len(ids)
    offset_N, size_N = np.zeros(n_items, np.int64), np.zeros(n_items, np.int32)
    if pictures:
        position = 0
        with TarWriter(draft / PICTURES) as tar, progress(n_items, "Pictures", "items") as bar:
            for row in range(n_items):
                jpeg = source.picture(row)
                if jpeg is not None:
                    tar.add(f"{row}.jpg", jpeg)
                    offset_N[row], size_N[row] = position + BLOCK, len(jpeg)
                    position += BLOCK + len(jpeg) + -len(jpeg) % BLOCK
                bar.advance()
    columns = {
        "item_id": ids,
        "text": [source.text(row) for row in range(n_items)],
        "categories": [list(source.categories(row)) for row in range(n_items)],
        "train_count": count_N,
        "picture_offset": offset_N,
        "picture_size": size_N,
    }
    table = pa.table(columns, schema=BUNDLE_ITEMS.schema)
    write_table(draft / ITEMS, table, BUNDLE_ITEMS)
    return int((size_N > 0).sum())


def write_vectors(draft: Path, input_NW: Float32s, score_ND: Float32s) -> None:
    """Write what the user encoder reads of each item, and what is scored where that is another."""
    arrays = {"input": np.ascontiguousarray(input_NW)}
    if score_ND is not input_NW:
        arrays["score"] = np.ascontiguousarray(score_ND)
    with system_errors(draft / VECTORS):
        save_file(arrays, draft / VECTORS)
    make_readable(draft / VECTORS)


def make_readable(path: Path) -> None:
    """For all: safetensors leaves a file that only its owner may read."""
    path.chmod(0o644)


def read_vectors(place: Path, header: BundleHeader) -> tuple[Float32s, Float32s]:
    """The vectors of all items: [N, W] and [N, D].

    Raises:
        BrokenArtefact: they are not those of the header.
        InputError: they are larger than the memory that is free.
    """
    path = place / VECTORS
    needed, free = path.stat().st_size, free_bytes()
    if needed > free:
        raise InputError(
            f"the items of {place} take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of "
            "memory are free"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error
    shapes = {"input": (header.items, header.input_width)}
    if "score" in found:
        shapes["score"] = (header.items, header.score_width)
    told = {name: (each.dtype.name, each.shape) for name, each in found.items()}
    if told != {name: ("float32", shape) for name, shape in shapes.items()}:
        raise BrokenArtefact(f"{path} does not hold the vectors of its header. {AGAIN}")
    input_NW = found["input"]
    score_ND = found.get("score", input_NW)
    if score_ND.shape[1] != header.score_width or not (
        np.isfinite(input_NW).all() and np.isfinite(score_ND).all()
    ):
        raise BrokenArtefact(f"{path} does not hold the vectors of its header. {AGAIN}")
    return input_NW, score_ND


@dataclass(frozen=True)
class BundleItems:
    """An `ItemSource` (`pmm.recommend.loaded_model`) over a bundle."""

    place: Path
    ids: list[str]
    texts: pa.ChunkedArray
    lists: pa.ChunkedArray
    """Categories."""
    count_N: Int64s
    """Training occurrences."""
    offset_N: Int64s
    """Where each picture begins,"""
    size_N: Int64s
    """and its bytes; 0: there is none."""

    @classmethod
    def of(cls, place: Path, header: BundleHeader) -> "BundleItems":
        """Read the table of the items.

        Raises:
            BrokenArtefact, SchemaError: it is not that of the header.
        """
        path = place / ITEMS
        require_modest(path, header.items)
        table = read_table(path, BUNDLE_ITEMS).combine_chunks()
        ids: list[str] = table["item_id"].to_pylist()
        if len(set(ids)) != len(ids) or "" in ids:
            raise BrokenArtefact(f"{path}: an id is empty or there twice. {AGAIN}")
        items = cls(
            place=place,
            ids=ids,
            texts=table["text"],
            lists=table["categories"],
            count_N=table["train_count"].to_numpy(),
            offset_N=table["picture_offset"].to_numpy(),
            size_N=table["picture_size"].to_numpy().astype(np.int64),
        )
        end = int((items.offset_N + items.size_N).max(initial=0))
        known = (place / PICTURES).stat().st_size if header.pictures else 0
        if end > known or int((items.size_N > 0).sum()) != header.pictures:
            raise BrokenArtefact(f"{path}: its pictures are not those of {PICTURES}. {AGAIN}")
        if header.pictures:
            _ = items._pictures  # held open, so that a bundle that takes its place changes none
        return items

    def text(self, row: int) -> str:
        """The whole text."""
        return str(self.texts[row].as_py())

    def picture(self, row: int) -> bytes | None:
        """The JPEG, as the shards had it."""
        start, size = int(self.offset_N[row]), int(self.size_N[row])
        return bytes(self._pictures[start : start + size]) if size else None

    def categories(self, row: int) -> tuple[str, ...]:
        """The categories that were known."""
        return tuple(self.lists[row].as_py())

    @cached_property
    def _pictures(self) -> mmap.mmap:
        with (self.place / PICTURES).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_users(
    draft: Path,
    user_ids: Sequence[str],
    histories: Sequence[Int32s],
    target_U: Int32s,
    rank_U: Int32s,
) -> None:
    """Write the table; items by their rows."""
    columns = {"user_id": user_ids, "history": histories, "target": target_U, "rank": rank_U}
    table = pa.table(columns, schema=BUNDLE_USERS.schema)
    write_table(draft / USERS, table, BUNDLE_USERS)


def read_users(place: Path, header: BundleHeader, ids: Sequence[str]) -> list[TestUser]:
    """The test users.

    Raises:
        BrokenArtefact, SchemaError, InputError: the table is not that of the header.
    """
    if not header.users:
        return []
    path = place / USERS
    require_modest(path, header.users)
    table = read_table(path, BUNDLE_USERS)
    lists = table["history"].combine_chunks()
    values = np.concatenate([lists.flatten().to_numpy(), table["target"].to_numpy()])
    if int(values.max(initial=0)) >= len(ids):
        raise BrokenArtefact(f"{path} names items that the bundle does not have. {AGAIN}")
    return [
        TestUser(
            user_id=row["user_id"],
            history=tuple(ids[item] for item in row["history"]),
            target=ids[row["target"]],
            rank=row["rank"],
        )
        for row in table.to_pylist()
    ]


def require_modest(path: Path, rows: int) -> None:
    """Refuse a table of other rows than the header says, or one that no memory holds unpacked.

    Raises:
        BrokenArtefact, InputError: as said.
    """
    try:
        about = pq.read_metadata(path)
        size = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error
    if about.num_rows != rows:
        raise BrokenArtefact(f"{path} has {about.num_rows:,} rows, expected {rows:,}. {AGAIN}")
    if size > free_bytes() // 2:
        raise InputError(f"{path} unpacks to {size / 2**30:,.1f} GiB, more than memory can hold")
