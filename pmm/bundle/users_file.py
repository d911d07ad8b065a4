"""The test users of a bundle: histories, true next items and their ranks.

By them whoever opens a bundle can tell that it answers as the run was evaluated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pmm.arrays import Int32s
from pmm.bundle.item_files import require_modest
from pmm.bundle.layout import AGAIN, USERS, BundleHeader
from pmm.errors import BrokenArtefact
from pmm.storage.schemas import BUNDLE_USERS, read_table, write_table


@dataclass(frozen=True, kw_only=True)
class TestUser:
    """A user of the test, by raw ids."""

    __test__ = False  # pytest would take the name for a test

    user_id: str
    history: tuple[str, ...]
    """Oldest first; what the ranking was asked with."""
    target: str
    """The true next item."""
    rank: int
    """Of the target among all items but the rest of the history; 1 is best, ties count against."""


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
