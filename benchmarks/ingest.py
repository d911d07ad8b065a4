"""Ingest of Amazon review lines: time and memory by stage, beside Polars and DuckDB; the slopes.

    python -m benchmarks.ingest                    # 30 million lines
    python -m benchmarks.ingest --rows 1e6 --no-record

Each way runs in a process of its own on the same gz files: read, drop repeated rows, a core of 5
and 5, sequences in order of time. Polars and DuckDB are used in the obvious way: no texts, no
account of rows, no split, ties of time as they fall.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results import record
from benchmarks.review_files import Shape, write_reviews
from benchmarks.stopwatch import Stopwatch

FULL_ROWS = 30_000_000
SLOPE_ROWS = 2_000_000


def run_pmm(raw: Path, out: Path, watch: Stopwatch) -> int:
    """`pmm ingest amazon` under the watch; returns the rows that are kept."""
    from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
    from pmm.ingest.tables import source_tables as source
    from pmm.ingest.targets import target_tables as targets
    from pmm.ingest.targets.rows import InteractionRows
    from pmm.storage import artefact
    from pmm.storage.home import Home

    watch.wrap(source, "write_table", "write tables")
    watch.wrap(artefact, "_sealed_files", "write tables")
    watch.wrap(artefact.Digests, "files", "hash raw files")
    watch.wrap(targets, "write_table", "write target")
    watch.wrap(targets, "load_source", "code")
    watch.wrap(InteractionRows, "ordered", "order")
    watch.wrap(targets, "require_core", "core")
    options = targets.IngestOptions(missing_image="text-only")
    cards = ingest_amazon(Home(out), AmazonFiles(raw=raw), ["Amazon"], options)
    return int(cards[0]["statistics"]["actions"])


def run_polars(raw: Path, out: Path, watch: Stopwatch) -> int:
    """The same interactions with Polars."""
    import polars as pl

    schema = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
    with watch.stage("read reviews"):
        rows = pl.scan_ndjson(sorted(raw.glob("Category_*.json.gz")), schema=schema).collect()
    with watch.stage("drop repeats"):
        rows = rows.unique(maintain_order=True)
    with watch.stage("core"):
        before = -1
        while rows.height != before:
            before = rows.height
            rows = rows.filter(pl.len().over("reviewerID") >= 5)
            rows = rows.filter(pl.len().over("asin") >= 5)
    with watch.stage("sequences"):
        ordered = rows.sort("reviewerID", "unixReviewTime", maintain_order=True)
        lists = ordered.group_by("reviewerID", maintain_order=True).agg("asin")
        lists.write_parquet(out / "polars.parquet")
    return rows.height


def run_duckdb(raw: Path, out: Path, watch: Stopwatch) -> int:
    """The same interactions with DuckDB."""
    import duckdb

    base = duckdb.connect(str(out / "reviews.duckdb"))
    columns = "{reviewerID: 'VARCHAR', asin: 'VARCHAR', unixReviewTime: 'BIGINT'}"
    files = f"'{raw}/Category_*.json.gz'"
    with watch.stage("read reviews"):
        base.execute(
            f"CREATE TABLE every AS SELECT reviewerID u, asin i, unixReviewTime t "
            f"FROM read_json({files}, columns={columns}, format='newline_delimited')"
        )
    with watch.stage("drop repeats"):
        base.execute("CREATE TABLE rows AS SELECT DISTINCT * FROM every")
    count = "SELECT count(*) FROM rows"
    with watch.stage("core"):
        before, left = -1, _one(base, count)
        while left != before:
            before = left
            for side in "ui":
                few = f"SELECT {side} FROM rows GROUP BY {side} HAVING count(*) < 5"
                base.execute(f"DELETE FROM rows WHERE {side} IN ({few})")
            left = _one(base, count)
    with watch.stage("sequences"):
        lists = "SELECT u, list(i ORDER BY t) FROM rows GROUP BY u"
        base.execute(f"COPY ({lists}) TO '{out}/duckdb.parquet'")
    return left


def _one(base: Any, query: str) -> int:
    return int(base.execute(query).fetchone()[0])


WAYS: dict[str, Callable[[Path, Path, Stopwatch], int]] = {
    "pmm": run_pmm,
    "Polars": run_polars,
    "DuckDB": run_duckdb,
}


def child(way: str, raw: Path, out: Path) -> None:
    """One way under the watch; prints what it took as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()
    kept = WAYS[way](raw, out, watch)
    print(json.dumps({**watch.finish(), "kept": kept}))


