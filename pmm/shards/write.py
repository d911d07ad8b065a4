"""`pmm shard`: a target's items and sequences as WebDataset shards.

Shards of items are made by several processes, each whole shard by one of them; the bytes do not
depend on how many there are. What a killed run has finished is kept by the next.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from pmm import advice
from pmm.errors import ArtefactError, InputError, StaleArtefact
from pmm.ingest.targets.target_tables import command_to_ingest, open_target
from pmm.machine import cores
from pmm.progress import progress
from pmm.shards.hub import local_folder
from pmm.shards.item_shards import (
    NO_CONTENT,
    OFFSETS,
    OFFSETS_OF_RECORDS,
    Item,
    is_written,
    offsets,
    table_name,
    tar_name,
)
from pmm.shards.jpeg import MAX_BYTES, PictureFormat
from pmm.shards.sequence_shards import write_sequence_shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.tokens import TokenEncoder, Tokenizer, load_tokenizer
from pmm.shards.workers import Setting, in_process, pooled
from pmm.storage.artefact import (
    Built,
    Digests,
    Manifest,
    atomic_file,
    build,
    open_artefact,
    snapshot,
    write_json,
)
from pmm.storage.home import Home, whole_path
from pmm.storage.json_files import read_json
from pmm.storage.made_by import command_that_made, remember
from pmm.storage.schemas import SEQUENCES, TARGET_ITEMS, read_table, write_table
from pmm.storage.verify import require_whole

KIND = "shards"
_READ = ("items.parquet", "sequences.parquet", "card.json")
"""What is read of a target."""


Again: TypeAlias = Callable[..., str]
"""Options that change -> the command that was asked for, with them."""


def command(
    target: str,
    home: Home | None = None,
    made_with: Mapping[str, Any] | None = None,
    **changes: object,
) -> str:
    """The command that makes a target's shards, for messages: as it was when they were made.

    Args:
        target: whose shards.
        home: where they are; None: nobody knows.
        made_with: index.json of the shards, which says what a home that has forgotten does not.
        changes: options by name, over those.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    known = home and command_that_made(home, home.shards(target), **changes)
    if known:
        return known
    options = {**_recorded(made_with or {}), **changes}
    return advice.command("shard", target=target, **options, home=home and home.option)


def _recorded(index: Mapping[str, Any]) -> dict[str, object]:
    """What index.json says of the options that shards were made with, beside the defaults."""
    if index.get("content") == "none":
        return {"no_content": True}
    tokenizer = index.get("tokenizer") or {}
    found: dict[str, object] = {
        "text_encoder": "FOLDER" if tokenizer.get("local") else tokenizer.get("name"),
        "max_tokens": tokenizer.get("max_tokens"),
        "text_prefix": tokenizer.get("prefix", ""),
        "jpeg_quality": (index.get("picture") or {}).get("quality"),
        "size": (index.get("picture") or {}).get("size"),
    }
    usual = vars(ShardOptions())
    usual["size"] = usual["picture_size"]
    return {each: value for each, value in found.items() if value != usual[each]}


def write_shards(home: Home, target: str, options: ShardOptions, *, force: bool = False) -> Built:
    """Make `shards/<slug>/` from `targets/<slug>/` and its pictures, unless nothing changed.

    Raises:
        MissingArtefact: the target has not been ingested.
        InputError: no tokenizer, no picture folder, or not one picture (see `allow_no_pictures`).
        StorageError: the home folder cannot be written, or the disk is full.
    """
    name = home.find_target(target)
    source = home.target(name)
    said = _said(options)
    again = partial(advice.command, "shard", target=name, **said, home=home.option)
    seen = snapshot(source, f"the target {name}", again())
    with seen.reading():
        manifest = open_target(home, name)
        require_whole(source, manifest.files, _READ, made_by=command_to_ingest(home, name))
        items = read_table(source / "items.parquet", TARGET_ITEMS)
        images = [image for image in items["image"].to_pylist() if image is not None]
        if options.no_content and not force:
            _keep_content(home, name, manifest.fingerprint, again)
        pictures = None
        if not options.no_content:
            pictures = _picture_folder(name, source, images, options, again)
    tokenizer, texts = _tokenizer(options), (options.max_tokens, options.text_prefix)
    digest = _pictures_digest(home, pictures, images)
    size, quality = options.picture_size, options.jpeg_quality
    picture_format = PictureFormat(size=size, quality=quality, max_pixels=options.max_pixels)

    def write(folder: Path) -> dict[str, int]:
        setting = Setting(folder, pictures, picture_format, tokenizer, *texts)
        n_shards = _write_items(name, items, setting, options)
        counts = _counts(folder, n_shards)
        if not (counts.get("pictures") or options.allow_no_pictures or options.no_content):
            raise InputError(_nothing_read(name, pictures, counts, again))
        with seen.reading():
            sequences = read_table(source / "sequences.parquet", SEQUENCES)
        n_sequence_shards = write_sequence_shards(folder, sequences)
        _write_offsets(folder, n_shards, options, again())
        index = _index(name, setting, options, items.num_rows)
        index |= {"sequence_shards": n_sequence_shards, "users": sequences.num_rows}
        with atomic_file(folder / "index.json") as temporary:
            write_json(temporary, index)
        return counts | {"users": sequences.num_rows}

    def still() -> None:
        seen.require_unchanged()
        if _pictures_digest(home, pictures, images) != digest:
            raise StaleArtefact(f"{pictures} changed while it was read. Run again: {again()}")

    built = build(
        home.shards(name),
        kind=KIND,
        config=_config(tokenizer, options),
        inputs={"target": manifest.fingerprint, "pictures": digest},
        write=write,
        force=force,
        still=still,
    )
    remember(home, built.place, "shard", target=name, **said)
    return built


