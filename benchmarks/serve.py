"""What an answer costs: looking through the items, all of them or by an index.

    python -m benchmarks.serve [--items 20000 1000000] [--vectors drawn HOME/runs/RUN ...]

Items are vectors of a run that is there, made as many as wanted by differences between them and a
little noise; or drawn, around tastes and of different lengths. Users are made of its users alike.
Beside: plain numpy (a product with all items, argpartition), and the time in which the memory can
be read once. One thread; milliseconds of the processor, which other work on the machine changes
little, and of the clock, which it does.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import record
from pmm.arrays import Float32s, Int64s
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.recommend.catalogue_state import CatalogueState, GrowingCatalogue
from pmm.recommend.inverted_lists import load_faiss
from pmm.recommend.item_index import SCAN_BYTES, USERS, ItemIndex, open_index
from pmm.recommend.open_run import open_model
from pmm.recommend.top_k import top_k
from pmm.storage.home import Home

ASKED = 200
"""Users whose answers are timed; none of them measured the index."""
WIDTH = 128
ROWS = 65_536


def vectors_of(name: str) -> tuple[Float32s, Float32s]:
    """Items and users: of a run's folder, or drawn."""
    if name != "drawn":
        place = Path(name)
        model = open_model(Home(place.parent.parent), place, index="exact")
        return model.state.score_ND, model.user_vectors(model.sample())
    draw = np.random.default_rng(0)
    falling = (1 / np.arange(1, WIDTH + 1) ** 0.8).astype(np.float32)
    tastes = draw.standard_normal((500, WIDTH), dtype=np.float32) * falling
    near = draw.integers(0, 500, 20_000)
    items = tastes[near] + 0.4 * draw.standard_normal((20_000, WIDTH), dtype=np.float32) * falling
    items *= np.exp(0.2 * draw.standard_normal((20_000, 1), dtype=np.float32))
    users = tastes[near[:2_000]] + 0.5 * falling * draw.standard_normal(
        (2_000, WIDTH), dtype=np.float32
    )
    return items, 5 * users


def grown(x: Float32s, n: int, far: float, seed: int) -> Float32s:
    """As many vectors as wanted, as long as these, each near one of them.

    It goes some way along the difference of two others, so that directions stay as they are.
    """
    draw, noise = np.random.default_rng(seed), 0.15 * float(x.std(0).mean())
    made = np.empty((n, x.shape[1]), np.float32)
    for start in range(0, n, ROWS):
        part = made[start : start + ROWS]
        a, b, c = draw.integers(0, len(x), (3, len(part)))
        part[:] = x[a] + far * (x[b] - x[c])
        part += noise * draw.standard_normal(part.shape, dtype=np.float32)
        part *= (np.linalg.norm(x[a], axis=1) / np.linalg.norm(part, axis=1))[:, None]
    return made


Mask = NDArray[np.bool_]
Answer = Callable[[Float32s], tuple[Int64s, Float32s]]


def timed(answer: Answer, users: Float32s) -> tuple[str, list[Int64s]]:
    """Cells of a table: median and 99th percentile of the processor and of the clock, in ms."""
    processor, clock, found = [], [], []
    for user in users:
        start, begun = time.perf_counter(), time.thread_time()
        rows, _ = answer(user)
        processor.append(time.thread_time() - begun)
        clock.append(time.perf_counter() - start)
        found.append(rows)
    cells = [np.quantile(each, q) * 1e3 for each in (processor, clock) for q in (0.5, 0.99)]
    return " | ".join(f"{each:.2f}" for each in cells), found


def shared(found: Sequence[Int64s], true: Sequence[Int64s]) -> float:
    """Of the true rows, the share that was found."""
    both = zip(found, true, strict=True)
    hits = sum(len(np.intersect1d(left, right)) for left, right in both)
    return hits / sum(map(len, true))


def bandwidth(x: Float32s) -> float:
    """Bytes a second that one core reads of an array: the best of five."""
    flat, seconds = x.reshape(-1), []
    for _ in range(5):
        start = time.thread_time()
        flat.max()
        seconds.append(time.thread_time() - start)
    return x.nbytes / min(seconds)


def numpy_plain(items: Float32s, k: int) -> Answer:
    """What is written first."""

    def answer(user: Float32s) -> tuple[Int64s, Float32s]:
        score_N = items @ user
        rows = np.argpartition(-score_N, k)[:k]
        rows = rows[np.argsort(-score_N[rows])]
        return rows, score_N[rows]

    return answer


def scanned(
    items: Float32s,
    allowed_N: Mask,
    k: int,
    longest: float,
    added_N: Float32s | None,
    user: Float32s,
) -> tuple[Int64s, Float32s]:
    """The exact answer."""
    return top_k(user, items, allowed_N, k, longest=longest, added_N=added_N)


