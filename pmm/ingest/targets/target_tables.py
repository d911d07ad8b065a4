"""A source's tables -> targets: drops, order, repeats, k-core, rule, sample, split, cold cuts.

A target that a rule makes from a part of the source's items is called carved.

All on integer arrays. What is dropped, and why, adds up to the raw rows in the target's card.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pmm.advice import command
from pmm.errors import BrokenArtefact, InputError, nearest
from pmm.flags import Flag
from pmm.ingest.tables.source_tables import Source, load_source
from pmm.ingest.targets.k_core import Core, NothingLeft, require_core
from pmm.ingest.targets.paper_table_two import beside_paper, rules_in_words, statistics
from pmm.ingest.targets.rows import InteractionRows
from pmm.ingest.targets.rules import Rule
from pmm.ingest.targets.selection import (
    CutTime,
    MissingImage,
    carve_rows,
    keep_last,
    sample_users,
    usable_rows,
)
from pmm.ingest.targets.split import (
    LEAST,
    LEFT_OUT,
    TRAIN,
    VALID,
    cold_cuts,
    leave_one_out,
    temporal,
)
from pmm.storage.artefact import (
    MANIFEST,
    Built,
    Manifest,
    atomic_file,
    build,
    open_artefact,
    require_input,
    write_json,
)
from pmm.storage.home import SOURCES, TARGETS, Home, require_same_name, slug
from pmm.storage.json_files import read_json
from pmm.storage.made_by import command_that_made
from pmm.storage.schemas import COLD, SEQUENCES, TARGET_ITEMS, write_table


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How a source becomes targets (paper IV-A where it says)."""

    user_core: Annotated[int, Flag(group="data")] = 5
    """Least interactions of a user, in the core and inside a carved target; 0 switches it off."""
    item_core: Annotated[int, Flag(group="data")] = 5
    """Least interactions of an item in the core; 0 switches it off."""
    repeats: Annotated[Literal["keep", "first"], Flag(group="data")] = "keep"
    """The same user and item again: keep all rows, or the earliest only."""
    last: Annotated[int | None, Flag(group="data", shown="all")] = None
    """Keep only this many of each user's last rows in a target."""
    last_cut: Annotated[CutTime, Flag(group="data")] = "after-core"
    """When --last cuts: of what the core, the carving and the sample leave, or before the core."""
    users: Annotated[int | None, Flag(group="data", shown="all")] = None
    """Sample this many users of each target after the core."""
    seed: Annotated[int, Flag(group="data")] = 0
    """Of the sample of users."""
    split: Annotated[Literal["leave-one-out", "temporal"], Flag(group="data")] = "leave-one-out"
    """Each user's last two items, or two points in time for all."""
    missing_image: Annotated[MissingImage, Flag(group="data")] = "drop"
    """Items without a picture: drop them before the core, keep those with text, or keep all."""
    cold_below: Annotated[int, Flag(group="data")] = 10
    """Items with fewer training occurrences are cold."""

    def __post_init__(self) -> None:
        leasts = {"user_core": 0, "item_core": 0, "cold_below": 0, "users": 1, "last": LEAST}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        if self.last is None and self.last_cut != "after-core":
            raise InputError(f"--last-cut {self.last_cut} says when --last cuts: give --last N too")
        if self.last_cut == "before-core" and self.last is not None and self.last < self.user_core:
            raise InputError(
                f"--last {self.last} before the core leaves no user with {self.user_core} "
                "interactions, which --user-core asks for: raise the one or lower the other"
            )

    def written(self) -> dict[str, Any]:
        """The options as a target's manifest and card have them.

        Those of --last only where it cuts, so that nothing changes for targets that are whole.
        """
        found = asdict(self)
        if self.last is None:
            del found["last"], found["last_cut"]
        return found

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "IngestOptions":
        """The options of a manifest (`written`).

        Raises:
            KeyError: one is not there.
        """
        whole = {"last": None, "last_cut": "after-core", **config}
        return cls(**{each.name: whole[each.name] for each in fields(cls)})


class SourceCore:
    """A source's k-core, computed once for all its targets, and only if one must be written."""

    def __init__(self, load: Callable[[], Source], options: IngestOptions) -> None:
        self._load, self.options = load, options

    @cached_property
    def source(self) -> Source:
        return self._load()

    @cached_property
    def result(self) -> tuple[InteractionRows, Core, dict[str, int]]:
        """(rows of the core in order, the core, rows dropped by reason)."""
        drop_counts = dict(self.source.card["interactions"]["dropped"])
        rows = usable_rows(self.source, self.options.missing_image, drop_counts).ordered()
        if self.options.repeats == "first":
            rows = rows.keep(rows.first_of_pairs(), "repeat of an earlier row", drop_counts)
        if self.options.last_cut == "before-core":
            rows = keep_last(rows, self.options.last, drop_counts)
        core = require_core(rows.user, rows.item, self.options.user_core, self.options.item_core)
        for number, each in enumerate(core.rounds, start=1):
            drop_counts[f"core round {number}"] = each.dropped
        return rows.at(core.rows), core, drop_counts