def _write_offsets(folder: Path, n_shards: int, options: ShardOptions, made_by: str) -> None:
    """Where in the tars each item's members stand."""
    with atomic_file(folder / "offsets.parquet") as temporary:
        table = OFFSETS_OF_RECORDS if options.no_content else OFFSETS
        write_table(temporary, offsets(folder, n_shards, made_by=made_by), table)


def _pictures_digest(home: Home, pictures: Path | None, images: list[str]) -> str:
    return (
        "none"
        if pictures is None
        else Digests(home.root).files(pictures, images, most_bytes=MAX_BYTES)
    )


def _tokenizer(options: ShardOptions) -> Tokenizer | None:
    """What makes tokens of texts; None where no text is read. Errors as of `write_shards`."""
    if options.no_content:
        return None
    tokenizer = load_tokenizer(options.text_encoder)
    TokenEncoder(tokenizer, options.max_tokens, options.text_prefix)
    return tokenizer


def _keep_content(home: Home, name: str, target: str, again: Again) -> None:
    """Refuse to put shards without content in the place of those that have it.

    Raises:
        InputError: such shards of this very target are there.
    """
    try:
        held = open_artefact(home.shards(name), kind=KIND, made_by=again())
    except ArtefactError:
        return
    if has_content(held) and held.inputs.get("target") == target:
        onwards = advice.command("train", target=name, model="sasrec", home=home.option)
        raise InputError(
            f"{home.shards(name)} holds the content of the items already, and models on ids train "
            f"on that too: {onwards}. To replace it all the same: {again(force=True)}"
        )


def has_content(manifest: Manifest) -> bool:
    """Whether shards hold texts and pictures of their items, as far as there are any."""
    return manifest.config.get("content") != "none"


def _said(options: ShardOptions) -> dict[str, Any]:
    """What was asked for beside the defaults, a local encoder by its whole path."""
    # Of the options alone: a request says target, home and --force too.
    names = [each.name for each in dataclasses.fields(ShardOptions)]
    plain = ShardOptions(**{name: getattr(options, name) for name in names})
    said = advice.said_options(plain, leave_out=["workers"])
    folder = local_folder(options.text_encoder)
    return said | ({"text_encoder": str(folder.absolute())} if folder else {})


def _config(tokenizer: Tokenizer | None, options: ShardOptions) -> dict[str, Any]:
    if tokenizer is None:
        return {"content": "none", "items_per_shard": options.items_per_shard}
    return {
        "text_encoder": tokenizer.name,
        "tokenizer": tokenizer.digest,
        "max_tokens": options.max_tokens,
        **({"text_prefix": options.text_prefix} if options.text_prefix else {}),
        "picture_size": options.picture_size,
        "jpeg_quality": options.jpeg_quality,
        "max_pixels": options.max_pixels,
        "items_per_shard": options.items_per_shard,
    }


