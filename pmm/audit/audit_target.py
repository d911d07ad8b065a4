"""`pmm audit`: what leaks in a target or is an artefact of it, in figures.

Shape legend: U users, N items.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pmm.audit.audit_request import AuditOptions
from pmm.audit.beside_floors import BesideFloor, Repeats, beside_run, repeats_of
from pmm.audit.concentration import Concentration, concentration
from pmm.audit.findings import AuditFinding, findings_of
from pmm.audit.near_items import Duplicates, duplicates
from pmm.audit.near_pictures import near_pictures
from pmm.audit.near_texts import near_texts
from pmm.audit.split_questions import SplitQuestions, asked_of, floor_ranks
from pmm.audit.tie_order import TieOrder, tie_order
from pmm.audit.time_leak import TimeLeak, time_leak
from pmm.audit.timed_rows import AuditedTarget, read_audited
from pmm.evaluate.metrics import measure
from pmm.evaluate.ranking import count_candidates
from pmm.ingest.targets.split import LEFT_OUT
from pmm.shards.read import Shards
from pmm.shards.write import command as command_to_shard
from pmm.storage.home import Home


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that was measured. Shares and metrics are fractions."""

    target: str
    source: str
    fingerprint: str
    """Of the target that was audited."""
    split: str
    users: int
    items: int
    actions: int
    draws: int
    seed: int
    floors: dict[str, dict[str, Any]]
    """Popularity and item kNN on the target's own split, and what chance expects."""
    time: TimeLeak | None
    ties: TieOrder | None
    texts: Duplicates | None
    pictures: Duplicates | None
    repeats: Repeats
    by_user: Concentration
    by_item: Concentration
    run: str | None = None
    beside_run: list[BesideFloor] = field(default_factory=list)
    not_looked_at: dict[str, str] = field(default_factory=dict)
    """What of it could not be measured -> why, and what to run."""
    findings: list[AuditFinding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """What `audit.json` holds."""
        return asdict(self)


def audit_target(
    home: Home, target: str, options: AuditOptions | None = None, *, run: Path | None = None
) -> Audit:
    """Measure what leaks in a target.

    Time is about `draws` + 3 times that of ranking all users by item kNN, and for pictures a
    millisecond each; memory that of the tables of the source, of item kNN's pairs, and 800 bytes a
    picture.

    Args:
        home: where artefacts live.
        target: which.
        options: see there.
        run: an evaluated run, to be compared with the floors.

    Raises:
        InputError: an unknown target, or a run that ranked something else.
        MissingArtefact, StaleArtefact, BrokenArtefact: the target, or a run without ranks.
    """
    options = options or AuditOptions()
    name = home.find_target(target)
    read = read_audited(home, name)
    rows, missing = read.rows, dict[str, str]()
    asked = asked_of(rows.user, rows.item, rows.parts, read.n_items)
    beside = beside_run(run, name, asked, options.seed) if run is not None else []
    ranks = floor_ranks(asked)
    floors = {floor: measure(rank_U) for floor, rank_U in ranks.items()}
    if rows.moment is None:
        missing["time"] = missing["ties"] = read.no_times
    seed, timed = options.seed, rows.moment is not None
    stays = rows.parts != LEFT_OUT
    measured: dict[str, Any] = {
        "time": time_leak(rows, asked, ranks["popularity"], seed=seed) if timed else None,
        "ties": tie_order(rows, read.n_items, floors, draws=options.draws, seed=seed)
        if timed
        else None,
        "texts": _texts(read, asked, options, missing),
        "pictures": _pictures(home, read, asked, options, missing),
        "repeats": repeats_of(asked, ranks),
        "by_user": concentration(np.bincount(rows.user[stays])),
        "by_item": concentration(np.bincount(rows.item[stays])),
        "beside_run": beside,
    }
    return Audit(
        target=name,
        source=read.source,
        fingerprint=read.fingerprint,
        split=read.split,
        users=len(asked.queries),
        items=read.n_items,
        actions=int(stays.sum()),
        draws=options.draws,
        seed=options.seed,
        floors={**floors, "chance": _chance(asked)},
        run=run.name if run is not None else None,
        not_looked_at=missing,
        findings=findings_of(split=read.split, **measured),
        **measured,
    )


def _chance(asked: SplitQuestions) -> dict[str, Any]:
    """The expected share of hits among equally likely places."""
    candidates_U = count_candidates(asked.queries, asked.n_items)
    hits = {f"hr@{k}": float(np.minimum(1, k / candidates_U).mean()) for k in (10, 20, 50)}
    return {"users": len(candidates_U), **hits}


def _texts(
    read: AuditedTarget, asked: SplitQuestions, options: AuditOptions, missing: dict[str, str]
) -> Duplicates | None:
    near = near_texts(read.texts)
    if not near.n_groups:
        missing["texts"] = "no item has a text"
        return None
    return duplicates(near, asked.queries, read.item_ids, shown=options.examples)


def _pictures(
    home: Home,
    read: AuditedTarget,
    asked: SplitQuestions,
    options: AuditOptions,
    missing: dict[str, str],
) -> Duplicates | None:
    if not home.shards(read.name).exists():
        again = command_to_shard(read.name, home)
        missing["pictures"] = f"they are looked at in shards, and there are none. Run: {again}"
        return None
    shards = Shards.of(home, read.name)
    if not shards.has_picture.any():
        missing["pictures"] = "no item has a picture in the shards"
        return None
    near = near_pictures(shards)
    return duplicates(near, asked.queries, read.item_ids, shown=options.examples)
