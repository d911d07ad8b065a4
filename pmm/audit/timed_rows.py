"""A target's rows with their times, which its own tables do not hold: those of its source do."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pmm.arrays import Int32s, Int64s
from pmm.errors import BrokenArtefact
from pmm.ingest.tables.source_tables import load_source
from pmm.ingest.targets.rows import InteractionRows
from pmm.ingest.targets.split import LEFT_OUT, TEST, TRAIN, VALID, Parts
from pmm.ingest.targets.target_tables import command_to_ingest, open_target
from pmm.storage.artefact import Manifest, open_artefact, snapshot
from pmm.storage.home import Home
from pmm.storage.json_files import read_json
from pmm.storage.schemas import SEQUENCES, TARGET_ITEMS, read_table
from pmm.storage.verify import require_whole


@dataclass(frozen=True, kw_only=True)
class TimedRows:
    """R rows of a target by user, then time, then the order of the file."""

    user: Int32s
    """0..U-1, ascending."""
    item: Int32s
    """1..N."""
    parts: Parts
    """Which are trained on, validated and tested; LEFT_OUT in a temporal split alone."""
    moment: Int64s | None
    """Rank of each row's time among all times, equal times alike; None: the source has no times."""


@dataclass(frozen=True, kw_only=True)
class AuditedTarget:
    """What an audit reads of a target."""

    name: str
    source: str
    fingerprint: str
    split: str
    rows: TimedRows
    item_ids: list[str]
    """Of item k at k - 1."""
    texts: list[str]
    no_times: str
    """Why there are no moments; empty where there are."""

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.item_ids)


def read_audited(home: Home, name: str) -> AuditedTarget:
    """A target with the times of its rows. Memory is that of its source's tables with numbers for
    ids (20 bytes a row plus the ids), and about 25 bytes a row of the target.

    Raises:
        MissingArtefact, StaleArtefact, BrokenArtefact: as `open_target`; or its source's tables do
            not hold its rows.
    """
    place, again = home.target(name), command_to_ingest(home, name)
    with snapshot(place, f"the target {name}", again).reading():
        manifest = open_target(home, name)
        unsaid = {"source", "split", "repeats", "target"} - manifest.config.keys()
        if unsaid:
            raise BrokenArtefact(
                f"the manifest of {place} does not say {' and '.join(sorted(unsaid))}: it was not "
                f"made by this program. Run: {again}"
            )
        require_whole(place, manifest.files, ["items.parquet", "sequences.parquet"], made_by=again)
        items = read_table(place / "items.parquet", TARGET_ITEMS, ["item_id", "text"])
        sequences = read_table(place / "sequences.parquet", SEQUENCES)
    held = _held(sequences)
    source, no_times = str(manifest.config["source"]), ""
    if home.tables(source).exists():
        found = _timed(home, manifest, sequences, items, held, again)
        if found is None:
            no_times = f"the source {source} has no times"
    else:
        found, no_times = None, f"the tables of {source} are not there. Run: {again}"
    return AuditedTarget(
        name=name,
        source=source,
        fingerprint=manifest.fingerprint,
        split=str(manifest.config["split"]),
        rows=found or held,
        item_ids=items["item_id"].to_pylist(),
        texts=items["text"].to_pylist(),
        no_times=no_times,
    )


def _held(sequences: pa.Table) -> TimedRows:
    """The rows that the sequences hold, without times."""
    train_U = pc.list_value_length(sequences["train"]).to_numpy().astype(np.int64)
    lengths_U = train_U + 2
    ends = np.cumsum(lengths_U)
    parts = np.full(int(lengths_U.sum()), TRAIN, np.int8)
    parts[ends - 2], parts[ends - 1] = VALID, TEST
    item = np.zeros(len(parts), np.int32)
    item[parts == TRAIN] = pc.list_flatten(sequences["train"]).to_numpy()
    item[ends - 2], item[ends - 1] = sequences["valid"].to_numpy(), sequences["test"].to_numpy()
    user = np.repeat(np.arange(len(lengths_U), dtype=np.int32), lengths_U)
    return TimedRows(user=user, item=item, parts=parts, moment=None)


