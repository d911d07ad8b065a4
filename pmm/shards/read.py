"""Shards read back: any items by number, all items in order, all sequences.

Tokens of all items are held in memory (100 bytes an item); pictures are decoded from memory-mapped
tars.
"""

import copy
import json
import mmap
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pmm.errors import BrokenArtefact, SchemaError
from pmm.shards.item_shards import OFFSETS, tar_name
from pmm.shards.items import HiddenStates, Items
from pmm.shards.jpeg import decode
from pmm.shards.kinds import Reads, Side
from pmm.shards.sequence_shards import Lists, Sequences, read_sequences
from pmm.shards.tars import map_tar
from pmm.shards.write import command, shards_manifest
from pmm.storage.artefact import open_artefact, require_input
from pmm.storage.home import Home
from pmm.storage.schemas import read_table

Numbers: TypeAlias = npt.NDArray[np.int64]

TARS_OPEN = 256
"""Item tars mapped at a time: each map holds a file open, and systems allow 1,024 or fewer."""

_INDEX = {"target", "items", "users", "picture", "tokenizer", "sequence_shards"}

# Of an .npy file: the header's length, little-endian (format version 1.0).
_NPY_LENGTH = slice(8, 10)


class Shards:
    """The shards of one target. Items are 1..n_items.

    Safe to read from several threads.

    Raises (when opened):
        MissingArtefact: there are none. BrokenArtefact: files are missing or cut off.
        StaleArtefact: the target has been ingested anew since.
    """

    def __init__(self, place: Path, home: Home | None = None) -> None:
        """Open a folder of shards.

        Args:
            place: the folder.
            home: where the target that they were made from lies. Without it, as for shards that
                were moved away from their home, they are taken as they are.
        """
        self.place, self.home = place, home
        self.target = place.name
        self._made_by = command(place.name)
        self.manifest = shards_manifest(place, place.name)
        index = self._index()
        self.target = str(index["target"])
        local = " --text-encoder FOLDER" if index["tokenizer"]["local"] else ""
        self._made_by = command(self.target) + local
        self._refuse_if_stale()
        self.n_items: int = index["items"]
        self.n_users: int = index["users"]
        self.picture_size: int = index["picture"]["size"]
        self.tokenizer: dict[str, Any] = index["tokenizer"]
        """name, sha256, pad, special, vocabulary, max_tokens."""
        self._n_sequence_shards: int = index["sequence_shards"]
        self._held: Mapping[Side, HiddenStates] = {}
        self._where = self._offsets()
        # Safe from several threads; what is dropped lives on while somebody reads it.
        again = f"{self._made_by} --force"
        self._map = lru_cache(maxsize=TARS_OPEN)(partial(_mapped, place, again))

    @classmethod
    def of(cls, home: Home, target: str) -> "Shards":
        """The shards of a target in a home folder; errors as when opened."""
        return cls(home.shards(target), home)

    @property
    def fingerprint(self) -> str:
        """Of the inputs and options that the shards were made from."""
        return self.manifest.fingerprint

    def with_activations(self, held: Mapping[Side, HiddenStates]) -> "Shards":
        """The same shards, whose items come as stored activations of these modalities."""
        view = copy.copy(self)
        view._held = dict(held)
        return view

    def sequences(self) -> Sequences:
        """All users, in order; read once."""
        return self._sequences

    @cached_property
    def _sequences(self) -> Sequences:
        again = f"{self._made_by} --force"  # whole by its size, so nothing else rewrites it
        found = read_sequences(self.place, self._n_sequence_shards, made_by=again)
        parts = (found.train.values, found.valid, found.test)
        top = max(int(part.max(initial=0)) for part in parts)
        if len(found) != self.n_users or top > self.n_items:
            raise BrokenArtefact(
                f"{self.place}: the sequences hold {len(found):,} users and items up to {top:,}, "
                f"expected {self.n_users:,} users and {self.n_items:,} items. "
                f"Run: {self._made_by} --force"
            )
        return found

    @cached_property
    def train_count(self) -> Numbers:
        """int64 [n_items + 1]: how often each item occurs in the training parts; 0 for padding."""
        return np.bincount(self._sequences.train.values, minlength=self.n_items + 1).astype(
            np.int64
        )

    @cached_property
    def has_picture(self) -> npt.NDArray[np.bool_]:
        """bool [n_items + 1]."""
        return np.concatenate([[False], self._where["jpg_size"] > 0])

    @cached_property
    def has_text(self) -> npt.NDArray[np.bool_]:
        """bool [n_items + 1]: whether the text gave any token beside the special ones."""
        return np.concatenate([[False], self.tokens.lengths > self.tokenizer["special"]])

    @cached_property
    def tokens(self) -> Lists:
        """The tokens of all items; item k is list k - 1."""
        lengths = np.zeros(self.n_items, dtype=np.int64)
        values = [np.zeros(0, dtype=np.int32)]
        for rows in np.split(np.arange(self.n_items), self._shard_starts()):
            parts = [self._tokens_of(row) for row in rows.tolist()]
            lengths[rows] = [len(part) for part in parts]
            if parts:
                values.append(np.concatenate(parts))
        return Lists(
            offsets=np.concatenate([[0], np.cumsum(lengths)]), values=np.concatenate(values)
        )

    def _shard_starts(self) -> Numbers:
        """The rows at which another shard begins."""
        return np.flatnonzero(np.diff(self._where["shard"])) + 1

    def _tokens_of(self, row: int) -> npt.NDArray[np.int32]:
        content = self._content("tokens", row)
        start = 10 + int.from_bytes(content[_NPY_LENGTH], "little")
        try:
            return np.frombuffer(content, dtype="<i4", offset=start)
        except ValueError as error:
            raise self._damaged(row + 1, "token list", error) from error

    def record(self, item: int) -> dict[str, Any]:
        """What is known of an item: `item`, `item_id`, `text`, `picture`, perhaps `reason`."""
        self._check(np.array([item]))
        try:
            found: dict[str, Any] = json.loads(bytes(self._content("json", item - 1)))
        except ValueError as error:
            raise self._damaged(item, "record", error) from error
        return found

    def picture(self, item: int) -> npt.NDArray[np.uint8]:
        """uint8 [size, size, 3]; zeros where the item has no picture."""
        self._check(np.array([item]))
        if not self.has_picture[item]:
            return np.zeros((self.picture_size, self.picture_size, 3), dtype=np.uint8)
        try:
            return decode(self._content("jpg", item - 1))
        except ValueError as error:
            raise self._damaged(item, "picture", error) from error

    def items(self, numbers: Numbers, *, read: Reads = "both") -> Items:
        """The content of distinct items, whose numbers must ascend.

        Tokens are padded to the longest text among them. Where activations of the pictures are
        stored, they come in place of the pictures.

        Args:
            numbers: of the items.
            read: with "text" no picture is read, with "vision" no text, with "none" neither: no
                item then has one.

        Raises:
            ValueError: numbers that are no items, or not in ascending order.
            BrokenArtefact: a shard is damaged.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        self._check(numbers)
        none = np.zeros(len(numbers), dtype=np.bool_)
        texts, pictures = read in ("both", "text"), read in ("both", "vision")
        has_picture_I = self.has_picture[numbers] if pictures else none
        has_text_I = self.has_text[numbers] if texts else none
        text = self._held.get("text") if texts else None
        picture = self._held.get("vision") if pictures else None
        size = self.picture_size if pictures and picture is None else 0
        picture_IHW3 = np.zeros((len(numbers), size, size, 3), dtype=np.uint8)
        for row in np.flatnonzero(has_picture_I).tolist() if size else ():
            picture_IHW3[row] = self.picture(int(numbers[row]))
        token_IT, mask_IT = self._padded(numbers) if texts else self._no_tokens(numbers)
        return Items(
            item_I=torch.from_numpy(numbers.copy()),
            token_IT=torch.from_numpy(token_IT),
            token_mask_IT=torch.from_numpy(mask_IT),
            picture_I3HW=torch.from_numpy(picture_IHW3).permute(0, 3, 1, 2),
            has_text_I=torch.from_numpy(has_text_I),
            has_picture_I=torch.from_numpy(has_picture_I),
            text_hidden_ITD=text.gather(numbers) if text else None,
            picture_hidden_IPD=picture.gather(numbers) if picture else None,
        )

    def iterate(self, chunk: int, *, read: Reads = "both") -> Iterator[Items]:
        """All items in order, `chunk` at a time: a catalogue in bounded memory."""
        for start in range(1, self.n_items + 1, chunk):
            numbers = np.arange(start, min(start + chunk, self.n_items + 1))
            yield self.items(numbers, read=read)

    def _no_tokens(self, numbers: Numbers) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """What stands for the tokens where texts are not read: one of padding."""
        shape = (len(numbers), 1)
        return np.full(shape, self.tokenizer["pad"], np.int64), np.ones(shape, np.bool_)

    def _padded(self, numbers: Numbers) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Tokens int64 [I, T] and which are real; of an item without text the first one only."""
        starts = self.tokens.offsets[numbers - 1]
        held = self.tokens.lengths_of(numbers - 1)
        lengths = np.where(self.has_text[numbers], held, 1)
        column = np.arange(lengths.max(initial=1))
        real = column < lengths[:, None]
        index = (starts[:, None] + column)[real]
        padded = np.full(real.shape, self.tokenizer["pad"], dtype=np.int64)
        # A tokenizer without special tokens leaves nothing of an empty text: its padding stands in.
        stored = real & (column < held[:, None])
        padded[stored] = self.tokens.values[index[stored[real]]]
        return padded, real

    def _content(self, part: str, row: int) -> memoryview:
        """The bytes of one member."""
        tar = self._map(int(self._where["shard"][row]))
        offset = int(self._where[f"{part}_offset"][row])
        size = int(self._where[f"{part}_size"][row])
        content = memoryview(tar)[offset : offset + size]
        if len(content) < size:
            raise BrokenArtefact(
                f"{self._tar(row)} is cut off before item {row + 1}. Run: {self._made_by} --force"
            )
        return content

    def _damaged(self, item: int, part: str, error: ValueError) -> BrokenArtefact:
        return BrokenArtefact(
            f"{self._tar(item - 1)}: the {part} of item {item} is damaged ({error}). "
            f"Run: {self._made_by} --force"
        )

    def _tar(self, row: int) -> Path:
        return self.place / tar_name(int(self._where["shard"][row]))

    def _check(self, numbers: Numbers) -> None:
        if len(numbers) and (numbers.min() < 1 or numbers.max() > self.n_items):
            raise ValueError(f"items are 1..{self.n_items}, found {numbers.min()}..{numbers.max()}")
        if np.any(np.diff(numbers) <= 0):
            raise ValueError("item numbers must be distinct and ascending")

    def _index(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.place / "index.json").read_text("utf-8"))
            lacking = _INDEX - found.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise BrokenArtefact(
                f"{self.place / 'index.json'} cannot be read ({error}). "
                f"Run: {self._made_by} --force"
            ) from error
        if lacking:
            raise BrokenArtefact(
                f"{self.place / 'index.json'} lacks {', '.join(sorted(lacking))}. "
                f"Run: {self._made_by} --force"
            )
        return found

    def _offsets(self) -> dict[str, Numbers]:
        path = self.place / "offsets.parquet"
        try:
            table = read_table(path, OFFSETS)
        except (BrokenArtefact, SchemaError) as error:
            raise BrokenArtefact(f"{error}. Run: {self._made_by} --force") from error
        where = {name: table[name].to_numpy() for name in OFFSETS.schema.names}
        if not np.array_equal(where["item"], np.arange(1, self.n_items + 1)):
            raise BrokenArtefact(
                f"{path} does not list the items 1..{self.n_items:,} in order. "
                f"Run: {self._made_by} --force"
            )
        return where

    def _refuse_if_stale(self) -> None:
        """Without a home, or a target there, there is nothing to compare with."""
        if self.home is None or not (source := self.home.target(self.place.name)).exists():
            return
        target = open_artefact(source, kind="target", made_by="pmm ingest")
        require_input(
            self.place, self.manifest, "target", target.fingerprint, made_by=self._made_by
        )


def _mapped(place: Path, made_by: str, shard: int) -> mmap.mmap:
    return map_tar(place / tar_name(shard), made_by=made_by)
