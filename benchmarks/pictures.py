"""File to written shard: pictures a second, beside plain Pillow and img2dataset in the same run.

    python -m benchmarks.pictures [--count 600]

Pictures are drawn on the spot at 500 px and at 1166x1750, the size of H&M's, with as much detail as
photographs have (about 0.1 byte a pixel at quality 85).
"""

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps

from benchmarks import img2dataset_peer
from benchmarks.results import record
from pmm.shards.item_shards import Item, write_item_shard
from pmm.shards.jpeg import PictureFormat, encode, shrink
from pmm.shards.tars import TarWriter
from pmm.shards.tokens import TokenEncoder, Tokenizer

SIZES = {"500 px": (500, 500, 400), "1166x1750": (1166, 1750, 100)}
"""Width, height, and the bar in pictures/s per core."""
PER_SHARD = 100
REPEATS = 3


def draw(seed: int, width: int, height: int) -> bytes:
    """A JPEG with structure at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((3, 90.0), (10, 45.0), (40, 22.0), (150, 9.0)):
        grid = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        planes = [
            Image.fromarray(grid[:, :, c]).resize((width, height), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        total += weight * np.stack([np.asarray(plane) for plane in planes], axis=2)
    pixels = np.clip(total + 128, 0, 255).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, 85, "RGB", "420"))


def with_pillow(folder: Path, target: Path, items: list[Item]) -> None:
    """The same shard with Pillow alone: full decode, bicubic, JPEG of the same quality."""
    with TarWriter(target) as tar:
        for item in items:
            with Image.open(folder / str(item.image)) as image:
                small = ImageOps.exif_transpose(image).convert("RGB")
            small = small.resize((224, 224), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=90)
            tar.add(f"{item.number}.json", json.dumps({"text": item.text}).encode())
            tar.add(f"{item.number}.jpg", buffer.getvalue())


def one_shard(way: str, folder: Path, out: Path, shard: int, items: list[Item]) -> float:
    """Write one shard; returns the seconds of processor time that it took."""
    start = time.process_time()
    if way == "Pillow":
        with_pillow(folder, out / f"pillow-{shard}.tar", items)
    else:
        encoder = TokenEncoder(words(), 50)
        write_item_shard(
            out, shard, items, pictures=folder, picture_format=PictureFormat(), encoder=encoder
        )
    return time.process_time() - start


def words() -> Tokenizer:
    """A tokenizer of single words; the texts are a small part of the work."""
    import tokenizers

    model = tokenizers.models.WordLevel({"[UNK]": 0, "red": 1, "shoe": 2}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(
        local=True, name="words", serialised=backend.to_str(), pad=0, special=0, vocabulary=3
    )


def decode_limit(data: list[bytes]) -> float:
    """Pictures/s of the JPEG library alone, at no less than twice the target size."""
    start = time.process_time()
    for each in data:
        simplejpeg.decode_jpeg(each, "RGB", min_width=448, min_height=448)
    return len(data) / (time.process_time() - start)


def difference(data: list[bytes]) -> float:
    """Mean absolute difference to Pillow's full decode and bicubic before encoding, in levels."""
    found = []
    for each in data:
        whole = Image.open(io.BytesIO(each)).resize((224, 224), Image.Resampling.BICUBIC)
        found.append(np.abs(shrink(each, 224)[0].astype(int) - np.asarray(whole)).mean())
    return float(np.mean(found))


def stored(data: list[bytes]) -> tuple[float, float]:
    """kB of a stored picture, and its mean absolute difference from the squashed one."""
    pixels = [shrink(each, 224)[0] for each in data]
    jpegs = [encode(each, 90) for each in pixels]
    errors = [
        np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - each).mean()
        for jpeg, each in zip(jpegs, pixels, strict=True)
    ]
    return float(np.mean([len(jpeg) for jpeg in jpegs])) / 1e3, float(np.mean(errors))


