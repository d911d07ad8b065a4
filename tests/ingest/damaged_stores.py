"""Damages an LMDB store many times and reads each with `pmm.ingest.pictures.lmdb_pictures`; a
program.

    python tests/ingest/damaged_stores.py SEED COUNT

Each reading is a fork, for LMDB may end its process. Prints as JSON how readings ended -> how
often: "told", "signal", or what was read without complaint, as "entries 24".
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from pmm.ingest.pictures import lmdb_pictures
from pmm.world.lmdb_image import LMDB_Image

PICTURES = 24
PAGE = 4096
PATIENCE_S = 10.0
_CRASHED = 99


def write_store(path: Path) -> None:
    """A store of several pages of pictures, in the form of the published scripts."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as env, env.begin(write=True) as put:
        for n in range(PICTURES):
            image = LMDB_Image(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8), n)
            put.put(str(n).encode(), pickle.dumps(image, 4))
        put.put(b"__keys__", pickle.dumps([str(n).encode() for n in range(PICTURES)]))
        put.put(b"__len__", pickle.dumps(PICTURES))


def damage(raw: bytes, rng: random.Random) -> bytes:
    """One to five bytes turned, most of them in the headers of pages; now and then cut off."""
    turned = bytearray(raw)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(raw) // PAGE) * PAGE + rng.randrange(rng.choice([16, 64, PAGE]))
        turned[at] = rng.choice([rng.randrange(256), turned[at] ^ 1 << rng.randrange(8), 0, 255])
    return bytes(turned[: rng.randrange(len(turned))] if rng.random() < 0.05 else turned)


def end_of_reading(store: Path, folder: Path) -> str:
    """How a reading ends: "hang", "signal", "told", "crash", or the counts of what was read."""
    report, began = folder.with_suffix(".json"), time.monotonic()
    child = os.fork()
    if not child:
        os._exit(_read(store, folder, report))
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > PATIENCE_S:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hang"
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        return "signal"
    if os.WEXITSTATUS(status):
        return "crash" if os.WEXITSTATUS(status) == _CRASHED else "told"
    outcomes = json.loads(report.read_text().splitlines()[-1])["outcomes"]
    same = outcomes.get("ok", 0) == len(list(folder.glob("*.png")))
    return f"entries {sum(outcomes.values())}" if same else "other files than counted"


def _read(store: Path, folder: Path, report: Path) -> int:
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            status = lmdb_pictures._main(store, folder)
        report.write_text(told.getvalue())
    except BaseException:
        return _CRASHED
    return status


def main(seed: int, count: int) -> Counter[str]:
    """How the readings of that many damaged stores end."""
    Image.preinit()  # once here, not in each fork
    rng, ends = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        whole, store, folder = (Path(place) / name for name in ("whole.lmdb", "s.lmdb", "out"))
        write_store(whole)
        for _ in range(count):
            store.write_bytes(damage(whole.read_bytes(), rng))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            ends[end_of_reading(store, folder)] += 1
    return ends


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
