"""`pmm recommend` for a million users and 100,000 items: planned from what a slice of it takes.

    python -m benchmarks.recommend_many RUN --home HOME [--users 1000000] [--seconds 60]

The command runs in a process of its own, on a file of that many histories, with a catalogue that is
grown from the run's (`benchmarks.serve.grown`). After some seconds it is killed, as a machine might
be; what it has finished by then stands, and the rest is a rule of three. Beside: the same users by
plain numpy (a product with all items, argpartition), and what the product alone takes.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.results import record
from benchmarks.serve import grown
from benchmarks.serve_http import grow_models, resident
from pmm.recommend.open_run import open_model
from pmm.storage.home import Home

K, TOGETHER = 50, 256
HISTORY = 10


def write_histories(path: Path, users: int, ids: list[str]) -> None:
    """A row a user: some items, drawn."""
    draw = np.random.default_rng(0)
    items = pa.DictionaryArray.from_arrays(
        pa.array(draw.integers(0, len(ids), users * HISTORY, dtype=np.int32)), pa.array(ids)
    ).cast(pa.string())
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(users + 1, dtype=np.int32) * HISTORY), items
    )
    names = pa.array([f"user-{each}" for each in range(users)])
    pq.write_table(pa.table({"user_id": names, "items": lists}), path)


def recommend(items: int, arguments: list[str]) -> None:
    """`pmm recommend` with a larger catalogue."""
    from pmm.cli import main as pmm

    grow_models(items)
    sys.argv = ["pmm", "recommend", *arguments]
    pmm()


def by_the_way(run: Path, home: Path, items: int) -> tuple[float, float]:
    """Users a second of plain numpy, and of the product alone."""
    model = open_model(Home(home), run, index="exact")
    item_ND = grown(model.state.score_ND, items, 0.5, 1)
    user_BD = grown(model.user_vectors(model.sample()), TOGETHER, 0.3, 2)
    whole, product = [], []
    for _ in range(3):
        start = time.perf_counter()
        score_BN = user_BD @ item_ND.T
        product.append(time.perf_counter() - start)
        best_BK = np.argpartition(-score_BN, K, axis=1)[:, :K]
        np.take_along_axis(score_BN, best_BK, axis=1).argsort(axis=1)
        whole.append(time.perf_counter() - start)
    return TOGETHER / min(whole), TOGETHER / min(product)


def main() -> None:
    """Measure, print and record."""
    if sys.argv[1:2] == ["--recommend"]:
        recommend(int(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="after the first piece")
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    ids = list(open_model(Home(given.home), given.run, index="exact").state.ids)
    with tempfile.TemporaryDirectory() as folder:
        histories, out = Path(folder) / "histories.parquet", Path(folder) / "out.parquet"
        write_histories(histories, given.users, ids)
        command = [sys.executable, "-m", "benchmarks.recommend_many", "--recommend"]
        command += [str(given.items), str(given.run), "--home", str(given.home)]
        command += ["--users", str(histories), "--out", str(out), "--k", str(K)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as made:
            assert made.stderr is not None
            said = (line for line in made.stderr if "so the rest takes about" in line)
            plan = next(said, "").strip()
            if not plan:
                raise SystemExit("the command has ended; its message stands above")
            begun, before = time.perf_counter(), len(list(Path(folder).rglob("*.parquet")))
            time.sleep(given.seconds)
            pieces = len(list(Path(folder).rglob("*.parquet"))) - before
            took, memory = time.perf_counter() - begun, resident(made.pid)
            made.kill()
    numpy, product = by_the_way(given.run, given.home, given.items)
    found = re.search(r"([\d,.]+)/s\)", plan)
    rate = float(found[1].replace(",", "")) if found else float("nan")
    table = "\n".join(
        [
            "| way | users/s | 1,000,000 users |",
            "|---|---|---|",
            f"| `pmm recommend`: histories read, encoded, ranked, written | {rate:,.0f} "
            f"| {1e6 / rate / 60:,.0f} min |",
            f"| plain numpy, ranking alone | {numpy:,.0f} | {1e6 / numpy / 60:,.0f} min |",
            f"| limit: the product of all users with all items | {product:,.0f} "
            f"| {1e6 / product / 60:,.0f} min |",
            "",
            f"{given.items:,} items of width as the run's ({given.run.name}), k = {K}, histories "
            f"of {HISTORY}. The command said: `{plan}` {pieces} more pieces of 8,192 users stood "
            f"{took:.0f} s later, when it was killed; {memory:,.0f} MiB. "
            "`python -m benchmarks.recommend_many RUN --home HOME`",
        ]
    )
    print(table)
    if not given.no_record:
        record("recommend to many", table)


if __name__ == "__main__":
    main()
