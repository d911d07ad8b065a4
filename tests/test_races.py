"""Two processes at once on what one stage writes and another reads: they never mix.

Another process's whole work on an artefact is a swap of folders. Here it happens at every single
moment at which a stage opens a file of that artefact, once with another state of it, and once with
another state and then the first again. What comes out is of one state, or is refused, and in a
refused stage's home the next try gives what it should.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock, Timeout

from pmm.errors import PmmError
from pmm.evaluate import evaluation, publish
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.ingest.tables.source_tables import RawSource, Reading, write_tables
from pmm.ingest.targets.target_tables import IngestOptions, write_targets
from pmm.inspect import describe
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.storage.schemas import INTERACTIONS, SOURCE_ITEMS
from pmm.train.train_run import store_activations, train
from pmm.tune import search

Stage = Callable[[Home], Any]
"""Runs a stage; what it returns is compared with what it returns where nobody interferes."""

RUN = "first"
_ticks: list[Callable[[str], None]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _ticks and isinstance(arguments[0], str):
        _ticks[-1](arguments[0])


sys.addaudithook(_hear)  # silent but inside `swapping`


@dataclasses.dataclass(frozen=True)
class Two:
    """Homes with two states of the same target."""

    one: Home
    other: Home
    options: Any


@pytest.fixture(scope="module")
def two(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Two:
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("one"), n_items=12, n_users=10)
    other = Home(tmp_path_factory.mktemp("other"))
    shutil.copytree(shop.home.root / "pictures", other.root / "pictures")
    names = [f"another thing {item}" for item in range(1, 12)]
    shop_maker._make_target(other, "HM", names, 9)
    shop_maker._make_shards(other, "HM", shop.options.text.encoder)
    for home, rows in ((shop.home, 40), (other, 56)):
        ingest(home, rows)
        train_ids(home)
    return Two(shop.home, other, shop.options)


def ingest(home: Home, rows: int) -> None:
    """Tables of a source "raw" and its target: users of four actions in a row on four items."""

    def read() -> Reading:
        ids = [f"i{k}" for k in range(4)]
        items = {"item_id": ids, "text": ids, "image": [None] * 4, "categories": [[]] * 4}
        columns = {
            "user_id": [f"u{row // 4}" for row in range(rows)],
            "item_id": [f"i{(row + row // 4) % 4}" for row in range(rows)],
            "timestamp": list(range(rows)),
            "order": list(range(rows)),
        }
        table = pa.table(
            {name: columns.get(name, [None] * rows) for name in INTERACTIONS.schema.names},
            INTERACTIONS.schema,
        )
        counts: Any = {"read": rows}
        listed = pa.table(
            {name: items[name] for name in SOURCE_ITEMS.schema.names}, SOURCE_ITEMS.schema
        )
        return Reading(
            items=listed,
            item_counts={},
            interactions=iter([table]),
            row_counts=counts,
            notes={"detected": {}},
        )

    raw = RawSource(name="raw", config={"rows": rows}, inputs={}, pictures=None, read=read)
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    write_targets(home, write_tables(home, raw), {"raw": None}, (), [], options)


def train_ids(home: Home, name: str = RUN) -> Any:
    options = TrainOptions(epochs=1, batch_users=4, device="cpu")
    model = SasrecOptions(width=8, max_length=4, user_blocks=1)
    train(home, home.run(name), Recipe(target="HM", model=model, train=options))
    tensors, about = read_tensors(home.run(name) / BEST, made_by="")
    return about["shards"], {key: tensor.tolist() for key, tensor in tensors.items()}


@contextmanager
def swapping(place: Path, states: dict[int, Path]) -> Iterator[list[str]]:
    """Put another state of an artefact in its place when its n-th file is about to be opened.

    Yields the files that were opened.
    """
    opened, due = list[str](), list[Path]()

    def tick(path: str) -> None:
        if not path.startswith(f"{place}/") or Path(path).name.startswith("."):
            return
        due.extend(states[at] for at in (len(opened),) if at in states)
        opened.append(path)
        # A writer is kept out by the lock of another writer, and comes when that has ended.
        if due and not is_locked(place):
            swap(place, due.pop(0))

    def once(path: str) -> None:
        _ticks.append(lambda _: None)  # what the swap itself opens does not count
        try:
            tick(path)
        finally:
            _ticks.pop()

    _ticks.append(once)
    try:
        yield opened
    finally:
        _ticks.pop()


def is_locked(place: Path) -> bool:
    """Whether a process holds an artefact, or a run's evaluations, to write."""
    for lock in ("lock", "evaluations.lock"):
        path = place.with_name(f".{place.name}.{lock}")
        if path.exists():
            try:
                with FileLock(path).acquire(timeout=0):
                    pass
            except Timeout:
                return True
    return False