def _timed(
    home: Home,
    manifest: Manifest,
    sequences: pa.Table,
    items: pa.Table,
    held: TimedRows,
    again: str,
) -> TimedRows | None:
    """The same rows found in the source's tables; None where these have no times."""
    source = str(manifest.config["source"])
    place = home.tables(source)
    with snapshot(place, "the tables", again).reading():
        about = open_artefact(place, kind="tables", made_by=again)
        names = ["items.parquet", "interactions.parquet", "card.json"]
        require_whole(place, about.files, names, made_by=again)
        loaded = load_source(source, place, read_json(place / "card.json", again=again))
    if loaded.timestamp is None:
        return None
    user = _numbers(loaded.user_ids, sequences["user_id"])[loaded.user]
    item = _numbers(loaded.item_ids, items["item_id"])[loaded.item]
    every = InteractionRows(
        user=user, item=item + 1, timestamp=loaded.timestamp, nanoseconds=loaded.nanoseconds
    )
    rows = every.at((user >= 0) & (item >= 0)).ordered()
    if manifest.config["repeats"] == "first":
        rows = rows.at(rows.first_of_pairs())
    if manifest.config["split"] == "leave-one-out":
        found = _whole_histories(rows, held)
    else:
        found = _spans(_ends(rows, held, manifest.config.get("last")), held)
    if found is None:
        raise BrokenArtefact(
            f"the tables of {source} do not hold the rows of {manifest.config['target']}. "
            f"Run: {again}"
        )
    return found


def _numbers(ids: pa.StringArray, wanted: pa.ChunkedArray) -> Int32s:
    """Of each id its place among those that are wanted; -1 where it is not."""
    found = pc.index_in(ids, value_set=wanted.combine_chunks())
    numbers: Int32s = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return numbers


def _whole_histories(rows: InteractionRows, held: TimedRows) -> TimedRows | None:
    """The last rows of each user, as many as his sequence has: all but where --last has cut."""
    n_users = int(held.user[-1]) + 1
    many_U, held_U = (np.bincount(each.user, minlength=n_users) for each in (rows, held))
    if (many_U < held_U).any():
        return None
    behind = np.cumsum(many_U)[rows.user] - np.arange(len(rows.user))
    rows = rows.at(behind <= held_U[rows.user])
    if not np.array_equal(rows.item, held.item):
        return None
    return TimedRows(user=rows.user, item=rows.item, parts=held.parts, moment=_moments(rows))


def _ends(rows: InteractionRows, held: TimedRows, last: int | None) -> InteractionRows:
    """Of each user the rows from the first that his sequence holds on, where --last has cut.

    The oldest of the last rows from which on his training and validation items follow; of a history
    that repeats itself within them that may be too old a one.
    """
    if last is None:
        return rows
    n_users, stays = int(held.user[-1]) + 1, np.zeros(len(rows.user), np.bool_)
    ends_U = np.cumsum(np.bincount(rows.user, minlength=n_users)).tolist()
    known_U = np.split(held.item, np.cumsum(np.bincount(held.user))[:-1])
    for end, start, known in zip(ends_U, [0, *ends_U], known_U, strict=False):
        wanted = known[:-1]  # without the test item, which others may precede
        for first in range(max(start, end - last), end - len(wanted) + 1):
            if np.array_equal(rows.item[first : first + len(wanted)], wanted):
                stays[first:end] = True
                break
    return rows.at(stays)


def _spans(rows: InteractionRows, held: TimedRows) -> TimedRows | None:
    """All rows of a target that is split at two points in time, found again by its own targets.

    Whatever lies between the last row before a point and the first target behind it would do as
    well: no row of the target is there.
    """
    n_users = int(held.user[-1]) + 1
    moment = _moments(rows)
    many_U = np.bincount(rows.user, minlength=n_users)
    first_U = np.cumsum(many_U) - many_U
    train_U = np.bincount(held.user[held.parts == TRAIN], minlength=n_users)
    if (many_U < train_U + 2).any():
        return None
    valid_from = moment[first_U + train_U].min()
    after = moment > moment[first_U + train_U].max()
    test_U = held.item[held.parts == TEST]
    fits = np.flatnonzero(after & (rows.item == test_U[rows.user]))
    users, first = np.unique(rows.user[fits], return_index=True)
    if len(users) < n_users:
        return None
    span = (moment >= valid_from).astype(np.int8) + (moment >= moment[fits[first]].min())
    fresh = (np.diff(rows.user, prepend=-1) != 0) | (np.diff(span, prepend=-1) != 0)
    parts = np.where((span == TRAIN) | fresh, span, LEFT_OUT).astype(np.int8)
    if not np.array_equal(rows.item[parts != LEFT_OUT], held.item):
        return None
    return TimedRows(user=rows.user, item=rows.item, parts=parts, moment=moment)


def _moments(rows: InteractionRows) -> Int64s:
    """Times as their ranks, to the nanosecond."""
    assert rows.timestamp is not None
    fraction: NDArray[np.int32] = (
        np.zeros(len(rows.user), np.int32) if rows.nanoseconds is None else rows.nanoseconds
    )
    order = np.lexsort((fraction, rows.timestamp))
    new = np.diff(rows.timestamp[order], prepend=0) != 0
    new |= np.diff(fraction[order], prepend=0) != 0
    found = np.empty(len(order), np.int64)
    found[order] = np.cumsum(new)
    return found
