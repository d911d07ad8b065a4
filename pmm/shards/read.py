"""Shards read back: any items by number, all items in order, all sequences.

Tokens of all items are held in memory (100 bytes an item); pictures are decoded from memory-mapped
tars. What is read in order comes through WebDataset (`pmm.shards.stream_items`).
"""

import copy
import json
import mmap
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmm.arrays import Int64s
from pmm.errors import BrokenArtefact, SchemaError
from pmm.ingest.targets.target_tables import command_to_ingest
from pmm.shards.item_shards import OFFSETS, OFFSETS_OF_RECORDS, tar_name
from pmm.shards.items import HiddenStates, Items
from pmm.shards.jpeg import decode
from pmm.shards.kinds import Reads, Side
from pmm.shards.sequence_shards import Lists, Sequences, read_sequences
from pmm.shards.stream_items import (
    ill_typed_index,
    stream_samples,
    token_list,
)
from pmm.shards.tars import map_tar
from pmm.shards.tokens import TokenEncoder, Tokenizer, Tokens, no_tokens, padded_tokens
from pmm.shards.write import command, has_content, shards_manifest
from pmm.storage.artefact import open_artefact, require_input, snapshot
from pmm.storage.home import Home
from pmm.storage.json_files import read_json
from pmm.storage.made_by import option_that_made
from pmm.storage.schemas import read_table
from pmm.storage.verify import require_whole

TARS_OPEN = 256
"""Item tars mapped at a time: each map holds a file open, and systems allow 1,024 or fewer."""

_INDEX = {"target", "items", "users", "picture", "tokenizer", "sequence_shards"}


