"""Pieces of a table that is being made, on disk beside its place: a kill costs one piece.

Beside FILE.parquet stands `.FILE.parquet.partial/` with what was asked, the histories and the
pieces that are done; and at the end `FILE.about.json`, which says what the file was made of. Pieces
and file are written under temporary names, synced and renamed.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pmm.errors import BrokenArtefact, InputError
from pmm.progress import progress
from pmm.storage.artefact import exclusive, fingerprint, storage_errors, write_json
from pmm.storage.atomic import atomic_files
from pmm.storage.json_files import read_json
from pmm.storage.schemas import Table, read_table, write_table
from pmm.storage.seal import is_damaged, sealed_file, sealed_files
from pmm.storage.verify import sha256_of

logger = logging.getLogger(__name__)

ASKED, HISTORIES_FOLDER = "asked.json", "histories"


class PieceFolder:
    """Where a table is made; one process at a time."""

    def __init__(self, out: Path, declared: Table, asked: Mapping[str, Any], again: str) -> None:
        """Name the places; nothing is written.

        Args:
            out: the file that is made.
            declared: its columns.
            asked: what it is made of: options, and digests of all that is read.
            again: the command that makes it whatever is there.
        """
        self.out, self._declared = out, declared
        self.folder = out.with_name(f".{out.name}.partial")
        self.about = out.with_name(f"{out.stem}.about.json")
        self._asked, self._again = dict(asked), again
        self._mark = fingerprint(asked, {})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process write the file meanwhile.

        Raises:
            StorageError: one does, the folder cannot be written, or its disk is full.
        """
        with storage_errors(self.out, "--out"):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)  # fails here where nothing can be written
            lock = self.out.with_name(f".{self.out.name}.lock")
            with exclusive(lock, f"{self.out} is being written by another pmm process"):
                yield

    def found(self) -> dict[str, Any] | None:
        """What was told of the file when it was made of the same, if it is there and whole."""
        if not self.out.is_file() or not self.about.is_file():
            return None
        try:
            about = read_json(self.about, again=f"Run: {self._again}", needs=("asked", "sha256"))
        except BrokenArtefact:
            return None
        if about.get("fingerprint") != self._mark:
            return None
        if sha256_of(self.out) != about["sha256"]:
            logger.warning("%s has other content than it was written with", self.out)
            return None
        return about

    def begin(self, *, overwrite: bool) -> None:
        """Go on with what was asked before, or begin.

        Args:
            overwrite: whether what was made of another request may go.

        Raises:
            InputError: it may not.
        """
        before = self._before()
        other = bool(before) and before["fingerprint"] != self._mark
        if other and not overwrite:
            raise InputError(
                f"{self.out} is being made of another request ({self._difference(before)}). Give "
                f"another --out, or begin anew: {self._again}"
            )
        if self.out.exists() and not overwrite and (other or not before):
            raise InputError(
                f"{self.out} is there already, and is not what this request gives. Take another "
                f"--out, or replace it: {self._again}"
            )
        if not before or other:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            with sealed_file(self.folder / ASKED) as temporary:
                write_json(temporary, {"fingerprint": self._mark, "asked": self._asked})

    def _difference(self, before: Mapping[str, Any]) -> str:
        asked = before.get("asked")
        asked = asked if isinstance(asked, dict) else {}
        keys = sorted({*asked, *self._asked})
        return ", ".join(key for key in keys if asked.get(key) != self._asked.get(key)) or "version"

    def has(self, number: int, of: str) -> bool:
        """Whether a piece is there, whole, and of these histories.

        Args:
            number: from 0.
            of: digest of the piece's histories.
        """
        table, told = self._piece(number)
        if not (table.is_file() and told.is_file()):
            return False
        if is_damaged(table) or is_damaged(told):
            logger.warning("%s is damaged: made again", table)
            return False
        return bool(self.told(number)["of"] == of)

    def told(self, number: int) -> dict[str, Any]:
        """What stands beside a piece."""
        return read_json(self._piece(number)[1], again=f"Run: {self._again}", needs=("of",))

    def write(self, number: int, table: pa.Table, told: Mapping[str, Any], of: str) -> int:
        """Write a piece and what is to be told of it; its bytes."""
        place, beside = self._piece(number)
        with sealed_files() as temporary_of:
            write_json(temporary_of(beside), {**told, "of": of})
            write_table(temporary_of(place), table, self._declared)
        return place.stat().st_size

    def _piece(self, number: int) -> tuple[Path, Path]:
        name = f"piece-{number:06}"
        return self.folder / f"{name}.parquet", self.folder / f"{name}.json"

    def merge(self, pieces: int, about: Mapping[str, Any]) -> dict[str, Any]:
        """Put the pieces together, one in memory at a time, and let them go.

        Args:
            pieces: how many there are.
            about: what is to be told of the file.

        Returns:
            What stands in `FILE.about.json`.
        """
        with atomic_files() as temporary_of, progress(pieces, "Merging", "pieces") as bar:
            beside, file = temporary_of(self.about), temporary_of(self.out)

            def batches() -> Iterator[pa.RecordBatch]:
                for number in range(pieces):
                    place, _ = self._piece(number)
                    if is_damaged(place):
                        raise BrokenArtefact(
                            f"{place} is damaged. Run the same command again: it is made anew"
                        )
                    table = read_table(place, self._declared)
                    yield from table.combine_chunks().to_batches()
                    bar.advance()

            rows = write_table(file, batches(), self._declared)
            whole = {
                **about,
                "rows": rows,
                "file": self.out.name,
                "sha256": sha256_of(file),
                "fingerprint": self._mark,
                "asked": self._asked,
            }
            write_json(beside, whole)
        self.drop()
        return whole

    def drop(self) -> None:
        """Remove the folder of pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_own(self) -> None:
        """Remove it unless it holds what was begun of another request."""
        if self._before().get("fingerprint", self._mark) == self._mark:
            self.drop()

    def drop_without_pieces(self) -> None:
        """Remove it where no piece is done, so that a request that failed is in nobody's way."""
        if not any(self.folder.glob("piece-*")):
            self.drop_own()

    def _before(self) -> dict[str, Any]:
        """What was asked for when the folder was begun, if that can be read."""
        place = self.folder / ASKED
        try:
            if place.is_file():
                return read_json(place, again=f"Run: {self._again}", needs=("fingerprint",))
        except BrokenArtefact as error:
            logger.warning("%s", error)
        return {}
