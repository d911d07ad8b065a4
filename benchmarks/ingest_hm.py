"""Ingest of a file of H&M's shape: time by stage, peak memory, and the core beside plain numpy.

    python -m benchmarks.ingest_hm            # 31.8 million rows, 3.4 GB
    python -m benchmarks.ingest_hm --rows 1e6 --no-record

Customers and articles follow power laws; rows are sorted by date, then customer, as in the real
file. The ingest runs in a child process, whose peak memory the operating system tells.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from benchmarks.results import record
from benchmarks.stopwatch import Stopwatch

FULL_ROWS, FULL_CUSTOMERS, FULL_ARTICLES = 31_800_000, 1_360_000, 105_542
GROUPS = ["Garment Upper body", "Garment Lower body", "Garment Full body", "Accessories", "Shoes"]


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Write transactions_train.csv and articles.csv of H&M's shape."""
    rng = np.random.default_rng(seed)
    share = rows / FULL_ROWS
    customers = pa.array(
        [rng.bytes(32).hex() for _ in range(max(100, int(FULL_CUSTOMERS * share)))]
    )
    n_articles = max(100, min(FULL_ARTICLES, int(FULL_ARTICLES * share**0.5)))
    numbers = np.sort(rng.choice(10**9, n_articles, replace=False))
    articles = [f"0{number:09d}" for number in numbers]
    _write_articles(folder / "articles.csv", articles, rng)
    # Few customers and articles have most of the rows: a Pareto and a Zipf law.
    of_customer = np.cumsum(rng.pareto(1.3, len(customers)) + 0.3)
    of_article = np.cumsum(1 / np.arange(1, n_articles + 1) ** 0.9)
    days = np.arange(np.datetime64("2018-09-20"), np.datetime64("2020-09-23")).astype(str)
    sizes = np.full(len(days), rows // len(days))
    sizes[0] += rows - sizes.sum()
    coded = pa.array(articles)
    with (folder / "transactions_train.csv").open("wb") as file:
        file.write(b"t_dat,customer_id,article_id,price,sales_channel_id\n")
        options = pacsv.WriteOptions(include_header=False, quoting_style="none")
        for day, size in zip(days.tolist(), sizes.tolist(), strict=True):
            customer = np.searchsorted(of_customer, np.sort(rng.random(size)) * of_customer[-1])
            article = np.searchsorted(of_article, rng.random(size) * of_article[-1])
            columns = {
                "t_dat": pa.repeat(day, size),
                "customer_id": customers.take(pa.array(customer)),
                "article_id": coded.take(pa.array(article)),
                "price": rng.random(size).round(16),
                "sales_channel_id": rng.integers(1, 3, size),
            }
            pacsv.write_csv(pa.table(columns), file, options)


def _write_articles(path: Path, articles: list[str], rng: np.random.Generator) -> None:
    from pmm.ingest.sources.hm import CATEGORY_COLUMNS

    group = rng.choice(GROUPS, len(articles))
    columns: dict[str, Any] = dict.fromkeys(CATEGORY_COLUMNS, group)
    names = [f"Article {number}" for number in range(len(articles))]
    described = [f'{name}, soft cotton &amp; linen with a "round" neckline' for name in names]
    table = {"article_id": articles, "prod_name": names, **columns, "detail_desc": described}
    pacsv.write_csv(pa.table(table), path)


def child(raw: Path, home: Path) -> None:
    """Ingest under the watch and print the seconds by stage and the first card as JSON."""
    from pmm.ingest.sources import hm
    from pmm.ingest.tables import interactions
    from pmm.ingest.tables import source_tables as source
    from pmm.ingest.targets import selection
    from pmm.ingest.targets import target_tables as targets
    from pmm.ingest.targets.rows import InteractionRows
    from pmm.storage import artefact
    from pmm.storage.home import Home

    watch = Stopwatch()
    clean = interactions.Cleaner.clean
    interactions.Cleaner.clean = lambda self, *args: watch.pull(clean(self, *args), "read")  # type: ignore[method-assign]
    watch.wrap(hm, "_read_articles", "read")
    watch.wrap(source, "write_table", "write")
    watch.wrap(targets, "write_table", "write")
    watch.wrap(artefact, "_sealed_files", "write")
    watch.wrap(artefact.Digests, "file", "hash raw files")
    watch.wrap(targets, "load_source", "code")
    watch.wrap(InteractionRows, "ordered", "order")
    watch.wrap(targets, "require_core", "core")
    watch.wrap(selection, "carve_rows", "carve")
    options = targets.IngestOptions(missing_image="text-only")
    cards = hm.ingest_hm(Home(home), raw, [], options)
    print(json.dumps({"seconds": watch.finish()["seconds"], "card": cards[0]}))


def measure(rows: int, folder: Path) -> str:
    """Generate, ingest in a child, and return the Markdown table."""
    raw, home = folder / "raw", folder / "home"
    raw.mkdir()
    start = time.perf_counter()
    generate(raw, rows)
    generated = time.perf_counter() - start
    size = (raw / "transactions_train.csv").stat().st_size
    print(f"generated {size / 1e9:.2f} GB in {generated:.0f} s", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.ingest_hm", "--child", str(raw), str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the ingest failed")
    told = json.loads(output)
    return _table(told["seconds"], told["card"], rows, size, usage.ru_maxrss * 1024)


def _table(seconds: dict[str, float], card: dict[str, Any], rows: int, size: int, rss: int) -> str:
    whole = sum(seconds.values())
    seconds["rest (drops, carving, split, cold cuts)"] = seconds.pop("rest")
    lines = [f"| {stage} | {spent:.1f} | {rows / spent:,.0f} |" for stage, spent in seconds.items()]
    stats = card["statistics"]
    return "\n".join(
        [
            f"{rows:,} rows, {size / 1e9:.2f} GB of CSV; {len(card['core'])} core rounds; HM: "
            f"{stats['users']:,} users, {stats['items']:,} items, {stats['actions']:,} actions.",
            "",
            "| stage | seconds | rows/s |",
            "|---|---|---|",
            *lines,
            f"| **whole** | **{whole:.1f}** | **{rows / whole:,.0f}** |",
            "",
            f"Peak RSS of the process: **{rss / 2**30:.2f} GiB** (bar for 31.8 million rows: 6).",
        ]
    )


def core_table(rows: int = 10_000_000, times: int = 3) -> str:
    """`find_core` beside the literal bincount loop on the same codes, A B A B, medians."""
    from pmm.ingest.targets.k_core import find_core

    rng = np.random.default_rng(0)
    user = (rng.pareto(0.9, rows) * 40_000 % 1_500_000).astype(np.int32)
    item = (rng.pareto(0.9, rows) * 40_000 % 1_500_000).astype(np.int32)

    def plain() -> int:
        u, i = user, item
        while True:
            stays = (np.bincount(u)[u] >= 5) & (np.bincount(i)[i] >= 5)
            if stays.all():
                return len(u)
            u, i = u[stays], i[stays]

    def ours() -> int:
        return len(find_core(user, item, 5, 5).rows)

    if plain() != ours():
        raise SystemExit("the core differs from the reference")
    spent: dict[str, list[float]] = {"PMM": [], "numpy bincount loop": []}
    ways: list[tuple[str, Callable[[], int]]] = [("PMM", ours), ("numpy bincount loop", plain)]
    for _ in range(times):
        for name, way in ways:
            start = time.perf_counter()
            way()
            spent[name].append(time.perf_counter() - start)
    rounds = len(find_core(user, item, 5, 5).rounds)
    lines = [f"| {name} | {statistics.median(each):.2f} |" for name, each in spent.items()]
    head = f"Core alone, {rows:,} rows, {rounds} rounds, 5 and 5, {times} times each in turn:"
    return "\n".join([head, "", "| way | median seconds |", "|---|---|", *lines])


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=FULL_ROWS)
    parser.add_argument("--no-record", action="store_true", help="only print")
    parser.add_argument("--folder", type=Path, help="where to put the temporary files")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = measure(options.rows, Path(folder))
    table += "\n\n" + core_table()
    print(table)
    if not options.no_record:
        full = options.rows == FULL_ROWS
        record("ingest_hm" if full else f"ingest_hm of {options.rows:,} rows", table)


if __name__ == "__main__":
    main()
