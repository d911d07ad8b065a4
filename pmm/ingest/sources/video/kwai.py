"""Kwai: the source in NineRec's, PMMRec's or MicroLens' layout, and its targets.

A target is a dataset of its own where its files are there (`Kwai_Food`, `kuaishou_food`). Else it
is made from the source by a rule, since the paper's Kwai files are not public: by a table of item
categories that the user gives, or by the hashtags of the titles
(`pmm.ingest.sources.video.hashtags`).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import sniff, stream
from pmm.ingest.readers.encodings import known_encoding
from pmm.ingest.readers.ids import nfc, nfc_all
from pmm.ingest.readers.plain_file import require_file
from pmm.ingest.sources.source_registry import SourceEntry
from pmm.ingest.sources.video.datasets import (
    DatasetIndex,
    DatasetTargets,
    ItemTags,
    VideoFiles,
    VideoRequest,
    ingest_datasets,
)
from pmm.ingest.sources.video.hashtags import (
    DEFAULT_TAGS,
    TagTable,
    find_tags,
    fold_tag,
    read_tag_table,
)
from pmm.ingest.targets.rules import LevelRule, Rule
from pmm.ingest.targets.target_tables import IngestOptions, choose_targets
from pmm.storage.artefact import Digests
from pmm.storage.home import Home

_SOURCE = "Kwai"
_SHOWN = 20
"""Categories of a table that an error names at most."""
_CALLED = "Kwai, kuaishou, KS, KU or MicroLens (KU, kuaishou_food, MicroLens-50k, in any case)"
_PLATFORM = re.compile(r"(?:source_)?(?:kuaishou|kwai|ks|ku|microlens)(?![a-z])")


@dataclass(frozen=True, kw_only=True)
class KwaiFiles(VideoFiles):
    """Kwai's raw files, and what decides about an item's target where there are no own files."""

    item_categories: Path | None = None
    """A table item,category; an item in several categories has several rows."""
    hashtags: Path | None = None
    """A TOML file over the default tags (`pmm.ingest.sources.video.hashtags.read_tag_table`)."""


def ingest_kwai(
    home: Home, files: KwaiFiles, targets: Sequence[str], options: IngestOptions
) -> list[dict[str, Any]]:
    """Read Kwai's datasets into their tables and targets; return the targets' cards.

    Targets that are not there and were not asked for have the card {"target": name, "left_out":
    why}.

    Args:
        home: where artefacts live.
        files: the raw folder, searched three levels deep, the language, and what makes a
            target.
        targets: "Kwai", "Kwai Food", "Kwai Movie", "Kwai Cartoon", and what `files` names further;
            empty = all.
        options: core, sample, split and so on.

    Raises:
        InputError: nothing is there, what was asked for is not there or twice, files are damaged,
            or nothing is left.
    """
    found = _target_rules(home, files, targets)
    known: dict[str, Rule | None] = {_SOURCE: None, **found.rules}
    asked = choose_targets(known, targets) if targets else []

    def name_of(name: str) -> str | None:
        return kwai_name(name, found.rules)

    index = DatasetIndex("kwai", (files.raw or home.raw("kwai")).absolute(), name_of, _CALLED)
    own = [name for name in known if name != _SOURCE and index.has(name)]
    needed = [name if name in own else _SOURCE for name in asked] if asked else known
    index.require_any(needed, of=[*needed, *asked])
    carved = {name: rule for name, rule in known.items() if name not in own}
    datasets = [DatasetTargets(name=_SOURCE, rules=carved, item_tags=found.item_tags)]
    datasets += [DatasetTargets(name=name, rules={name: None}) for name in own]
    cards = ingest_datasets(home, index, datasets, files, asked, options)
    order = list(known)
    return sorted(cards, key=lambda card: order.index(card["target"]))


def kwai_name(name: str, targets: Mapping[str, object] = DEFAULT_TAGS) -> str | None:
    """The target that a dataset's files name; what names no sub-domain is the source.

    >>> [kwai_name(each) for each in ("KU", "MicroLens-50k", "kuaishou_food", "Bili_2M")]
    ['Kwai', 'Kwai', 'Kwai Food', None]
    """
    folded = name.lower().replace("-", "_")
    if not _PLATFORM.match(folded):
        return None
    padded = f"_{folded}_"
    subs = (t for t in targets if f"_{t.lower()[5:].replace(' ', '_')}_" in padded)
    return next(subs, _SOURCE)


@dataclass(frozen=True, kw_only=True)
class _TargetRules:
    rules: dict[str, Rule]
    item_tags: ItemTags


def _target_rules(home: Home, files: KwaiFiles, targets: Sequence[str]) -> _TargetRules:
    """The rule of each target that has no files of its own, and the tags that it looks at."""
    if files.item_categories is None:
        table = TagTable(tags=DEFAULT_TAGS)
        if files.hashtags is not None:
            require_file(files.hashtags, "--hashtags")
            table = read_tag_table(files.hashtags)
        item_tags = ItemTags(
            kind="hashtags", of=lambda _item, title: find_tags(title), inputs={}, notes={}
        )
        return _TargetRules(rules=dict(table.rules()), item_tags=item_tags)
    if files.hashtags is not None:
        raise InputError(
            "--item-categories and --hashtags both say what makes a target: give one of them"
        )
    path = files.item_categories
    require_file(path, "--item-categories")
    categories, notes = read_categories(path, encoding=files.encoding)
    names = {name: name for name in DEFAULT_TAGS}
    found = dict.fromkeys(category for entries in categories.values() for category in entries)
    for asked in targets:
        short = _short(asked)
        if short in found or fold_tag(asked) in found:
            names.setdefault(_written(asked), _written(asked))
    advice = f"{path.name} names: {', '.join(list(found)[:_SHOWN])}"
    return _TargetRules(
        rules={
            name: LevelRule(least_level=0, values=(_short(name), fold_tag(name)), advice=advice)
            for name in names
        },
        item_tags=ItemTags(
            kind="item categories",
            of=lambda item, _title: categories.get(nfc(item), ()),
            inputs={"item categories": Digests(home.root).file(path)},
            notes=notes,
        ),
    )


def _short(target: str) -> str:
    """A target's name without the platform: "Kwai Food" -> "food"."""
    return " ".join(fold_tag(target).split()).removeprefix("kwai ")