def swap(place: Path, state: Path) -> None:
    """What another process does that writes an artefact anew."""
    new, gone = place.with_name("new"), place.with_name("gone")
    shutil.copytree(state, new)
    if place.exists():
        place.rename(gone)
        shutil.rmtree(gone)
    new.rename(place)


@pytest.fixture(autouse=True)
def hear_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow and Polars open files past Python."""
    real, scan = pq.ParquetFile.__init__, pl.scan_parquet

    def init(self: Any, source: Any, *rest: Any, **named: Any) -> None:
        if _ticks:
            _ticks[-1](str(source))
        real(self, source, *rest, **named)

    def scanned(source: Any, *rest: Any, **named: Any) -> Any:
        if _ticks:
            _ticks[-1](str(source))
        return scan(source, *rest, **named)

    monkeypatch.setattr(pq.ParquetFile, "__init__", init)
    monkeypatch.setattr(pl, "scan_parquet", scanned)


def never_mixes(two: Two, tmp_path: Path, stage: Stage, swapped: str) -> None:
    """Interfere with a stage wherever it opens a file of what stands at `swapped` in its home."""
    homes = [fresh(home, tmp_path / home.root.name) for home in (two.one, two.other)]
    clean = [stage(home) for home in homes]
    assert clean[0] != clean[1]
    outcomes = set()
    for moment in count():
        past = False
        for back in (None, 1, 3):
            home = fresh(two.one, tmp_path / f"{moment}-{back}")
            states = {moment: two.other.root / swapped}
            if back is not None:
                states[moment + back] = two.one.root / swapped
            with swapping(home.root / swapped, states) as opened:
                try:
                    found = stage(home)
                except PmmError as error:
                    found = error
            past = len(opened) <= moment
            outcomes.add(type(found).__name__ if isinstance(found, PmmError) else "whole")
            if isinstance(found, PmmError):
                assert "changed" in str(found) or "is now" in str(found) or "was made" in str(found)
            else:
                assert found in clean
            shutil.rmtree(home.root / swapped)
            shutil.copytree(two.one.root / swapped, home.root / swapped)
            if isinstance(found, PmmError) and not past and back is None:
                assert stage(home) == clean[0]
            shutil.rmtree(home.root)
        if past:
            break
    assert moment > 1
    assert "whole" in outcomes
    assert "StaleArtefact" in outcomes


def fresh(home: Home, place: Path) -> Home:
    """A copy of a home: what a stage reads, none of what it writes."""
    ignore = shutil.ignore_patterns("encoders", "pictures", "activations")
    return Home(Path(shutil.copytree(home.root, place, ignore=ignore)))


def sharded(shop_maker: ModuleType, two: Two) -> Stage:
    def stage(home: Home) -> Any:
        shutil.rmtree(home.shards("HM"), ignore_errors=True)
        shop_maker._make_shards(home, "HM", two.options.text.encoder)
        made = Shards(home.shards("HM")).manifest
        return {"target": made.inputs["target"], **{n: e["sha256"] for n, e in made.files.items()}}

    return stage


def test_an_ingest_during_shard(two: Two, shop_maker: ModuleType, tmp_path: Path) -> None:
    never_mixes(two, tmp_path, sharded(shop_maker, two), "targets/hm")


def test_an_ingest_during_another_ingest_of_the_same_source(two: Two, tmp_path: Path) -> None:
    def stage(home: Home) -> Any:
        shutil.rmtree(home.target("raw"), ignore_errors=True)
        ingest(home, 40 if home_is_of(home, two.one) else 56)
        return (home.target("raw") / "manifest.json").read_bytes()

    never_mixes(two, tmp_path, stage, "tables/raw")


def home_is_of(home: Home, origin: Home) -> bool:
    run = Path("runs") / RUN / "run.json"
    return (home.root / run).read_bytes() == (origin.root / run).read_bytes()


def test_a_shard_during_cache(two: Two, tmp_path: Path) -> None:
    recipe = Recipe(target="HM", model=two.options, train=TrainOptions(device="cpu"))

    def stage(home: Home) -> Any:
        folders = store_activations(home, recipe)
        names = [path for folder in folders for path in sorted(Path(folder).iterdir())]
        return [(p.parent.name, p.name, p.read_bytes()) for p in names]

    never_mixes(two, tmp_path, stage, "shards/hm")


def test_a_shard_during_train(two: Two, tmp_path: Path) -> None:
    def stage(home: Home) -> Any:
        shutil.rmtree(home.run("second"), ignore_errors=True)
        shutil.copytree(target_of(home, two), home.target("HM"), dirs_exist_ok=True)
        return train_ids(home, "second")

    never_mixes(two, tmp_path, stage, "shards/hm")


def target_of(home: Home, two: Two) -> Path:
    return (two.one if home_is_of(home, two.one) else two.other).target("HM")


@pytest.mark.parametrize("swapped", ["shards/hm", "targets/hm", f"runs/{RUN}"])
def test_what_is_written_anew_during_evaluate(two: Two, tmp_path: Path, swapped: str) -> None:
    def stage(home: Home) -> Any:
        run = home.run(RUN)
        # Only the gallery reads pictures, and only the cold cuts read the target.
        shards, target = swapped == "shards/hm", swapped == "targets/hm"
        options = EvaluateOptions(cold=target, gallery_users=int(shards))
        said = evaluate_run(home, run, options, device="cpu")
        if not (shards or target):  # what the test itself opened would count
            return said
        names = [*run.glob("metrics*"), *run.glob("ranks*"), *run.glob("gallery*")]
        return said, {path.name: path.read_bytes() for path in names}

    never_mixes(two, tmp_path, stage, swapped)


@pytest.mark.parametrize("swapped", ["shards/hm", "targets/hm"])
def test_what_is_written_anew_during_inspect(two: Two, tmp_path: Path, swapped: str) -> None:
    def stage(home: Home) -> Any:
        sheet = tmp_path / "sheet.png"
        if swapped == "shards/hm":  # whose target is another one then
            shutil.rmtree(home.target("HM"), ignore_errors=True)
        said = describe(home.root / swapped, sheet=sheet).replace(str(home.root), "")
        return said, sheet.read_bytes() if sheet.exists() else b""

    never_mixes(two, tmp_path, stage, swapped)


def test_two_evaluations_of_one_run_both_finish(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh(two.one, tmp_path / "home")
    run, errors = home.run(RUN), list[Exception]()
    writes, asks = threading.Event(), threading.Event()
    draw, held = evaluation._draw_gallery, publish.evaluations_held

    def slow(path: Path, **named: Any) -> None:
        if not writes.is_set():
            writes.set()
            assert asks.wait(120)  # the other one stands before the door
        draw(path, **named)

    def asking(place: Path) -> Any:
        if writes.is_set():
            asks.set()
        return held(place)

    def evaluated(seed: int) -> None:
        try:
            evaluate_run(home, run, EvaluateOptions(seed=seed, gallery_users=1), device="cpu")
        except Exception as error:  # of a thread, which nobody else would hear
            errors.append(error)

    monkeypatch.setattr(evaluation, "_draw_gallery", slow)
    monkeypatch.setattr(publish, "evaluations_held", asking)
    first, second = (threading.Thread(target=evaluated, args=(seed,)) for seed in (0, 1))
    first.start()
    assert writes.wait(120)
    second.start()
    first.join()
    second.join()
    assert errors == []
    said = json.loads((run / "metrics.json").read_text())
    assert said["ranks_sha256"] == hashlib.sha256((run / "ranks.parquet").read_bytes()).hexdigest()
    assert not [path for path in run.iterdir() if path.name.startswith(".tmp-")]


def test_a_shard_between_two_trials_of_a_search(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh(two.one, tmp_path / "home")
    real = search.propose

    def propose(*rest: Any, **named: Any) -> Any:
        if len(rest[2]) == 1:
            for kind in ("shards/hm", "targets/hm"):
                shutil.rmtree(home.root / kind)
                shutil.copytree(two.other.root / kind, home.root / kind)
        return real(*rest, **named)

    monkeypatch.setattr(search, "propose", propose)
    request = search.TrainRequest(target="HM", model="sasrec", epochs=1)
    with pytest.raises(PmmError, match="changed: they were"):
        search.tune(home, request, {"train": {"batch_users": 4, "device": "cpu"}}, budget=2)
    rows = (home.tuning("HM") / "sasrec" / "trials.jsonl").read_text().splitlines()
    assert len(rows) == 1
