"""The items that were added and withdrawn while a server ran, in a file that survives any kill.

A record is appended and synced before anybody is told that an item is in. It is MARK, length,
CRC-32 and the payload: JSON that says what it is, then the vectors that a model made of the item,
then its picture file. Only the last append can be torn by a kill, and only before it was
acknowledged: what follows the last whole record is cut off when the file is opened. Damage with
whole records behind it is no torn end, and is refused.
"""

import errno
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

import numpy as np

from pmm.arrays import Float32s
from pmm.errors import BrokenArtefact, StorageError
from pmm.recommend.answers import NewItem
from pmm.storage.artefact import storage_errors
from pmm.storage.atomic import sync

HEADER = b"pmm items 1\n"
MARK = b"\xf5PMI"
_FRAME = struct.Struct("<4sII")
_JSON = struct.Struct("<I")
_MOST = 256 << 20
"""Bytes of a payload, by which a damaged length is told."""
_GARBAGE = 32 << 20
"""Bytes of replaced records from which on the file is written anew, if they are half of it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system answers where there is no room."""

Vectors = tuple[Float32s, Float32s]
"""What users read of an item [W], and what it is scored with [D]."""


class DiskFull(StorageError):
    """There is no room for an item. What was there before is whole."""


@dataclass(frozen=True, kw_only=True)
class LoggedItem:
    """What the log holds of an item: where its newest content is, and whether it is withdrawn."""

    item_id: str
    changed: int
    """Number of the record that changed it last; they count up."""
    withdrawn: bool = False
    content: int | None = None
    """Offset of the record of its content; None: content that training saw."""
    put: int = 0
    """Number of that record."""
    model: str = ""
    """The version of the model whose vectors stand in it."""
    picture: bool = False


