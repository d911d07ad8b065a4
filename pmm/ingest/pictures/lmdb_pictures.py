"""Pictures in an LMDB store, as the paper's published code reads them, written out as PNG files.

A store's key is the ascii of an item's number (`v12` -> `12`; NineRec's script: of its id), its
value a pickled picture (`pmm.ingest.pictures.pickled_image`). Both scripts that write such stores
convert to RGB with Pillow, so bytes are taken as RGB. Written without loss, into a folder of their
own for each state of the store; what was written stays when the program is killed. Broken values
are counted by reason, and give no file.

A store is read in a process of its own: LMDB trusts its file, and ends the process where that is
cut off or damaged.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmm.errors import InputError, StorageError
from pmm.ingest.pictures.pickled_image import PickledImage, PickleRefused, read_pickled_image
from pmm.machine import cores
from pmm.progress import progress
from pmm.storage.artefact import Digests, atomic_file, exclusive, storage_errors, write_json
from pmm.storage.home import Home

ODD_KEY = "key that is no item id"
OK = "ok"

_MARK = "store.json"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_OWN_KEYS = (b"__keys__", b"__len__")
_ITEM_KEY = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PNG_END = b"IEND\xaeB`\x82"
_REPORT_EVERY = 100
_READ_ERROR, _WRITE_ERROR = 3, 4
"""Exit statuses of the process that reads a store."""


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """A store's pictures as files."""

    folder: Path
    """Holds `<key>.png`."""
    outcomes: dict[str, int]
    """"ok", or a reason for no file -> number of keys."""


def store_keys(item_id: str) -> tuple[str, ...]:
    """The keys under which an item's picture may stand, the likelier first.

    >>> store_keys("v12"), store_keys("0012"), store_keys("BV1x")
    (('v12', '12'), ('0012', '12'), ('BV1x',))
    """
    number = item_id.replace("v", "")
    if not (number.isascii() and number.isdecimal()):
        return (item_id,)
    short = number.lstrip("0") or "0"
    return (item_id,) if short == item_id else (item_id, short)


def extract(home: Home, dataset: str, store: Path) -> Extracted:
    """Write a store's pictures below pictures/<dataset>/, unless they are there.

    Args:
        home: where artefacts live.
        dataset: the dataset's name.
        store: the LMDB file, or the folder that holds its data.mdb.

    Raises:
        InputError: the store is missing, damaged or no LMDB.
        StorageError: the pictures cannot be written.
    """
    data = store / "data.mdb" if store.is_dir() else store
    digest = Digests(home.root).file(data)
    folder = home.pictures(dataset) / digest[:16]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        taken = f"{folder} is being written by another pmm process; wait for it, or end it"
        with exclusive(folder.with_name(f".{folder.name}.lock"), taken):
            found = _mark(folder, digest)
            if found is None:
                found = _run(store, folder)
                # Names were given without waiting for the disk; before the mark all must be there.
                os.sync()
                with atomic_file(folder / _MARK) as path:
                    write_json(path, {"store": digest, "outcomes": found})
    return Extracted(folder=folder, outcomes=found)


def forget_other_states(extracted: Extracted) -> None:
    """Remove the pictures of earlier states of the same store."""
    for other in extracted.folder.parent.iterdir():
        if other.is_dir() and other != extracted.folder:
            shutil.rmtree(other, ignore_errors=True)