def measure(way: str, raw: Path, out: Path) -> dict[str, Any] | str:
    """What a way took: seconds, peak by stage, the whole, the peak; or why it failed."""
    if way == "DuckDB" and importlib.util.find_spec("duckdb") is None:
        return "not installed (pip install 'pmmrec[bench]')"
    command = [sys.executable, "-m", "benchmarks.ingest", "--child", way, str(raw), str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate()
    whole = time.perf_counter() - start
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        return f"failed after {whole:.0f} s: {last[0][:200]}"
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    found["whole"] = whole
    return found


def table(shape: Shape, size: int, found: dict[str, dict[str, Any] | str]) -> str:
    """Every way's stages as Markdown."""
    lines = [
        f"{shape.rows:,} review lines of {shape.users:,} users on {shape.items:,} items, "
        f"{size / 1e9:.1f} GB unpacked, in gz files, and their metadata. Whole: with the start of "
        "the process. Peak: resident memory seen in the stage.",
        "",
        "| way | stage | seconds | rows/s | peak GiB |",
        "|---|---|---|---|---|",
    ]
    for way, told in found.items():
        if isinstance(told, str):
            lines.append(f"| {way} | {told} | | | |")
            continue
        for stage, spent in told["seconds"].items():
            peak = told["peak"].get(stage, 0) / 2**30
            lines.append(
                f"| {way} | {stage} | {spent:.1f} | {shape.rows / spent:,.0f} | {peak:.2f} |"
            )
        whole, most = told["whole"], max(told["peak"].values()) / 2**30
        lines.append(
            f"| **{way}** | **whole**, {told['kept']:,} rows kept | **{whole:.1f}** | "
            f"**{shape.rows / whole:,.0f}** | **{most:.2f}** |"
        )
    return "\n".join(lines)


def slopes(folder: Path, rows: int) -> str:
    """How the peak grows when only the rows, users, items or words of the reviews do."""
    base = Shape(rows=rows, users=rows // 8, items=rows // 32)
    # A user or item more must occur, or it costs nothing: four times as many, on the same rows.
    grown = {
        "rows": replace(base, rows=2 * rows),
        "users": replace(base, users=4 * base.users),
        "items": replace(base, items=4 * base.items),
        "words of a review": replace(base, words=3 * base.words),
    }
    peaks, sizes = {}, {}
    for name, shape in {"base": base, **grown}.items():
        raw = folder / f"raw {name}"
        sizes[name] = write_reviews(raw, shape)
        told = measure("pmm", raw, folder / f"home {name}")
        if isinstance(told, str):
            return f"The slopes could not be measured: {told}"
        peaks[name] = max(told["peak"].values())
    more = {
        "rows": rows,
        "users": 3 * base.users,
        "items": 3 * base.items,
        "words of a review": sizes["words of a review"] - sizes["base"],
    }
    units = {"rows": "row", "users": "user", "items": "item", "words of a review": "byte of review"}
    lines = [
        f"Peak memory of pmm on {rows:,} lines ({sizes['base'] / 1e9:.2f} GB): "
        f"{peaks['base'] / 2**30:.2f} GiB; and with one thing larger:",
        "",
        "| larger | by | peak GiB | slope |",
        "|---|---|---|---|",
    ]
    for name in grown:
        slope = (peaks[name] - peaks["base"]) / more[name]
        lines.append(
            f"| {name} | {more[name]:,} {units[name]}s | {peaks[name] / 2**30:.2f} | "
            f"{slope:,.2f} bytes per {units[name]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=FULL_ROWS)
    parser.add_argument("--no-record", action="store_true", help="only print")
    parser.add_argument("--folder", type=Path, help="where to put the temporary files")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, raw, out = options.child
        child(way, Path(raw), Path(out))
        return
    shape = Shape.of(options.rows)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = write_reviews(folder / "raw", shape)
        os.sync()
        found = {way: measure(way, folder / "raw", folder / way) for way in WAYS}
        text = table(shape, size, found)
        print(text, flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        text += "\n\n" + slopes(Path(name), min(SLOPE_ROWS, options.rows))
    print(text)
    if not options.no_record:
        full = options.rows == FULL_ROWS
        record("ingest" if full else f"ingest of {options.rows:,} lines", text)


if __name__ == "__main__":
    main()
