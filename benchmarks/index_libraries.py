"""Approximate indexes of several libraries on the same items, the one that was chosen among them.

    pip install usearch hnswlib voyager
    python -m benchmarks.index_libraries [--items 50000] [--vectors drawn|HOME/runs/RUN]

Graphs (HNSW) with 16 links an item and 128 candidates when one is added, all for inner products;
faiss has none for them that is good, so it gets the reduction to nearest neighbours. Each is
searched with the fewest candidates of 4, 5, 6, 8, ... that find 0.99 of the ten best items.
"faiss, IVF" is that library's own way to search inverted lists by inner product (candidates are
lists), as many lists of one byte a number. "pmm's lists" are `pmm.recommend.inverted_lists`: the
same class of faiss, searched as hard as `pmm.recommend.item_index` measures.
One thread, time of the processor. A library that is not installed is left out.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import record
from benchmarks.serve import ASKED, grown, resident, shared, vectors_of
from pmm.arrays import Float32s, Int64s
from pmm.recommend.catalogue_state import GrowingCatalogue
from pmm.recommend.inverted_lists import ITEMS_OF_A_LIST, MOST_PER_ROOT, SAMPLE, load_faiss
from pmm.recommend.item_index import USERS, ItemIndex

LINKS, ADDED = 16, 128
FILTERS = {
    "usearch": "none in Python",
    "hnswlib": "a Python function, called for each item",
    "voyager": "none",
    "faiss, graph": "bits of allowed items",
    "faiss, IVF": "bits of allowed items",
    "pmm's lists": "bits of allowed items, looked at further",
}

Search = Callable[[Float32s, int, int], Int64s]
"""Of a user, k and how many candidates, the rows that were found."""


def usearch(items: Float32s) -> Search:
    """usearch."""
    made = importlib.import_module("usearch.index").Index(
        ndim=items.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=ADDED
    )
    made.add(np.arange(len(items)), items, threads=1)

    def search(user: Float32s, k: int, candidates: int) -> Int64s:
        made.expansion_search = candidates
        rows: Int64s = made.search(user, k, threads=1).keys.astype(np.int64)
        return rows

    return search


def hnswlib(items: Float32s) -> Search:
    """hnswlib."""
    made = importlib.import_module("hnswlib").Index(space="ip", dim=items.shape[1])
    made.init_index(max_elements=len(items), ef_construction=ADDED, M=LINKS)
    made.add_items(items, num_threads=1)

    def search(user: Float32s, k: int, candidates: int) -> Int64s:
        made.set_ef(candidates)
        rows: Int64s = made.knn_query(user, k=k, num_threads=1)[0][0].astype(np.int64)
        return rows

    return search


def voyager(items: Float32s) -> Search:
    """voyager."""
    library = importlib.import_module("voyager")
    made = library.Index(
        library.Space.InnerProduct,
        num_dimensions=items.shape[1],
        M=LINKS,
        ef_construction=ADDED,
    )
    made.add_items(items, num_threads=1)

    def search(user: Float32s, k: int, candidates: int) -> Int64s:
        rows: Int64s = made.query(user, k=k, query_ef=max(k, candidates), num_threads=1)[0]
        return rows.astype(np.int64)

    return search


def faiss_graph(items: Float32s) -> Search:
    """faiss' graph over vectors that are filled up to one length."""
    faiss = load_faiss()
    square_N = np.einsum("nd,nd->n", items, items)
    fill_N1 = np.sqrt(np.maximum(square_N.max() - square_N, 0))[:, None]
    made = faiss.IndexHNSWFlat(items.shape[1] + 1, LINKS)
    made.hnsw.efConstruction = ADDED
    made.add(np.concatenate([items, fill_N1], 1).astype(np.float32))

    def search(user: Float32s, k: int, candidates: int) -> Int64s:
        # As long as the items, so that distances are told apart.
        asked = np.append(user * float(np.sqrt(square_N.max())) / np.linalg.norm(user), 0)
        how = faiss.SearchParametersHNSW(efSearch=candidates)
        rows: Int64s = made.search(asked[None].astype(np.float32), k, params=how)[1][0]
        return rows

    return search