def _mark(folder: Path, digest: str) -> dict[str, int] | None:
    """The outcomes of a finished extraction."""
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        return dict(mark["outcomes"]) if mark["store"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(store: Path, folder: Path) -> dict[str, int]:
    """Read the store in another process; the outcomes."""
    command = [sys.executable, "-m", "pmm.ingest.pictures.lmdb_pictures", str(store), str(folder)]
    last: dict[str, Any] = {}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            with progress(None, f"reading {store.name}", "pictures") as bar:
                for line in child.stdout or ():
                    last = json.loads(line)
                    bar.advance(last.get("done", bar.done) - bar.done)
            complaint = (child.stderr.read() if child.stderr else "").strip()
        except BaseException:
            child.kill()
            raise
    if child.returncode == 0:
        return dict(last["outcomes"])
    if child.returncode == _WRITE_ERROR:
        raise OSError(last["errno"], last["error"], str(folder))
    if child.returncode == _READ_ERROR:
        raise InputError(f"{store} is no LMDB store that can be read ({last['error']})")
    if child.returncode < 0:
        raise InputError(
            f"{store} is damaged or was cut off: reading it as LMDB ended its process with signal "
            f"{-child.returncode}. Get the file again"
        )
    raise StorageError(f"reading {store} failed: {complaint[-500:]}")


def _main(store: Path, folder: Path) -> int:
    """Write all pictures of a store; reports as lines of JSON on stdout."""
    import lmdb

    outcomes: Counter[str] = Counter()
    try:
        _require_whole_pages(store)
        for done, outcome in enumerate(_write_all(store, folder), start=1):
            outcomes[outcome] += 1
            if done % _REPORT_EVERY == 0:
                print(json.dumps({"done": done}), flush=True)
    except lmdb.Error as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return _READ_ERROR
    except OSError as error:
        print(json.dumps({"error": error.strerror, "errno": error.errno}), flush=True)
        return _WRITE_ERROR
    print(json.dumps({"done": outcomes.total(), "outcomes": outcomes}), flush=True)
    return 0


def _require_whole_pages(store: Path) -> None:
    """Refuse a file that was cut off inside a page: the rest of the page would read as zeros."""
    import lmdb

    data = store / "data.mdb" if store.is_dir() else store
    with data.open("rb") as file:
        page = int.from_bytes(file.read(44)[40:44], sys.byteorder)
    if page and data.stat().st_size % page:
        raise lmdb.Error(
            f"{data.stat().st_size:,} bytes are no whole number of its pages of {page:,}: "
            "cut off? Get the file again"
        )


def _write_all(store: Path, folder: Path) -> Iterator[str]:
    """The outcome of each picture, as they are finished."""
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[str]] = []
        for key, value in _pictures(store):
            waiting.append(pool.submit(_write_one, folder, key, value))
            if len(waiting) > 4 * threads:  # bounds the memory
                yield waiting.pop(0).result()
        yield from (each.result() for each in waiting)


def _pictures(store: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the pictures; lmdb.Error where the tree is damaged.

    It is where keys do not ascend, or are not as many as the store says that it holds: a page that
    counts its keys wrongly hides some of them without any other sign.
    """
    import lmdb

    with (
        lmdb.open(
            str(store), subdir=store.is_dir(), readonly=True, lock=False, readahead=False
        ) as env,
        env.begin() as reading,
        reading.cursor() as cursor,
    ):
        last, met, entries = b"", 0, env.stat()["entries"]
        for key, value in cursor:
            if key <= last:
                raise lmdb.CorruptedError("its keys are out of order")
            last = key
            met += 1
            if key not in _OWN_KEYS:
                yield key, value
        if met != entries:
            raise lmdb.CorruptedError(f"{met:,} of its {entries:,} entries are found")


def _write_one(folder: Path, key: bytes, value: bytes) -> str:
    """Write one picture; its outcome."""
    if not _ITEM_KEY.fullmatch(key):
        return ODD_KEY
    try:
        image = read_pickled_image(value)
    except PickleRefused as error:
        return str(error)
    path = folder / f"{key.decode('ascii')}.png"
    if not _is_whole(path):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(_png(image))
        temporary.replace(path)
    return OK


def _is_whole(path: Path) -> bool:
    """Whether a picture is there to its last byte (written before the program was killed)."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_PNG_END)))
        return file.read() == _PNG_END
    return False


def _png(image: PickledImage) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    mode = _MODES[image.channels]
    picture = Image.frombytes(mode, (image.width, image.height), image.pixels)
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2])))
