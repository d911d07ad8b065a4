"""Activations of frozen trunks: what an encoder's bottom makes of each item, computed once.

One artefact for a target and a trunk, below `activations/<target>/`: NumPy files of `ITEMS_A_FILE`
items each, which are memory-mapped. A row of a file is a whole picture, or one token of a text:
texts are ragged, real tokens only, one after the other. Where a trunk makes one vector of an item
(`pmm.model.features.frozen_vectors`), a row is that vector. Items without the modality have no
rows. Beside each file stand the checksums of its blocks, by which what is read is verified on its
first use (`pmm.storage.blocks`).

Shape suffixes: I items, T text tokens, P picture tokens, K tokens of either, D the trunk's width.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pmm.advice import command
from pmm.arrays import Int64s
from pmm.errors import BrokenArtefact
from pmm.machine import free_bytes
from pmm.progress import Progress, progress
from pmm.shards.items import Items
from pmm.shards.kinds import Side, Storage
from pmm.shards.read import Shards
from pmm.storage.artefact import Built, atomic_file, build, fingerprint, open_artefact, snapshot
from pmm.storage.atomic import reserve
from pmm.storage.blocks import BLOCK, CheckedBytes, checksums_file, write_checksums
from pmm.storage.verify import Files, require_whole

Tier = Literal["device", "memory", "map"]

ITEMS_A_FILE = 4096
"""Of 50 picture tokens of 768 in half precision 315 MB; a kill loses at most one file."""
MOST_OF_MEMORY = 0.4
"""Share of the free memory, the machine's or the accelerator's, that activations may take."""

_TYPES: dict[Storage, type[np.floating[Any]]] = {"fp16": np.float16, "fp32": np.float32}


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """The frozen bottom of an encoder."""

    side: Side
    run: Callable[[Items], Tensor]
    """Hidden states [I, K, D] at the cut, of items that all have this modality.

    Of a text's K tokens the real ones come first.
    """
    about: dict[str, Any]
    """What its output depends on besides the shards: digest of its weights, cut, precision."""
    tokens: int
    """K, the same for all items; 0: as many as the item's text has."""
    width: int
    parameters: int = 0
    """Of the encoder, and the bytes of them; 0: nobody said."""
    parameter_bytes: int = 0

    @property
    def row(self) -> int:
        """Values of a stored row."""
        return self.width * max(1, self.tokens)


def place_of(folder: Path, trunk: Trunk, storage: Storage, shards: Shards) -> Path:
    """Where a trunk's activations stand below a target's folder of them."""
    # By what the output depends on, so that another cut, encoder or type of storage lies beside
    # this one: going back to the former options finds the former files.
    mark = fingerprint(_config(trunk, storage), {"shards": shards.fingerprint})
    return folder / f"{trunk.side}-{mark[:16]}"