def faiss_ivf(items: Float32s) -> Search:
    """faiss' inverted lists as they come, lists of near directions."""
    faiss, n = load_faiss(), len(items)
    lists = max(1, int(min(MOST_PER_ROOT * n**0.5, n / ITEMS_OF_A_LIST)))
    metric = faiss.METRIC_INNER_PRODUCT
    made = faiss.index_factory(items.shape[1], f"IVF{lists},SQ8", metric)
    made.cp.max_points_per_centroid = SAMPLE
    made.train(items)
    made.add(items)

    def search(user: Float32s, k: int, candidates: int) -> Int64s:
        """As of `quick_enough`; scored anew, so that a byte a number costs no place."""
        how = faiss.SearchParametersIVF(nprobe=min(candidates, lists))
        rows = made.search(user[None], 4 * k, params=how)[1][0]
        rows = rows[rows >= 0]
        best: Int64s = rows[np.argsort(-(items[rows] @ user))[:k]]
        return best

    return search


def quick_enough(search: Search, users: Float32s, true: list[Int64s]) -> tuple[int, float, float]:
    """The fewest candidates with a recall of 0.99, it, and the median ms of an answer."""
    tried, candidates, recall, seconds = 4, 4, 0.0, [0.0]
    while recall < 0.99 and candidates <= 4_096:
        found, seconds = [], []
        for user in users:
            begun = time.thread_time()
            found.append(search(user, 10, candidates))
            seconds.append(time.thread_time() - begun)
        recall = shared(found, true)
        tried, candidates = candidates, candidates + max(1, candidates // 4)
    return tried, recall, 1e3 * float(np.median(seconds))


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--vectors", default="drawn", help='"drawn", or the folder of a run')
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    load_faiss().omp_set_num_threads(1)
    items, users = vectors_of(given.vectors)
    items, users = grown(items, given.items, 0.5, 1), grown(users, USERS + ASKED, 0.3, 2)
    asked = users[USERS:]
    true = [np.argsort(-(items @ user))[:10] for user in asked]
    count = np.ones(len(items), np.int64)
    state = GrowingCatalogue([str(k) for k in range(len(items))], items, items, count).state
    rows = []

    def line(name: str, make: Callable[[Float32s], Any]) -> None:
        before, begun = resident(), time.process_time()
        try:
            made = make(items)
        except ImportError:
            print(f"{name} is not installed")
            return
        begun, more = time.process_time() - begun, resident() - before
        search = made if not isinstance(made, ItemIndex) else _lists(made)
        candidates, recall, ms = quick_enough(search, asked, true)
        how = "as measured" if isinstance(made, ItemIndex) else f"{candidates} candidates"
        cells = (name, f"{begun:.1f}", f"{more:.0f}", how, f"{recall:.4f}", f"{ms:.2f}")
        rows.append(f"| {' | '.join(cells)} | {FILTERS[name]} |")
        print(rows[-1], flush=True)

    def _lists(index: ItemIndex) -> Search:
        return lambda user, k, _: index.best(state, user, state.offered_N, k)[0]

    line("pmm's lists", lambda _: ItemIndex(state, users[:USERS]))
    line("faiss, IVF", faiss_ivf)
    line("faiss, graph", faiss_graph)
    line("usearch", usearch)
    line("hnswlib", hnswlib)
    line("voyager", voyager)
    table = "\n".join(
        [
            "| index | s to make | MiB more | search | recall at 10 | ms an answer | filter |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"{given.items:,} items ({Path(given.vectors).name}); the lists' seconds are with "
            "measuring them. Processor time of one thread; other work ran meanwhile.",
        ]
    )
    if not given.no_record:
        record("serve: index libraries", table)


if __name__ == "__main__":
    main()