def choose_targets(rules: Mapping[str, Rule | None], asked: Sequence[str]) -> list[str]:
    """The targets that a user asked for, as they are written; all where none was named.

    Raises:
        InputError: a name is not among them.
    """
    known = {slug(name): name for name in rules}
    chosen = []
    for name in asked:
        if slug(name) not in known:
            raise InputError(f'unknown target "{name}": {nearest(name, rules)}')
        chosen.append(known[slug(name)])
    return [name for name in rules if name in chosen] if chosen else list(rules)


def write_targets(
    home: Home,
    tables: Built,
    rules: Mapping[str, Rule | None],
    columns: Sequence[str],
    asked: Sequence[str],
    options: IngestOptions,
) -> list[dict[str, Any]]:
    """Write the chosen targets of a source and return their cards, each with "fresh".

    A carved target that was not asked for by name and in which nothing is left is no error: its
    card is {"target": name, "left_out": why} and nothing is written.

    Args:
        home: where artefacts live.
        tables: the source's tables.
        rules: target -> rule; None = the whole source.
        columns: names of the entries of `categories`.
        asked: names of targets; empty = all.
        options: see there.

    Raises:
        InputError: an unknown name, nothing usable, an empty core, or an empty target.
    """
    source = str(tables.manifest.config["source"])
    with tables.seen.reading():
        card = read_json(tables.place / "card.json", again="Ingest the source again")

    def load() -> Source:
        with tables.seen.reading():
            return load_source(source, tables.place, card)

    source_core = SourceCore(load, options)
    cards: list[dict[str, Any]] = []
    for name in choose_targets(rules, asked):
        try:
            built = _build(home, tables, name, rules[name], columns, source_core)
        except InputError as error:
            if asked or rules[name] is None:
                raise
            earlier = (home.target(name) / MANIFEST).exists()
            stays = ". The one from an earlier ingest stays as it was" if earlier else ""
            cards.append({"target": name, "left_out": f"{error}{stays}"})
            continue
        with built.seen.reading():
            made = read_json(built.place / "card.json", again="Ingest the source again")
        cards.append({**made, "fresh": built.fresh})
    return cards


def command_to_ingest(home: Home, name: str) -> str:
    """The command that makes a target's tables, for messages: as it was when they were made."""
    known = command_that_made(home, home.target(name))
    if known:
        return known
    place = slug(name)
    if place in {slug(each) for each in (*SOURCES, *TARGETS)}:
        target = None if place in {slug(each) for each in SOURCES} else name
        return command("ingest", name.split()[0].lower(), target=target, home=home.option)
    return command("ingest", "csv", name=name, interactions="FILE", home=home.option)


def open_target(home: Home, name: str) -> Manifest:
    """The manifest of a target that is whole and was made from its source's tables as they are now.

    Raises:
        MissingArtefact, BrokenArtefact: it has not been ingested, or is damaged.
        StaleArtefact: its source's tables have been written anew since.
    """
    place, again = home.target(name), command_to_ingest(home, name)
    manifest = open_artefact(place, kind="target", made_by=again)
    if not isinstance(manifest.config.get("source"), str):
        raise BrokenArtefact(f"{place / MANIFEST} does not say of which source. Run: {again}")
    tables = home.tables(manifest.config["source"])
    if tables.exists():
        now = open_artefact(tables, kind="tables", made_by=again).fingerprint
        require_input(place, manifest, "tables", now, made_by=again)
    return manifest


def _build(
    home: Home,
    tables: Built,
    name: str,
    rule: Rule | None,
    columns: Sequence[str],
    source_core: SourceCore,
) -> Built:
    place = home.target(name)

    def write(draft: Path) -> dict[str, int]:
        require_same_name(place, "target", name)
        return _write_target(draft, name, rule, columns, source_core)

    return build(
        place,
        kind="target",
        config={
            "target": name,
            "source": tables.manifest.config["source"],
            "rule": rule.describe() if rule else None,
            **source_core.options.written(),
        },
        inputs={"tables": tables.manifest.fingerprint},
        write=write,
        still=tables.seen.require_unchanged,
    )


def _split(
    rows: InteractionRows, split: Literal["leave-one-out", "temporal"], drop_counts: dict[str, int]
) -> tuple[InteractionRows, NDArray[np.int8]]:
    match split:
        case "leave-one-out":
            parts = leave_one_out(rows.user)
            reason = f"user with fewer than {LEAST} interactions"
        case "temporal":
            parts = temporal(rows.user, rows.timestamp)
            reason = "outside the temporal split"
    stays = parts != LEFT_OUT
    return rows.keep(stays, reason, drop_counts), parts[stays]