def write_activations(
    folder: Path,
    shards: Shards,
    trunk: Trunk,
    *,
    storage: Storage = "fp16",
    items_at_once: int = 64,
    force: bool = False,
) -> Built:
    """Run all items that have the modality through a trunk, in order, unless that was done before.

    After a kill the finished files are kept; of two processes one waits for the other. The same
    bytes come out for the same device and `items_at_once`; other batches change the last bit of
    some values.

    Args:
        folder: of the target's activations.
        shards: the target's; opened without activations.
        trunk: in eval mode.
        storage: type of the stored values.
        items_at_once: run together.
        force: write even where nothing changed.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    numbers = items_with(shards, trunk.side)
    label = f"Trunk of {trunk.side}, {shards.target}"

    def write(draft: Path) -> dict[str, int]:
        with progress(len(numbers), label, "items") as bar:
            parts = np.split(numbers, range(ITEMS_A_FILE, len(numbers), ITEMS_A_FILE))
            todo = {draft / f"{k:05d}.npy": part for k, part in enumerate(parts) if len(part)}
            for path in [path for path in todo if path.exists()]:
                bar.advance(len(todo.pop(path)))
                if not checksums_file(path).exists():
                    write_checksums(path, path)
            batches = [_batches(part, items_at_once) for part in todo.values()]
            coming = shards.in_order([each for part in batches for each in part], read=trunk.side)
            with closing(coming):
                for (path, part), own in zip(todo.items(), batches, strict=True):
                    items = islice(coming, len(own))
                    rows, still = row_counts(shards, trunk)[part], shards.require_unchanged
                    _write_file(path, items, rows, trunk, storage, bar, still)
        return {"items": len(numbers), "rows": int(row_counts(shards, trunk)[numbers].sum())}

    return build(
        place_of(folder, trunk, storage, shards),
        kind="activations",
        config=_config(trunk, storage),
        inputs={"shards": shards.fingerprint},
        write=write,
        force=force,
        wait=True,
        still=shards.require_unchanged,
    )


def items_with(shards: Shards, side: Side) -> Int64s:
    """The items that have a modality, ascending."""
    return np.flatnonzero(shards.has_text if side == "text" else shards.has_picture)


def row_counts(shards: Shards, trunk: Trunk) -> Int64s:
    """int64 [n_items + 1]: rows that each item has in the files; 0 without the modality."""
    has = shards.has_text if trunk.side == "text" else shards.has_picture
    if trunk.tokens:
        return has.astype(np.int64)
    lengths = np.concatenate([[0], shards.tokens.lengths])
    return np.where(has, lengths, 0)


class Activations:
    """A trunk's stored activations, opened for reading.

    Safe to read from several threads.

    Raises (when opened):
        BrokenArtefact: the files do not hold what the shards ask for.
    """

    def __init__(self, place: Path, shards: Shards, trunk: Trunk, *, device: torch.device) -> None:
        self.side = trunk.side
        counts = row_counts(shards, trunk)
        self._starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
        self._counts, self._row, self._width = counts, trunk.row, trunk.width
        numbers = items_with(shards, trunk.side)
        with snapshot(place, "stored activations").reading():
            self._open(place, numbers, trunk, _repair(shards))
        self.bytes = sum(file.nbytes for file in self._files)
        self.tier: Tier = _tier(self.bytes, device)
        self._held: Tensor | None = None
        if self.tier != "map" and self._files:
            for blocks in filter(None, self._blocks):
                blocks.require_all()
            whole = torch.from_numpy(np.concatenate(self._files))
            self._held = whole.to(device) if self.tier == "device" else whole

    def _open(self, place: Path, numbers: Int64s, trunk: Trunk, again: str) -> None:
        counts = self._counts
        files = open_artefact(place, kind="activations", made_by=again).files
        names = sorted(name for name in files if name.endswith(".npy"))
        opened = [_open_file(place, files, name, again) for name in names]
        self._files = [file for file, _ in opened]
        self._blocks = [blocks for _, blocks in opened]
        firsts = numbers[::ITEMS_A_FILE]
        self._first_rows = self._starts[firsts] if len(firsts) else np.zeros(0, np.int64)
        rows = sum(len(file) for file in self._files)
        if rows != counts.sum() or any(file.shape[1:] != (trunk.row,) for file in self._files):
            raise BrokenArtefact(
                f"{place} holds {rows:,} rows, expected {int(counts.sum()):,} of {trunk.row} "
                f"values. Run: {again}"
            )

    def gather(self, numbers: Int64s) -> Tensor:
        """Hidden states [I, K, D] of some items, zeros behind the real tokens and of items without.

        K is the largest number of tokens among them, at least 1. On the accelerator where they are
        held there; in the type that is stored.
        """
        counts = self._counts[numbers]
        # Texts are ragged, so rows are gathered token by token: rectangles as wide as the longest
        # text of the target would be stored, read and copied for the sake of their padding.
        column = np.arange(max(1, int(counts.max(initial=0))))
        real = column < counts[:, None]
        rows = (self._starts[numbers][:, None] + column)[real]
        found = self._rows(rows)
        if not real.all():
            spread = found.new_zeros(*real.shape, self._row)
            spread[torch.from_numpy(real).to(found.device)] = found
            found = spread
        return found.reshape(len(numbers), -1, self._width)

    def _rows(self, rows: Int64s) -> Tensor:
        if self._held is not None:
            return self._held[torch.from_numpy(rows).to(self._held.device)]
        if not self._files:
            return torch.zeros(len(rows), self._row, dtype=torch.float16)
        file_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        found = np.empty((len(rows), self._row), dtype=self._files[0].dtype)
        # File by file, since each is a mapping of its own; the rows of one are read in one go.
        for k in np.unique(file_of).tolist():
            own = file_of == k
            file, blocks, chosen = self._files[k], self._blocks[k], rows[own] - self._first_rows[k]
            if blocks is not None:
                row_bytes = self._row * file.itemsize
                first = len(blocks.raw) - file.nbytes + chosen * row_bytes
                blocks.require(first, first + row_bytes - 1)
            found[own] = file[chosen]
        return torch.from_numpy(found)


def _repair(shards: Shards) -> str:
    """The command that makes damaged activations again. Training does so by itself."""
    return command("check", *([shards.home.root] if shards.home else []), repair=True)


def _open_file(
    place: Path, files: Files, name: str, made_by: str
) -> tuple[np.ndarray[Any, Any], CheckedBytes | None]:
    """A file of activations, mapped, and its blocks; those of before have no checksums of theirs.

    Raises:
        BrokenArtefact: its head, or the whole of one of before, is damaged.
    """
    path = place / name
    sums = checksums_file(path).name
    require_whole(place, files, [sums if sums in files else name], made_by=made_by)
    try:
        if sums not in files:
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        blocks = CheckedBytes(path, made_by=made_by)
        blocks.require(np.zeros(1, np.int64), np.zeros(1, np.int64))
        head = io.BytesIO(blocks.raw[:BLOCK].tobytes())
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        file = np.frombuffer(blocks.raw.data, dtype, int(np.prod(shape)), head.tell())
        return file.reshape(shape), blocks
    except (OSError, ValueError, EOFError) as error:
        raise BrokenArtefact(f"{path} is no NumPy file ({error}). Run: {made_by}") from error


def _config(trunk: Trunk, storage: Storage) -> dict[str, Any]:
    return {"side": trunk.side, "storage": storage, "width": trunk.width, **trunk.about}


def _tier(size: int, device: torch.device) -> Tier:
    # Where they fit with room to spare they are held: reading mapped files at random is bound by
    # the disk as soon as the system drops their pages. Half precision halves them at a cost far
    # below that of dropout (docs/log.md, 2026-11-26).
    if device.type == "cuda" and size < MOST_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "memory" if size < MOST_OF_MEMORY * free_bytes() else "map"


def _batches(numbers: Int64s, size: int) -> list[Int64s]:
    return np.split(numbers, range(size, len(numbers), size))


def _write_file(
    path: Path,
    batches: Iterator[Items],
    counts: Int64s,
    trunk: Trunk,
    storage: Storage,
    bar: Progress,
    still: Callable[[], None],
) -> None:
    shape, kind = (int(counts.sum()), trunk.row), np.dtype(_TYPES[storage])
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    # Written, not memory-mapped: on a full disk a write fails, but a page of a map that finds no
    # room ends the interpreter (SIGBUS). The room is asked for before anything is computed.
    with atomic_file(path, before=still) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        reserve(file, file.tell() + shape[0] * shape[1] * kind.itemsize)
        for items in batches:
            own, counts = np.split(counts, [len(items.item_I)])
            hidden_IKD = trunk.run(items).float().cpu().numpy()
            values_IKR = hidden_IKD.reshape(len(own), -1, trunk.row)
            values = values_IKR[np.arange(values_IKR.shape[1]) < own[:, None]]
            file.write(np.ascontiguousarray(values, dtype=kind).data)
            bar.advance(len(own))
        file.flush()
        write_checksums(path, temporary)  # first, so that a file in its place has them