def rates(
    way: str, folder: Path, out: Path, count: int, pool: ProcessPoolExecutor
) -> tuple[float, float]:
    """Pictures/s by the clock, and per core of processor time."""
    items = [Item(k, f"id {k}", "red shoe", f"{k}.jpg") for k in range(1, count + 1)]
    parts = [items[k : k + PER_SHARD] for k in range(0, count, PER_SHARD)]
    start = time.perf_counter()
    futures = [pool.submit(one_shard, way, folder, out, k, part) for k, part in enumerate(parts)]
    busy = sum(future.result() for future in futures)
    elapsed = time.perf_counter() - start
    shutil.rmtree(out)
    out.mkdir()
    return count / elapsed, count / busy


def peer_rates(folder: Path, count: int) -> tuple[float, float]:
    """Pictures/s of img2dataset's two processes on the same files, and per core; without its start.

    It squashes nothing: the shorter side becomes 224 and the middle is cut out, a similar work.
    """
    options = {
        "output_format": "webdataset",
        "image_size": 224,
        "resize_mode": "center_crop",
        "processes_count": 2,
        "thread_count": 4,
    }
    with tempfile.TemporaryDirectory() as name:
        addresses = ((folder / f"{k}.jpg").as_uri() for k in range(1, count + 1))
        clock, used, whole = img2dataset_peer.run(addresses, Path(name), options)
    return count / clock, count / (used * clock / whole)


def measure(label: str, count: int, folder: Path, *, peer: bool) -> list[str]:
    """The rows of one size; ways and worker counts take turns, medians count."""
    width, height, bar = SIZES[label]
    variants = [draw(k, width, height) for k in range(20)]
    for k in range(1, count + 1):
        (folder / f"{k}.jpg").write_bytes(variants[k % len(variants)])
    out = folder / "out"
    out.mkdir()
    seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=settle) as pool:
            list(pool.map(time.sleep, [1.0] * workers))  # all have started
            for _ in range(REPEATS):
                for way, share in (("Pillow", max(PER_SHARD * 2, count // 4)), ("pmm", count)):
                    found = rates(way, folder, out, min(share, count), pool)
                    seen.setdefault((way, workers), []).append(found)
                if peer and workers == 2:
                    found = peer_rates(folder, count)
                    seen.setdefault(("img2dataset", workers), []).append(found)
    middle = {
        key: tuple(statistics.median(each) for each in zip(*found, strict=True))
        for key, found in seen.items()
    }
    (kb, error), limit = stored(variants), decode_limit(variants * 2)
    facts = f"{limit:,.0f} | {difference(variants):.3f} | {kb:.1f} | {error:.2f}"
    rows = []
    for workers in (1, 2):
        (clock, core), (pillow, pillow_core) = middle["pmm", workers], middle["Pillow", workers]
        other, _ = middle.get(("img2dataset", workers), (0.0, 0.0))
        beside = f"{other:,.0f} | {clock / other:.1f}x" if other else "- | -"
        rows.append(
            f"| {label} ({len(variants[0]) / 1e3:.0f} kB) | {workers} | {clock:,.0f} | "
            f"{core:,.0f} | {bar} | {pillow:,.0f} | {pillow_core:,.0f} | "
            f"{core / pillow_core:.1f}x | {beside} | {facts} |"
        )
    return rows


def settle() -> None:
    """One thread a process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=600, help="pictures of each size")
    count = parser.parse_args().count
    version = img2dataset_peer.install()
    lines = [
        "Raw JPEG file to written shard (decode, squash to 224x224, JPEG, tokens, sha256, tar,",
        "Parquet, fsync), beside plain Pillow (full decode, bicubic, JPEG, tar). Pictures/s;",
        f"medians of {REPEATS} turns; per core: of processor time. Limit: JPEG decode alone.",
        "mad: mean absolute difference in levels of 255, to Pillow's picture before encoding, and",
        f"by encoding. img2dataset {version or '(not installed)'}: from the same files, with two",
        "processes, without its start; it cuts the middle out where ours squashes.",
        "",
        "| picture | processes | pmm | per core | bar per core | Pillow | per core | ratio "
        "| img2dataset | pmm is faster by | limit | mad to Pillow | stored kB | mad stored |",
        "|" + "---|" * 14,
    ]
    for label in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            lines += measure(label, count, Path(folder), peer=version is not None)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    lines += ["", f"Peak memory of a process: {peak:,.0f} MiB."]
    print("\n".join(lines))
    record("pictures", "\n".join(lines))


if __name__ == "__main__":
    main()