def _write_target(
    draft: Path, name: str, rule: Rule | None, columns: Sequence[str], source_core: SourceCore
) -> dict[str, int]:
    """Write a target's three tables and its card; return the counts for the manifest."""
    options, source = source_core.options, source_core.source
    rows, _, core_drop_counts = source_core.result
    drop_counts = dict(core_drop_counts)
    if rule is not None:
        rows = carve_rows(rows, name, rule, columns, source, options.user_core, drop_counts)
    if options.users is not None:
        rows = sample_users(rows, source.user_ids, options.users, options.seed, drop_counts)
    if options.last_cut == "after-core":
        rows = keep_last(rows, options.last, drop_counts)
    rows, parts = _split(rows, options.split, drop_counts)
    if not len(rows.user):
        raise NothingLeft(
            f"{name}: no user has {LEAST} interactions, which the split needs; "
            "set --user-core to 3 or more to see which values leave something"
        )
    users, user = _renumber(rows.user)
    codes, item = _renumber(rows.item)
    item += 1  # 0 is padding
    # Of the whole training part, not of what batches meet (docs/paper.md, "What is counted").
    train_count = np.bincount(item[parts == TRAIN], minlength=len(codes) + 1)
    is_cold = train_count < options.cold_below
    items = _items(source, codes, train_count[1:])
    sequences = _sequences(source.user_ids.take(pa.array(users)), user, item, parts)
    with atomic_file(draft / "items.parquet") as path:
        write_table(path, items, TARGET_ITEMS)
    with atomic_file(draft / "sequences.parquet") as path:
        write_table(path, sequences, SEQUENCES)
    with atomic_file(draft / "cold.parquet") as path:
        found = cold_cuts(user, item, is_cold)
        cuts = write_table(path, pa.table(list(found), names=COLD.schema.names), COLD)
    counts = {"users": len(users), "items": len(codes), "actions": len(item)}
    card = {
        **_provenance(
            name, rule, source_core, drop_counts, statistics(**counts, pairs=rows.distinct_pairs())
        ),
        "tied_timestamps": rows.share_of_ties(),
        "items_without_image": items["image"].null_count,
        "items_without_text": pc.sum(pc.equal(items["text"], "")).as_py(),
        "cold": {"items": int(is_cold[1:].sum()), "cuts": cuts},
        "sequences_sha256": _digest(sequences),
    }
    with atomic_file(draft / "card.json") as path:
        write_json(path, card)
    return {**counts, "cold": cuts}


def _provenance(
    name: str,
    rule: Rule | None,
    source_core: SourceCore,
    drop_counts: dict[str, int],
    stats: dict[str, float],
) -> dict[str, Any]:
    """The card's entries on where the target comes from and how it compares with the paper's."""
    _, core, _ = source_core.result
    source = source_core.source.card
    how = {
        "rule": rule.describe() if rule else None,
        "options": source_core.options.written(),
        "core": [asdict(each) for each in core.rounds],
    }
    return {
        "target": name,
        "source": source["source"],
        "detected": source["detected"],
        **how,
        "rules": rules_in_words(how),
        "pictures": source["pictures"],
        **({"picture_files": source["picture_files"]} if "picture_files" in source else {}),
        "rows": {
            "read": source["interactions"]["read"],
            "kept": stats["actions"],
            "dropped": {reason: n for reason, n in drop_counts.items() if n},
        },
        "statistics": stats,
        **beside_paper(name, stats),
    }


def _renumber(codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The codes that occur, ascending, and each row's place among them, from 0."""
    occurs = np.bincount(codes) > 0
    place = np.cumsum(occurs, dtype=np.int32) - 1
    return np.flatnonzero(occurs).astype(np.int32), place[codes].astype(np.int32)


def _items(source: Source, codes: NDArray[np.int32], train_count: NDArray[np.int64]) -> pa.Table:
    listed = source.items.select(["item_id", "text", "image"])
    items = listed.take(pa.array(source.listed_at[codes]))
    numbers = pa.array(np.arange(1, len(codes) + 1, dtype=np.int32))
    counts = pa.array(train_count.astype(np.int32))
    return items.add_column(0, "item", numbers).append_column("train_count", counts)


def _sequences(
    ids: pa.StringArray, user: NDArray[np.int32], item: NDArray[np.int32], parts: NDArray[np.int8]
) -> pa.Table:
    train = parts == TRAIN
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user[train], minlength=len(ids)))])
    kind = SEQUENCES.schema.field("train").type
    lists = pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(item[train]), type=kind
    )
    numbers = pa.array(np.arange(len(ids), dtype=np.int32))
    valid = parts == VALID
    test = ~(train | valid)
    return pa.table(
        [numbers, ids, lists, pa.array(item[valid]), pa.array(item[test])],
        names=SEQUENCES.schema.names,
    )


def _digest(sequences: pa.Table) -> str:
    """sha256 of the sequences' content, which does not depend on the version of Parquet."""
    whole = hashlib.sha256()
    for name in ("train", "valid", "test", "user_id"):
        column = sequences[name].combine_chunks()
        whole.update(f"{name}\n".encode())
        if name == "user_id":
            whole.update("\n".join(column.to_pylist()).encode())
            continue
        if name == "train":
            whole.update(column.offsets.to_numpy().astype("<i4").tobytes())
            column = column.values
        whole.update(column.to_numpy().astype("<i4").tobytes())
    return whole.hexdigest()