class ItemLog:
    """The file, and what is in it by item. Safe to use from several threads.

    Who opens it holds the folder's lock (`pmm.serve.serving`).
    """

    def __init__(self, path: Path) -> None:
        """Open a log, or begin one.

        Raises:
            BrokenArtefact: it is damaged otherwise than by a kill.
            StorageError: it cannot be written.
        """
        self.path, self.number = path, 0
        self._lock, self._items = RLock(), dict[str, LoggedItem]()
        self._sizes: dict[int, int] = {}
        """Offset of a record that counts -> its bytes."""
        self._broken = False
        with storage_errors(path, "--data"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + ".new").unlink(missing_ok=True)
            is_new = not path.exists()
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0)
            try:
                if is_new or path.stat().st_size < len(HEADER):
                    self._begin()
                self._replay()
            except BaseException:
                self._file.close()
                raise

    def _begin(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(HEADER)
        os.fsync(self._file.fileno())
        sync(self.path.parent)

    def _replay(self) -> None:
        content_end = self.path.stat().st_size
        if os.pread(self._file.fileno(), len(HEADER), 0) != HEADER:
            raise BrokenArtefact(f"{self.path} is no log of items; move it away, or use --data")
        place = len(HEADER)
        while (payload := self._payload(place, content_end)) is not None:
            self._apply(_about(payload), place, _FRAME.size + len(payload))
            place += _FRAME.size + len(payload)
        if place < content_end:
            if self._whole_behind(place + 1, content_end):
                raise BrokenArtefact(
                    f"{self.path} is damaged at byte {place:,}, and whole records follow. Put back "
                    "a copy of it, or move it away: the server then begins without added items"
                )
            self._file.truncate(place)
            os.fsync(self._file.fileno())
        self._end = place

    def _payload(self, place: int, end: int) -> bytes | None:
        """Of the record at an offset; None where there is no whole one."""
        head = os.pread(self._file.fileno(), _FRAME.size, place)
        if len(head) < _FRAME.size:
            return None
        mark, length, crc = _FRAME.unpack(head)
        if mark != MARK or length > min(_MOST, end - place - _FRAME.size):
            return None
        payload = os.pread(self._file.fileno(), length, place + _FRAME.size)
        return payload if len(payload) == length and zlib.crc32(payload) == crc else None

    def _whole_behind(self, place: int, end: int) -> bool:
        """Whether a whole record stands anywhere from an offset on."""
        step, overlap = 1 << 20, len(MARK) - 1
        while place < end:
            block = os.pread(self._file.fileno(), step + overlap, place)
            at = block.find(MARK)
            while at >= 0:
                if self._payload(place + at, end) is not None:
                    return True
                at = block.find(MARK, at + 1)
            place += step
        return False

    def _apply(self, about: dict[str, Any], place: int, size: int) -> None:
        item_id, number = str(about["id"]), int(about["number"])
        known = self._items.get(item_id)
        if about["kind"] == "put":
            if known is not None and known.content is not None:
                self._sizes.pop(known.content, None)
            self._sizes[place] = size
            self._items[item_id] = LoggedItem(
                item_id=item_id,
                changed=number,
                content=place,
                put=number,
                model=about["model"],
                picture=bool(about["picture"]),
            )
        else:
            known = known or LoggedItem(item_id=item_id, changed=number)
            self._items[item_id] = replace(known, changed=number, withdrawn=True)
        self.number = max(self.number, number)

    # --- Reading.

    def __len__(self) -> int:
        """Items whose content the log holds and that are not withdrawn."""
        with self._lock:
            return sum(
                each.content is not None and not each.withdrawn for each in self._items.values()
            )

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._end

    def get(self, item_id: str) -> LoggedItem | None:
        """What is logged of an item."""
        return self._items.get(item_id)

    def since(self, number: int) -> list[LoggedItem]:
        """Items that changed after a record, in the order of their contents."""
        with self._lock:
            found = [each for each in self._items.values() if each.changed > number]
        return sorted(found, key=lambda each: (each.put, each.changed))

    def read(self, item_id: str) -> tuple[NewItem, Vectors, str] | None:
        """An item's newest content, its vectors and the version of their model; None: none here.

        Raises:
            BrokenArtefact: the record has changed on the disk.
        """
        with self._lock:
            known = self._items.get(item_id)
            if known is None or known.content is None:
                return None
            payload = self._payload(known.content, self._end)
        if payload is None:
            raise BrokenArtefact(f"{self.path} is damaged at byte {known.content:,}")
        return _item(payload)

    # --- Writing.

    def put(self, item: NewItem, vectors: Vectors, model: str) -> LoggedItem:
        """Append an item, and sync.

        Raises:
            DiskFull: there is no room; the log is as it was.
            StorageError: it cannot be written.
        """
        with self._lock:
            payload = _put(self.number + 1, item, vectors, model)
            self._append(payload)
            self._tidy()
            return self._items[item.item_id]

    def withdraw(self, item_id: str) -> LoggedItem:
        """Append that an item is withdrawn, and sync; errors as `put`."""
        with self._lock:
            about = {"kind": "withdraw", "id": item_id, "number": self.number + 1}
            self._append(_with_json(about))
            return self._items[item_id]

    def _append(self, payload: bytes) -> None:
        if self._broken:
            raise StorageError("the log of items cannot be written any more; restart the server")
        frame = _FRAME.pack(MARK, len(payload), zlib.crc32(payload))
        try:
            _write_all(self._file, frame + payload, self._end)
            os.fsync(self._file.fileno())
        except OSError as error:
            self._cut_back()
            if error.errno in FULL:
                raise DiskFull(
                    f"the disk that holds {self.path} is full, so nothing was added"
                ) from error
            raise StorageError(f"{self.path} cannot be written ({error.strerror})") from error
        except BaseException:
            self._cut_back()
            raise
        place, self._end = self._end, self._end + len(frame) + len(payload)
        self._apply(_about(payload), place, len(frame) + len(payload))

    def _cut_back(self) -> None:
        """Take away what a failed append left. Where that fails too, nothing is written any more:
        what would follow it could be lost with it."""
        try:
            self._file.truncate(self._end)
            os.fsync(self._file.fileno())
        except OSError:
            self._broken = True

    def _tidy(self) -> None:
        garbage = self._end - sum(self._sizes.values())
        if garbage > _GARBAGE and garbage > self._end // 2:
            try:
                self.rewrite()
            except StorageError:
                return  # the item is in; there is room for this another time

    def rewrite(self, encoded: Callable[[str], tuple[Vectors, str] | None] | None = None) -> None:
        """Write the file anew without what was replaced; a kill leaves the old one or the new one.

        Args:
            encoded: an item's vectors and the version of their model, in place of those that stand
                in the log; None keeps them.

        Raises:
            StorageError: there is no room, or it cannot be written; the log stays as it was.
        """
        new = self.path.with_name(self.path.name + ".new")
        with self._lock:
            try:
                with storage_errors(self.path, "--data"), new.open("wb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(HEADER)
                    for payload in self._kept(encoded):
                        file.write(_FRAME.pack(MARK, len(payload), zlib.crc32(payload)) + payload)
                    file.flush()
                    os.fsync(file.fileno())
                with storage_errors(self.path, "--data"):
                    new.replace(self.path)
                    sync(self.path.parent)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
            self._file.close()
            self._file = os.fdopen(os.open(self.path, os.O_RDWR), "r+b", 0)
            self._items, self._sizes = {}, {}
            self._replay()

    def _kept(self, encoded: Callable[[str], tuple[Vectors, str] | None] | None) -> Iterator[bytes]:
        """The payloads that count, in the order in which they came."""
        records: list[tuple[int, LoggedItem]] = []
        for each in self._items.values():
            if each.content is not None:
                records.append((each.put, each))
            if each.withdrawn:
                records.append((each.changed, each))
        for number, each in sorted(records, key=lambda record: record[0]):
            if each.content is None or (each.withdrawn and number == each.changed):
                yield _with_json({"kind": "withdraw", "id": each.item_id, "number": number})
                continue
            found = self.read(each.item_id)
            assert found is not None
            item, vectors, model = found
            newer = encoded(each.item_id) if encoded is not None else None
            yield _put(number, item, *(newer or (vectors, model)))

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._file.close()
            self._broken = True


def _write_all(file: BinaryIO, content: bytes, place: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file.fileno(), view, place)
        view, place = view[written:], place + written


def _with_json(about: dict[str, Any], rest: bytes = b"") -> bytes:
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    return _JSON.pack(len(text)) + text + rest


def _put(number: int, item: NewItem, vectors: Vectors, model: str) -> bytes:
    input_W, score_D = (np.ascontiguousarray(each, "<f4").ravel() for each in vectors)
    picture = item.image or b""
    about = {
        "kind": "put",
        "id": item.item_id,
        "number": number,
        "text": item.text,
        "categories": list(item.categories),
        "picture": len(picture),
        "model": model,
        "vectors": [len(input_W), len(score_D)],
    }
    return _with_json(about, input_W.tobytes() + score_D.tobytes() + picture)


def _about(payload: bytes) -> dict[str, Any]:
    (length,) = _JSON.unpack_from(payload)
    about: dict[str, Any] = json.loads(payload[_JSON.size : _JSON.size + length])
    return about


def _item(payload: bytes) -> tuple[NewItem, Vectors, str]:
    about = _about(payload)
    start = _JSON.size + _JSON.unpack_from(payload)[0]
    width_W, width_D = about["vectors"]
    vectors = np.frombuffer(payload, "<f4", width_W + width_D, start).astype(np.float32)
    end = len(payload)
    item = NewItem(
        item_id=about["id"],
        text=about["text"],
        image=payload[end - about["picture"] :] if about["picture"] else None,
        categories=tuple(about["categories"]),
    )
    return item, (vectors[:width_W], vectors[width_W:]), about["model"]
