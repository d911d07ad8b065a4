"""Bili: the source and its targets, each a dataset of its own in NineRec's or PMMRec's layout."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pmm.flags import Flag
from pmm.ingest.readers.encodings import known_encoding
from pmm.ingest.sources.source_registry import SourceEntry
from pmm.ingest.sources.video.datasets import (
    DatasetIndex,
    DatasetTargets,
    VideoFiles,
    VideoRequest,
    ingest_datasets,
)
from pmm.ingest.targets.rules import Rule
from pmm.ingest.targets.target_tables import IngestOptions, choose_targets
from pmm.storage.home import Home

__all__ = ["BILI_TARGETS", "VideoFiles", "bili_name", "ingest_bili"]

_SOURCE = "Bili"
_PAPERS = (_SOURCE, "Bili Food", "Bili Movie", "Bili Cartoon")
_FURTHER = ("Bili Dance", "Bili Music")
BILI_TARGETS: dict[str, Rule | None] = dict.fromkeys(_PAPERS + _FURTHER)
"""The paper's four datasets, then NineRec's further two. None has a rule: each has files.
"""

_CALLED = "Bili, bilibili or Source_Bili (Bili_Food, bilibili_movie, in any case)"
_PLATFORM = re.compile(r"(?:source_)?bili(?:bili)?(?![a-z])")


def ingest_bili(
    home: Home, files: VideoFiles, targets: Sequence[str], options: IngestOptions
) -> list[dict[str, Any]]:
    """Read Bili's datasets into their tables and targets; return the targets' cards.

    The paper's datasets that are not there and were not asked for have the card {"target": name,
    "left_out": why}; further ones are then not mentioned.

    Args:
        home: where artefacts live.
        files: the raw folder, searched three levels deep, and the language of the titles.
        targets: see `BILI_TARGETS`; empty = all that are there.
        options: core, sample, split and so on.

    Raises:
        InputError: nothing is there, what was asked for is not there or twice, files are damaged,
            or nothing is left.
    """
    asked = choose_targets(BILI_TARGETS, targets) if targets else []
    index = DatasetIndex("bili", (files.raw or home.raw("bili")).absolute(), bili_name, _CALLED)
    index.require_any(asked or BILI_TARGETS, of=asked or BILI_TARGETS)
    names = [name for name in BILI_TARGETS if name in (*_PAPERS, *asked) or index.has(name)]
    datasets = [DatasetTargets(name=name, rules={name: None}) for name in names]
    return ingest_datasets(home, index, datasets, files, asked, options)


def bili_name(name: str) -> str | None:
    """The target that a dataset's files name; what names no sub-domain is the source.

    >>> [bili_name(each) for each in ("Bili_2M", "bilibili_food", "BILI_Movie", "KU")]
    ['Bili', 'Bili Food', 'Bili Movie', None]
    """
    folded = name.lower().replace("-", "_")
    if not _PLATFORM.match(folded):
        return None
    parts = folded.split("_")
    subs = (name for name in BILI_TARGETS if name != _SOURCE and name.lower()[5:] in parts)
    return next(subs, _SOURCE)


@dataclass(frozen=True, kw_only=True)
class BiliRequest(VideoRequest):
    """What `pmm ingest bili` can be asked."""

    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/bili")] = None
    """Folder with NineRec's or PMMRec's files."""


def ingest_as_asked(request: BiliRequest) -> list[dict[str, Any]]:
    """Bilibili, as in NineRec or in the paper's own code."""
    encoding = known_encoding(request.encoding)
    request.fetch_if_asked("bili")
    files = VideoFiles(raw=request.raw, language=request.language, encoding=encoding)
    return ingest_bili(request.place(), files, request.target, request.options())


SOURCE = SourceEntry(
    request=BiliRequest,
    ingest=ingest_as_asked,
    example='pmm ingest bili --raw ~/NineRec --target "Bili Food"',
)