def _picture_folder(
    name: str, source: Path, images: list[str], options: ShardOptions, again: Again
) -> Path | None:
    """Where the pictures are. InputError where nothing can come of them, before any work."""
    if not images:
        if options.allow_no_pictures:
            return None
        raise InputError(
            f"no item of {name} names a picture ({source / 'items.parquet'}). Ingest it with "
            f"pictures, or shard it as text only: {again(allow_no_pictures=True)}"
        )
    card = source / "card.json"
    recorded = read_json(card, again=f"Ingest {name} again").get("pictures")
    folder = options.pictures or (Path(recorded) if recorded else None)
    if folder is None:
        raise InputError(
            f"{len(images):,} items of {name} name a picture, but {card} names no picture folder. "
            f"Give it: {again(pictures='DIR')}"
        )
    folder = whole_path(folder)
    if not folder.is_dir():
        raise InputError(
            f"the picture folder of {name}, {folder}, is not there. Give its new place: "
            f"{again(pictures='DIR')}"
        )
    if not options.allow_no_pictures and not any(os.path.lexists(folder / i) for i in images):
        raise InputError(
            f"none of the {len(images):,} pictures of {name} is below {folder} (the first should "
            f"be {folder / images[0]}). Give the right folder: {again(pictures='DIR')}"
        )
    return folder


def _nothing_read(name: str, pictures: Path | None, counts: dict[str, int], again: Again) -> str:
    reasons = ", ".join(
        f"{count:,} {key.removeprefix('text_only_')}"
        for key, count in counts.items()
        if key.startswith("text_only_")
    )
    return (
        f"not a single picture of {name} below {pictures} could be read ({reasons}). Give another "
        f"folder with --pictures DIR, or go on without pictures: {again(allow_no_pictures=True)}"
    )


def _counts(folder: Path, n_shards: int) -> dict[str, int]:
    """Items, and what became of them, from the tables of all shards."""
    paths = [folder / table_name(shard) for shard in range(n_shards)]
    statuses = pl.read_parquet(paths, columns=["status"])["status"]
    if len(statuses) and (statuses == NO_CONTENT).all():
        return {"items": len(statuses)}
    reason = pl.read_parquet(paths, columns=["reason"])["reason"]
    reasons = reason.drop_nulls().value_counts().sort("reason").rows()
    return {
        "items": len(reason),
        "pictures": reason.null_count(),
        "text_only": len(reason) - reason.null_count(),
        **{f"text_only_{why}": count for why, count in reasons},
    }


def _index(name: str, setting: Setting, options: ShardOptions, n_items: int) -> dict[str, Any]:
    step, tokenizer, size = options.items_per_shard, setting.tokenizer, setting.picture_format
    return {
        **({} if tokenizer else {"content": "none"}),
        "target": name,
        "items": n_items,
        "item_shards": [
            {"tar": tar_name(k), "first": 1 + k * step, "last": min((k + 1) * step, n_items)}
            for k in range(-(-n_items // step))
        ],
        "picture": {
            "size": size.size if tokenizer else 0,
            "quality": size.quality if tokenizer else 0,
        },
        "tokenizer": {
            "name": tokenizer.name if tokenizer else None,
            "local": tokenizer.local if tokenizer else False,
            "sha256": tokenizer.digest if tokenizer else None,
            "pad": tokenizer.pad if tokenizer else 0,
            "special": tokenizer.special if tokenizer else 0,
            "vocabulary": tokenizer.vocabulary if tokenizer else 0,
            "max_tokens": setting.max_tokens if tokenizer else 0,
            **({"prefix": setting.text_prefix} if setting.text_prefix else {}),
        },
    }


def _write_items(name: str, items: pa.Table, setting: Setting, options: ShardOptions) -> int:
    """Write the shards of items that are not there yet; returns how many there are in all."""
    step = options.items_per_shard
    n_shards: int = -(-items.num_rows // step)
    todo = [shard for shard in range(n_shards) if not is_written(setting.folder, shard)]
    tasks = ((shard, _rows(items, shard * step, step)) for shard in todo)
    workers = min(options.workers or cores(), max(1, len(todo)))
    with progress(items.num_rows, f"Sharding {name}", "items") as bar:
        bar.advance(items.num_rows - sum(min(step, items.num_rows - s * step) for s in todo))
        done = in_process(tasks, setting) if workers == 1 else pooled(tasks, setting, workers)
        for count in done:
            bar.advance(count)
    return n_shards


def _rows(items: pa.Table, start: int, count: int) -> list[Item]:
    part = items.slice(start, count)
    columns = (part[name].to_pylist() for name in ("item", "item_id", "text", "image"))
    return [Item(*row) for row in zip(*columns, strict=True)]


def shards_manifest(place: Path, made_by: str) -> Manifest:
    """The manifest of a target's shards, or the command that makes them."""
    return open_artefact(place, kind=KIND, made_by=made_by)