def _written(asked: str) -> str:
    """A target's name as it is written: as in the paper, else as it was asked for."""
    plain = " ".join(asked.split())
    known = {each.casefold(): each for each in DEFAULT_TAGS}
    return known.get(plain.casefold(), plain)


def read_categories(
    path: Path, *, encoding: str | None = None
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The folded categories of each item, and the drop_counts of the rows.

    Args:
        path: two columns, item and category, in this order unless a header says otherwise.
        encoding: where the user named it.

    Raises:
        InputError: the file is missing, damaged or no table.
    """
    dialect, head = sniff(path, encoding=encoding)
    roles = find_roles(head[0], ["item", "categories"])
    header = len(roles) == 2
    columns = {"item": roles["item"], "category": roles["categories"]} if header else None
    drop_counts: Counter[str] = Counter()
    categories: dict[str, list[str]] = {}
    notes: dict[str, Any] = {"file": path.name, **dialect.describe()}
    for batch in stream(
        path,
        dialect,
        columns or {"item": 0, "category": 1},
        header=header,
        drop_counts=drop_counts,
        notes=notes,
    ):
        ids = nfc_all(pc.utf8_trim_whitespace(batch["item"].dictionary_decode())).to_pylist()
        for item, raw in zip(ids, batch["category"].to_pylist(), strict=True):
            category = " ".join(fold_tag(raw).split())
            reason = _drop_reason(item, category, categories)
            drop_counts[reason or "kept"] += 1
            if reason is None:
                categories.setdefault(item, []).append(category)
    counts = {"read": drop_counts.pop("read", 0), "kept": drop_counts.pop("kept", 0)}
    dropped = {reason: n for reason, n in drop_counts.items() if n}
    return categories, {**notes, **counts, "dropped": dropped}


def _drop_reason(item: str, category: str, categories: Mapping[str, list[str]]) -> str | None:
    if not item:
        return "empty item id"
    if not category:
        return "empty category"
    return "repeated row" if category in categories.get(item, []) else None


@dataclass(frozen=True, kw_only=True)
class KwaiRequest(VideoRequest):
    """What `pmm ingest kwai` can be asked."""

    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/kwai")] = None
    """Folder with NineRec's, PMMRec's or MicroLens' files."""
    item_categories: Annotated[Path | None, Flag(group="data")] = None
    """A table item,category that says what is food, movie …"""
    hashtags: Annotated[Path | None, Flag(group="data")] = None
    """A TOML of hashtags a target, over those of docs/paper.md."""


def ingest_as_asked(request: KwaiRequest) -> list[dict[str, Any]]:
    """Kuaishou, as in NineRec, MicroLens or the paper's own code."""
    encoding = known_encoding(request.encoding)
    request.fetch_if_asked("kwai")
    files = KwaiFiles(
        raw=request.raw,
        language=request.language,
        encoding=encoding,
        item_categories=request.item_categories,
        hashtags=request.hashtags,
    )
    return ingest_kwai(request.place(), files, request.target, request.options())


SOURCE = SourceEntry(
    request=KwaiRequest,
    ingest=ingest_as_asked,
    example='pmm ingest kwai --raw ~/MicroLens --target "Kwai Movie"',
)
