"""Item shards: our tar stage beside WebDataset's own and beside random access; both tar writers.

    python -m benchmarks.read_shards [--items 1000] [--repeats 7]

Pictures of 224x224 are decoded, as every reader in order has to. CPU time, in turns.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from benchmarks.results import record
from pmm.shards.jpeg import decode
from pmm.shards.stream_items import stream_samples
from pmm.shards.tars import TarWriter, map_tar, members

Items = list[tuple[int, dict[str, bytes]]]
MADE_BY = "python -m benchmarks.read_shards"


def drawn(count: int) -> Items:
    """Items with members of the sizes that real ones have: about 19 KB a picture."""
    found: Items = []
    for item in range(1, count + 1):
        rng = np.random.default_rng(item)
        small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        jpeg, tokens = io.BytesIO(), io.BytesIO()
        small.resize((224, 224), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
        np.lib.format.write_array(tokens, np.arange(12, dtype=np.int32), version=(1, 0))
        about = json.dumps({"item": item, "item_id": f"i{item}", "picture": True, "text": "a shoe"})
        parts = {"json": about.encode(), "jpg": jpeg.getvalue(), "tokens.npy": tokens.getvalue()}
        found.append((item, parts))
    return found


def write_ours(items: Items, path: Path) -> None:
    """The writer of `pmm shard`."""
    with TarWriter(path) as tar:
        for item, parts in items:
            for name, content in parts.items():
                tar.add(f"{item}.{name}", content)


def write_theirs(items: Items, path: Path) -> None:
    """WebDataset's writer, with nothing in it that varies either."""
    options = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "encoder": False}
    with path.open("wb") as file, webdataset.TarWriter(file, **options) as tar:
        for item, parts in items:
            tar.write({"__key__": str(item), **parts})


def read_by_offset(path: Path) -> None:
    """Random access, as training does it."""
    with map_tar(path, made_by=MADE_BY) as content:
        for member in members(path, made_by=MADE_BY):
            if member.name.endswith(".jpg"):
                decode(content[member.offset : member.offset + member.size])


def read_ours(path: Path) -> None:
    """WebDataset's stages with our tar stage between."""
    for sample in stream_samples([path], parts={"jpg"}, made_by=MADE_BY):
        decode(sample.parts["jpg"])


def read_theirs(path: Path) -> None:
    """WebDataset as it comes; it leaves closing its files to the garbage collector."""
    for sample in webdataset.WebDataset(
        str(path),
        shardshuffle=False,
        nodesplitter=None,
        empty_check=False,
        select_files=lambda name: name.endswith(".jpg"),
    ):
        decode(sample["jpg"])


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    items = drawn(given.items)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.tar"), Path(folder, "theirs.tar")
        ways: dict[str, Callable[[], None]] = {
            "read by offset": lambda: read_by_offset(ours),
            "stream, our tar stage": lambda: read_ours(ours),
            "stream, WebDataset's tar stage": lambda: read_theirs(ours),
            "write, ours": lambda: write_ours(items, ours),
            "write, WebDataset's": lambda: write_theirs(items, theirs),
        }
        write_ours(items, ours)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.repeats):
            for name, run in ways.items():
                start = time.process_time()
                run()
                seconds[name].append(time.process_time() - start)
        same = ours.read_bytes() == theirs.read_bytes()
    micro = {name: 1e6 * statistics.median(each) / given.items for name, each in seconds.items()}
    lines = ["| way | microseconds an item | speed, of the first |", "|---|---|---|"]
    for name, each in micro.items():
        first = micro["write, ours" if name.startswith("write") else "read by offset"]
        lines.append(f"| {name} | {each:.0f} | {100 * first / each:.0f} % |")
    lines += [
        "",
        f"{given.items} items; both writers make the same bytes: {'yes' if same else 'no'}.",
    ]
    print("\n".join(lines))
    record("read_shards", "\n".join(lines))


if __name__ == "__main__":
    main()
