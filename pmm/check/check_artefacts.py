"""Tables, targets, shards and activations: every file read and compared with its manifest."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.check.finding import Finding
from pmm.errors import ArtefactError
from pmm.ingest.sources import source_registry
from pmm.shards.shard_options import ShardOptions
from pmm.storage.artefact import Manifest, fingerprint, open_artefact, read_manifest
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json
from pmm.storage.made_by import command_that_made
from pmm.storage.verify import faults, in_words

ROOMS = {"tables": "tables", "targets": "target", "shards": "shards", "activations": "activations"}
"""Folder below the home -> kind of what it holds, in the order in which one is made of another."""
_TRIES = 3
"""Of a place that another process writes meanwhile."""


def places_of(home: Home, room: str) -> list[Path]:
    """The artefacts of a room, also one that a kill left between two names."""
    folder = home.root / room
    pattern = "*/*" if room == "activations" else "*"
    found = {each for each in folder.glob(pattern) if each.is_dir()}
    old = {each.with_name(each.name[1:-4]) for each in found if _is_old(each)}
    return sorted({each for each in found if not each.name.startswith(".")} | old)


def check_artefacts(home: Home) -> Iterator[Finding]:
    """Every artefact, and every draft of one."""
    marks: dict[Path, str] = {}
    for room, kind in ROOMS.items():
        for place in places_of(home, room):
            finding = _look(home, place, kind)
            manifest = readable_manifest(place)
            if manifest is not None:
                marks[place] = manifest.fingerprint
                if finding.state == "whole":
                    finding = _or_stale(home, finding, manifest, marks)
            yield finding
        yield from _drafts(home, room)


def expected_fingerprint(home: Home, place: Path) -> str:
    """What a damaged artefact was, by its manifest or by what was made from it; "": unknown."""
    manifest = readable_manifest(place)
    if manifest is not None:
        return manifest.fingerprint
    return _claimed(place) or _asked_for(home, place)


def readable_manifest(place: Path) -> Manifest | None:
    """The manifest of an artefact whose files may be damaged; None: it is damaged itself."""
    try:
        return read_manifest(place)
    except ArtefactError:
        return None


def command_for(home: Home, place: Path, kind: str, config: dict[str, Any]) -> str:
    """The command that makes a damaged artefact as it was.

    Its own command would need the options of before, which only its manifest knows.
    """
    repair = command("check", home.root, repair=True)
    source = str(config.get("source", place.name))
    if kind == "tables" and source.lower() not in source_registry.source_names():
        own = command_that_made(home, home.target(source))
        if own:
            return own
        own = command("ingest", "csv", name=source, home=home.option)
        return f"{own}  # and the files and options of before"
    return repair


def _look(home: Home, place: Path, kind: str) -> Finding:
    """Read all files; once more where the artefact was replaced meanwhile."""
    for _ in range(_TRIES):
        before = readable_manifest(place)
        again = command_for(home, place, kind, before.config if before else {})
        try:
            manifest = open_artefact(place, kind=kind, made_by=again)
            found = faults(place, manifest.files, remember=False)
            why = in_words(found)
        except ArtefactError as error:
            why = str(error).partition(". Run: ")[0]
        if not why or readable_manifest(place) == before:
            break
    files = before.files.values() if before else ()
    return Finding(
        place=place,
        kind=kind,
        state="damaged" if why else "whole",
        why=why,
        run=again,
        files=len(files),
        bytes=sum(entry["bytes"] for entry in files),
    )


_MADE_FROM = {"target": "tables", "shards": "target", "activations": "shards"}


def _or_stale(home: Home, finding: Finding, manifest: Manifest, marks: dict[Path, str]) -> Finding:
    """The finding, unless what the artefact was made from is another one now."""
    source = _MADE_FROM.get(finding.kind, "")
    place = {
        "target": lambda: home.tables(str(manifest.config.get("source", finding.place.name))),
        "shards": lambda: home.target(finding.place.name),
        "activations": lambda: home.shards(finding.place.parent.name),
    }.get(finding.kind, lambda: finding.place)()
    now, had = marks.get(place), manifest.inputs.get(source)
    if not source or now is None or now == had:
        return finding
    why = f"made from {source} {str(had)[:8]}, but {place} is now {now[:8]}"
    run = _own_command(home, finding, manifest)
    if finding.kind == "activations":
        run = f"rm -r {shlex.quote(str(finding.place))}  # nothing reads it any more"
    return replace(finding, state="stale", why=why, run=run)


def _own_command(home: Home, finding: Finding, manifest: Manifest) -> str:
    """The command that makes an artefact anew from what is there now."""
    if finding.kind == "shards":
        known = command_that_made(home, finding.place)
        if known:
            return known
        name = str(manifest.config.get("text_encoder", ""))
        own = "" if "/" in name or name == ShardOptions.text_encoder else "  # --text-encoder "
        made = command("shard", target=finding.place.name, home=home.option)
        return f"{made}{own}{name if own else ''}"
    known = command_that_made(home, finding.place)
    if known:
        return known
    source = str(manifest.config.get("source", finding.place.name))
    if source.lower() in source_registry.source_names():
        return command("ingest", source.lower(), home=home.option)
    return command("ingest", "csv", name=source, home=home.option)


def _drafts(home: Home, room: str) -> Iterator[Finding]:
    pattern = "*/.*.partial" if room == "activations" else ".*.partial"
    for place in sorted((home.root / room).glob(pattern)):
        files = [each for each in place.rglob("*") if each.is_file()]
        yield Finding(
            place=place,
            kind=ROOMS[room],
            state="unfinished",
            why="pieces that a stopped process has finished, or that a running one is writing; "
            "the same command goes on from them",
            run=f"rm -r {shlex.quote(str(place))}  # if nothing is to go on from it",
            files=len(files),
            bytes=sum(each.stat().st_size for each in files),
        )


def _is_old(place: Path) -> bool:
    """What a swap puts aside for a moment; a kill may leave it so (`pmm.storage.artefact`)."""
    return place.name.startswith(".") and place.name.endswith(".old")


def _claimed(place: Path) -> str:
    """The fingerprint in a damaged manifest, if it is that of what stands beside it."""
    try:
        found = parse_json((place / "manifest.json").read_bytes())
        config = {"kind": found["kind"], **found["config"]}
        mark = fingerprint(config, found["inputs"])
        return mark if mark == found["fingerprint"] else ""
    except JSON_ERRORS:
        return ""


def _asked_for(home: Home, place: Path) -> str:
    """The fingerprint by which what was made from an artefact knows it."""
    room = place.parent.name
    follower = {"tables": "targets", "targets": "shards", "shards": "activations"}.get(room)
    for each in places_of(home, follower) if follower else ():
        manifest = readable_manifest(each)
        if manifest is None:
            continue
        own = {
            "targets": home.tables(str(manifest.config.get("source", "-"))),
            "shards": home.target(each.name),
            "activations": home.shards(each.parent.name),
        }[str(follower)]
        mark = manifest.inputs.get(ROOMS[room])
        if own == place and mark:
            return mark
    return ""