class Shards:
    """The shards of one target. Items are 1..n_items.

    Safe to read from several threads.

    Raises (when opened):
        MissingArtefact: there are none. BrokenArtefact: files are missing or damaged; tars are
            verified when they are first read.
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
        self._made_by = command(place.name, home)
        self._seen = snapshot(place, f"the shards of {place.name}")
        with self._seen.reading():
            self._open()

    def _open(self) -> None:
        place, home = self.place, self.home
        self.manifest = shards_manifest(place, self._made_by)
        self._whole = set[str]()  # names of files that were verified
        self._require(["index.json", "offsets.parquet"])
        self._read_index = index = self._index()
        self.target = str(index["target"])
        self._made_by = command(self.target, home, index)
        self._refuse_if_stale()
        self.n_items: int = index["items"]
        self.n_users: int = index["users"]
        self.picture_size: int = index["picture"]["size"]
        self.jpeg_quality: int = index["picture"]["quality"]
        self.tokenizer: dict[str, Any] = index["tokenizer"]
        """name, sha256, pad, special, vocabulary, max_tokens; prefix, where texts have one."""
        self.has_content: bool = has_content(self.manifest)
        """Whether texts and pictures were read at all, see `pmm shard --no-content`."""
        self._n_sequence_shards: int = index["sequence_shards"]
        self._held: Mapping[Side, HiddenStates] = {}
        self._own_tokens: TokenEncoder | None = None
        self._where = self._offsets()
        # Safe from several threads; what is dropped lives on while somebody reads it.
        self._map = lru_cache(maxsize=TARS_OPEN)(self._mapped)

    @classmethod
    def of(cls, home: Home, target: str) -> "Shards":
        """The shards of a target in a home folder; errors as when opened."""
        return cls(home.shards(target), home)

    def command_to_make(self, **changes: object) -> str:
        """The command that makes these shards, with some options changed (`pmm.advice`)."""
        return command(self.target, self.home, self._read_index, **changes)

    @property
    def text_encoder(self) -> str:
        """Whose tokens these are, as an option says it: a local encoder by its folder, if known."""
        known = self.home and option_that_made(self.home, self.place, "text_encoder")
        usual = "FOLDER" if self.tokenizer["local"] else str(self.tokenizer["name"])
        return str(known or usual)

    @property
    def fingerprint(self) -> str:
        """Of the inputs and options that the shards were made from."""
        return self.manifest.fingerprint

    def require_unchanged(self) -> None:
        """Refuse to publish what was made of these shards, where others have taken their place.

        Raises:
            StaleArtefact: another process has replaced them.
        """
        self._seen.require_unchanged()

    def with_activations(self, held: Mapping[Side, HiddenStates]) -> "Shards":
        """The same shards, whose items come as stored activations of these modalities."""
        view = copy.copy(self)
        view._held = dict(held)
        return view

    def with_tokenizer(self, tokenizer: Tokenizer) -> "Shards":
        """The same shards with the tokens of another tokenizer, made of the texts when asked for.

        There are as many of a text at most, and the same items have a text.
        """
        view = copy.copy(self)
        view.__dict__["has_text"] = self.has_text
        view.__dict__.pop("tokens", None)
        view.tokenizer = {
            # a prefix is what the encoder of the shards wants
            **{name: value for name, value in self.tokenizer.items() if name != "prefix"},
            "name": tokenizer.name,
            "local": tokenizer.local,
            "sha256": tokenizer.digest,
            "pad": tokenizer.pad,
            "special": tokenizer.special,
            "vocabulary": tokenizer.vocabulary,
        }
        view._own_tokens = TokenEncoder(tokenizer, self.tokenizer["max_tokens"])
        return view

    @property
    def token_encoder(self) -> TokenEncoder | None:
        """What makes tokens of texts, where they are not those that are stored."""
        return self._own_tokens

    def sequences(self) -> Sequences:
        """All users, in order; read once."""
        return self._sequences

    @cached_property
    def _sequences(self) -> Sequences:
        again = f"{self._made_by} --force"
        n_shards = self._n_sequence_shards
        with self._seen.reading():
            self._require(f"sequences-{shard:05d}.tar" for shard in range(n_shards))
            found = read_sequences(self.place, n_shards, made_by=again)
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
    def train_count(self) -> Int64s:
        """int64 [n_items + 1]: how often each item occurs in the training parts; 0 for padding.

        All of them counts, not what batches meet (docs/paper.md, "What is counted").
        """
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
        if not self.has_content:
            nothing = np.zeros(self.n_items + 1, dtype=np.int64)
            return Lists(offsets=nothing, values=np.zeros(0, dtype=np.int32))
        self._require(tar_name(shard) for shard in np.unique(self._where["shard"]).tolist())
        lengths = np.zeros(self.n_items, dtype=np.int64)
        values = [np.zeros(0, dtype=np.int32)]
        for rows in np.split(np.arange(self.n_items), self._shard_starts()):
            parts = self._tokens_of_rows(rows.tolist())
            lengths[rows] = [len(part) for part in parts]
            if parts:
                values.append(np.concatenate(parts))
        return Lists(
            offsets=np.concatenate([[0], np.cumsum(lengths)]), values=np.concatenate(values)
        )

    def _shard_starts(self) -> Int64s:
        """The rows at which another shard begins."""
        return np.flatnonzero(np.diff(self._where["shard"])) + 1

    def _tokens_of_rows(self, rows: list[int]) -> list[Tokens]:
        if self._own_tokens is None:
            return [self._tokens_of(row) for row in rows]
        return self._own_tokens.encode([str(self.record(row + 1)["text"] or "") for row in rows])

    def _tokens_of(self, row: int) -> npt.NDArray[np.int32]:
        try:
            return token_list(self._content("tokens", row))
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
        return self._decoded(item, self._content("jpg", item - 1))

    def jpeg(self, item: int) -> bytes | None:
        """The picture's file as it is stored; None where the item has no picture."""
        self._check(np.array([item]))
        return bytes(self._content("jpg", item - 1)) if self.has_picture[item] else None

    def _decoded(self, item: int, jpeg: bytes | memoryview) -> npt.NDArray[np.uint8]:
        try:
            return decode(jpeg)
        except ValueError as error:
            raise self._damaged(item, "picture", error) from error

    def items(self, numbers: Int64s, *, read: Reads = "both") -> Items:
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
        return self._items(numbers, read, self.picture)

    def iterate(self, chunk: int, *, read: Reads = "both") -> Iterator[Items]:
        """All items in order, `chunk` at a time: a catalogue in bounded memory."""
        numbers = np.arange(1, self.n_items + 1)
        return self.in_order(np.split(numbers, range(chunk, self.n_items, chunk)), read=read)

    def in_order(
        self, batches: Sequence[Int64s], *, read: Reads = "both"
    ) -> Generator[Items, None, None]:
        """Batch after batch of items whose numbers ascend throughout; as `items`, in one pass.

        Pictures come out of the tars as a stream (`pmm.shards.stream_items`). The tokens are in
        memory already: to stream them would be to read every picture that lies between.

        Raises:
            ValueError: numbers that are no items, or not in ascending order.
            BrokenArtefact: a shard is damaged.
        """
        numbers = np.concatenate([np.zeros(0, np.int64), *batches])
        self._check(numbers)
        with_pictures = read in ("both", "vision") and "vision" not in self._held
        wanted = numbers[self.has_picture[numbers]] if with_pictures else numbers[:0]
        shards = np.unique(self._where["shard"][wanted - 1]).tolist()
        again = f"{self._made_by} --force"
        self._require(tar_name(shard) for shard in shards)
        tars = [self.place / tar_name(shard) for shard in shards]
        with closing(stream_samples(tars, parts={"jpg"}, made_by=again)) as samples:

            def picture(item: int) -> npt.NDArray[np.uint8]:
                sample = next((each for each in samples if each.item >= item), None)
                if sample is None or sample.item != item:
                    raise BrokenArtefact(
                        f"{self._tar(item - 1)} lacks the picture of item {item}. Run: {again}"
                    )
                return self._decoded(item, sample.parts["jpg"])

            for batch in batches:
                with self._seen.reading():  # a tar is opened when its first picture is asked for
                    items = self._items(batch, read, picture)
                yield items

    def _items(
        self, numbers: Int64s, read: Reads, picture: Callable[[int], npt.NDArray[np.uint8]]
    ) -> Items:
        """Items whose pictures are asked for in their order."""
        none = np.zeros(len(numbers), dtype=np.bool_)
        texts, pictures = read in ("both", "text"), read in ("both", "vision")
        has_picture_I = self.has_picture[numbers] if pictures else none
        has_text_I = self.has_text[numbers] if texts else none
        text = self._held.get("text") if texts else None
        stored = self._held.get("vision") if pictures else None
        size = self.picture_size if pictures and stored is None else 0
        picture_IHW3 = np.zeros((len(numbers), size, size, 3), dtype=np.uint8)
        for row in np.flatnonzero(has_picture_I).tolist() if size else ():
            picture_IHW3[row] = picture(int(numbers[row]))
        if texts:
            token_IT, mask_IT = self._padded(numbers)
        else:
            token_IT, mask_IT = no_tokens(len(numbers), self.tokenizer["pad"])
        return Items(
            item_I=torch.from_numpy(numbers.copy()),
            token_IT=torch.from_numpy(token_IT),
            token_mask_IT=torch.from_numpy(mask_IT),
            picture_I3HW=torch.from_numpy(picture_IHW3).permute(0, 3, 1, 2),
            has_text_I=torch.from_numpy(has_text_I),
            has_picture_I=torch.from_numpy(has_picture_I),
            text_hidden_ITD=text.gather(numbers) if text else None,
            picture_hidden_IPD=stored.gather(numbers) if stored else None,
        )

    def _padded(self, numbers: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        pad = self.tokenizer["pad"]
        return padded_tokens(self.tokens, numbers - 1, self.has_text[numbers], pad)

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

    def _check(self, numbers: Int64s) -> None:
        if len(numbers) and (numbers.min() < 1 or numbers.max() > self.n_items):
            raise ValueError(f"items are 1..{self.n_items}, found {numbers.min()}..{numbers.max()}")
        if np.any(np.diff(numbers) <= 0):
            raise ValueError("item numbers must be distinct and ascending")

    def _require(self, names: Iterable[str]) -> None:
        """Refuse files that are damaged, before they are read for the first time."""
        fresh = set(names) - self._whole
        with self._seen.reading():
            require_whole(self.place, self.manifest.files, fresh, made_by=self._made_by)
        self._whole |= fresh

    def _mapped(self, shard: int) -> mmap.mmap:
        with self._seen.reading():
            self._require([tar_name(shard)])
            return map_tar(self.place / tar_name(shard), made_by=f"{self._made_by} --force")

    def _index(self) -> dict[str, Any]:
        path, again = self.place / "index.json", f"Run: {self._made_by} --force"
        found = read_json(path, again=again, needs=_INDEX)
        if why := ill_typed_index(found):
            raise BrokenArtefact(f"{path}: {why}. {again}")
        return found

    def _offsets(self) -> dict[str, Int64s]:
        path = self.place / "offsets.parquet"
        try:
            table = read_table(path, OFFSETS if self.has_content else OFFSETS_OF_RECORDS)
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
        target = open_artefact(
            source, kind="target", made_by=command_to_ingest(self.home, self.target)
        )
        require_input(
            self.place, self.manifest, "target", target.fingerprint, made_by=self._made_by
        )