def searched(
    index: ItemIndex,
    state: CatalogueState,
    allowed_N: Mask,
    k: int,
    factor: float,
    added_N: Float32s | None,
    user: Float32s,
) -> tuple[Int64s, Float32s]:
    """The index's."""
    return index.best(state, user, allowed_N, k, factor=factor, added_N=added_N)


def measure(name: str, vectors: tuple[Float32s, Float32s], n: int) -> list[str]:
    """Rows of the table, and a line on the index."""
    items, users = grown(vectors[0], n, 0.5, 1), grown(vectors[1], USERS + ASKED, 0.3, 2)
    draw, mix = np.random.default_rng(3), PopularityMix(alpha=1.25)
    count = np.minimum(draw.zipf(1.6, n), 50_000).astype(np.int64)
    state = GrowingCatalogue([str(k) for k in range(n)], items, items, count).state
    # Scores of all models are of about one spread; popularity is mixed in as strong as they are.
    temperature = float(np.std(users[:50] @ items[:2_000].T)) / 1.7
    factor = mix.alpha * temperature
    added_N = np.float32(factor) * mix.log_share(count)
    begun, before = time.process_time(), resident()
    index = open_index(
        "auto",
        state,
        lambda: users[:USERS],
        by_product=True,
        mix=mix,
        temperature=temperature,
    )
    begun, more = time.process_time() - begun, resident() - before
    asked, all_N = users[USERS:], np.ones(n, np.bool_)
    some_N, few_N = draw.random(n) < 0.3, draw.random(n) < 0.01
    read = bandwidth(items)
    rows = [
        f"| {n:,} {name} | limit: memory is read once | {items.nbytes / read * 1e3:.2f} | | | | |"
    ]
    longest = state.longest

    def line(what: str, answer: Answer, true: list[Int64s] | None) -> list[Int64s]:
        cells, found = timed(answer, asked)
        recall = "" if true is None else f"{shared(found, true):.4f}"
        rows.append(f"| {n:,} {name} | {what} | {cells} | {recall} |")
        return found

    line("plain numpy, k = 10", numpy_plain(items, 10), None)
    cases = [
        ("k = 10", 10, all_N, 0.0),
        ("k = 100", 100, all_N, 0.0),
        ("k = 10 of 30 %", 10, some_N, 0.0),
        ("k = 10 of 1 %", 10, few_N, 0.0),
        ("k = 10 with popularity", 10, all_N, factor),
    ]
    for what, k, allowed_N, share in cases:
        added = added_N if share else None
        scan = partial(scanned, items, allowed_N, k, longest, added)
        true = line(f"scan, {what}", scan, None)
        if index is not None:
            search = partial(searched, index, state, allowed_N, k, share, added)
            line(f"index, {what}", search, true)
    about = f"{n:,} {name}: read at {read / 1e9:.1f} GB/s"
    if index is None:
        return [*rows, f"{about}; {items.nbytes / 1e6:.0f} MB, so they are scanned."]
    return [*rows, f"{about}; {of_index(index, begun, more)}"]


def of_index(index: ItemIndex, processor: float, more: float) -> str:
    """What it took to make."""
    return (
        f"index made and measured in {processor:.0f} s of the processor ({index.seconds:.0f} s by "
        f"the clock); recall {index.recall:.4f} at k = 10; {index.nbytes / 2**20:.0f} MiB beside "
        f"the vectors (the process grew by {more:.0f}); looks at {index.looks_at:.1%} of the items."
    )


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 1_000_000])
    parser.add_argument("--vectors", nargs="+", default=["drawn"], help='"drawn", or runs')
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    load_faiss().omp_set_num_threads(1)
    rows, notes = [], []
    for each in given.vectors:
        vectors = vectors_of(each)
        for n in given.items:
            *lines, note = measure(Path(each).name, vectors, n)
            rows += lines
            notes.append(f"- {note}")
            print("\n".join([*lines, note]), flush=True)
    load = os.getloadavg()[0]
    table = "\n".join(
        [
            "| items | way | ms processor p50 | p99 | ms clock p50 | p99 | recall |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *notes,
            "",
            f"One thread, {ASKED} users one after the other. Up to {SCAN_BYTES / 1e6:.0f} MB are "
            f"scanned without an index. Other work ran meanwhile (load {load:.0f} on two cores "
            "at the end), so the clock's p99 is the scheduler's: compare by the processor's time.",
        ]
    )
    if not given.no_record:
        record("serve: search", table)


if __name__ == "__main__":
    main()
