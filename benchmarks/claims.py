"""The paper's claims on the embedded world, whose best possible result is known.

    python -m benchmarks.claims --home DIR [--seeds 0,1,2] [--claims 1,2] [--jobs 2]

Every run is one of the README's commands (`pmm train`, `pmm evaluate --cold`), given to a process
of one thread that takes one after the other. What came out is a row of benchmarks/claims.jsonl; a
run that has its row is not done again, and a training that was broken off goes on. docs/claims.md
is made from the rows.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims_page import write_page
from benchmarks.results import commit
from pmm.cli import main as main_of_pmm
from pmm.data.training_set import TrainingSet
from pmm.demo.world_datasets import (
    ingest_platforms,
    oracle_table,
    place_encoders,
    shard_targets,
    write_platforms,
)
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import references
from pmm.evaluate.metrics import summarise
from pmm.model import registry
from pmm.shards.read import Shards
from pmm.storage.home import SOURCES, Home, slug
from pmm.train.curves import read_log
from pmm.world import generate
from pmm.world.platforms import TARGETS

ROWS = Path(__file__).with_name("claims.jsonl")

DOWNSTREAM = tuple(target.name for target in TARGETS if target.name not in SOURCES)
SHOWN = ("HM Shoes", "Kwai Movie")
"""Targets on which every transfer and single modality is trained: a dense one and a sparse one."""

STEPS, SHORT_STEPS = 600, 300
"""Of a run on one target, rounded to whole epochs; PMMRec from scratch and fine-tuned alike. The
short runs are those behind a short pre-training, and what stands beside them."""
BASELINE_STEPS, COMPARED_STEPS = 1800, 1200
"""Ids start from nothing: three times as many steps, which are cheap, and the best is kept. In the
comparison of all systems twice as many."""
EVALUATIONS = 12
PRETRAIN_EPOCHS, SHORT_PRETRAIN_EPOCHS = 10, 3
BATCH_USERS = 32

ABLATIONS: dict[str, tuple[str, ...]] = {
    "all": (),
    "no-nicl": ("model.weights.nicl=0",),
    "vcl": ("model.nicl.family=vcl",),
    "icl": ("model.nicl.family=icl",),
    "no-nid": ("model.weights.nid=0",),
    "no-rcl": ("model.weights.rcl=0",),
    "dap": ("model.weights.nicl=0", "model.weights.nid=0", "model.weights.rcl=0"),
}
"""What a short pre-training is done without, by the end of its name."""


WITH_ENCODERS = ("pmmrec", "morec")
"""Systems whose encoders train; all others read ids or frozen vectors."""
SYSTEMS = tuple(registry.models())
"""Of the comparison: each from scratch, tuned with as many trials on one target."""
TRANSFERRED = tuple(n for n in SYSTEMS[1:] if registry.entry(n).transfers)
"""Beside PMMRec those that pre-train and transfer."""
NEIGHBOURS = ("item kNN", "content kNN")
TUNED_ON, TUNED_IN, TRIALS = "HM Shoes", 0, 6
"""The target and the seed of the searches, whose best options all seeds have."""
WIDTH = 128
"""Of every system: PMMRec's here, whose encoders decide it."""
PATIENCE = 4
"""Of the comparison, in evaluations."""

STRAYS = (10, 20, 40)
"""Per cents of noise at which pre-training with all objectives stands beside DAP alone."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation."""

    claim: int
    """The claim that it is for, 1 to 5; 6 is the comparison of all systems from scratch, 7 that of
    those beside PMMRec that transfer."""
    name: str
    stage: str
    target: str = ""
    source: str = ""
    """Of a pre-training on one source alone; "" = on all four."""
    start: str = ""
    """The run that a fine-tuning takes over."""
    transfer: str = ""
    modality: str = ""
    model: str = "pmmrec"
    epochs: int = 0
    """Of a pre-training; a target's follow from its size and `steps`."""
    steps: int = STEPS
    settings: tuple[str, ...] = ()
    tuned: str = ""
    """The search whose best options it has, of the seed TUNED_IN."""
    strays: int = 0
    """Per cent of the world's interactions that are noise."""


def plan() -> Iterator[Run]:
    """All runs of one seed, the most wanted first; what a run starts from comes before it."""
    yield Run(claim=1, name="pre", stage="pretrain", epochs=PRETRAIN_EPOCHS)
    first = [*SHOWN, *(name for name in DOWNSTREAM if name not in SHOWN)]
    for target in first:
        yield _on(1, target, "scratch")
        yield _on(1, target, "sasrec", model="sasrec")
        yield _on(1, target, "full", start="pre", transfer="full")
    for target in SHOWN:
        for transfer in ("item", "user", "text", "vision"):
            yield _on(2, target, transfer, start="pre", transfer=transfer)
        for modality in ("text", "vision"):
            yield _on(3, target, f"scratch-{modality}", modality=modality)
        yield _on(3, target, "scratch-logq-off", settings=("model.dap_logq=off",))
    yield from _ablations()
    for target in first:
        yield _on(5, target, "scratch-short", steps=SHORT_STEPS)
    for source in SOURCES:
        before = f"pre-{source.lower()}"
        yield Run(
            claim=5, name=before, stage="pretrain", source=source, epochs=SHORT_PRETRAIN_EPOCHS
        )
        for target in first:
            yield _short(5, target, f"from-{source.lower()}", start=before)
    yield from _systems(first)


def _systems(targets: list[str]) -> Iterator[Run]:
    for model in SYSTEMS:
        yield Run(claim=6, name=f"tune-{model}", stage="tune", target=TUNED_ON, model=model)
    for target in targets:
        for model in SYSTEMS:
            yield _on(6, target, f"tuned-{model}", model=model, tuned=f"tune-{model}")
    for model in TRANSFERRED:
        before = f"pre-{model}"
        yield Run(claim=7, name=before, stage="pretrain", model=model, epochs=PRETRAIN_EPOCHS)
        for target in targets:
            yield _on(7, target, f"{model}-full", model=model, start=before)


def _ablations() -> Iterator[Run]:
    for name, settings in ABLATIONS.items():
        before = f"pre-{name}"
        yield Run(
            claim=4,
            name=before,
            stage="pretrain",
            epochs=SHORT_PRETRAIN_EPOCHS,
            settings=settings,
        )
        for target in SHOWN:
            yield _short(4, target, f"from-{name}", start=before)
    for strays in STRAYS:
        for name in ("all", "dap"):
            before = f"strays-{strays}-pre-{name}"
            yield Run(
                claim=4,
                name=before,
                stage="pretrain",
                epochs=SHORT_PRETRAIN_EPOCHS,
                settings=ABLATIONS[name],
                strays=strays,
            )
            for target in SHOWN:
                what = f"strays-{strays}-from-{name}"
                yield _short(4, target, what, start=before, strays=strays)


def _on(claim: int, target: str, what: str, **given: Any) -> Run:
    name = f"{slug(target)}-{what}"
    stage = "finetune" if given.get("start") else "scratch"
    return Run(claim=claim, name=name, stage=stage, target=target, **given)


def _short(claim: int, target: str, what: str, **given: Any) -> Run:
    return _on(claim, target, what, transfer="full", steps=SHORT_STEPS, **given)


class Claims:
    """The rows, and what makes those that are missing."""

    def __init__(self, root: Path, rows: Path, jobs: int) -> None:
        self.root, self.path, self.jobs = root, rows, jobs
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def measure(self, seed: int, claims: set[int]) -> None:
        """Make the rows of a seed that are not there yet: of the world itself, then of the runs."""
        runs = [run for run in plan() if run.claim in claims and not self._has(seed, run.name)]
        if seed != TUNED_IN:
            runs = [run for run in runs if run.stage != "tune" and self._is_tuned(run)]
        if not runs:
            return
        for strays in sorted({run.strays for run in runs} | {0}):
            prepare(self._home(seed, strays), seed, strays)
        home = self._home(seed)
        for target in DOWNSTREAM:
            if not self._has(seed, f"oracle {target}"):
                self._add({"seed": seed, "run": f"oracle {target}", **_oracle(home, seed, target)})
        self._go(seed, runs)

    def _home(self, seed: int, strays: int = 0) -> Home:
        return Home(self.root / (f"seed-{seed}" + (f"-strays-{strays}" if strays else "")))

    def _go(self, seed: int, runs: list[Run]) -> None:
        """Up to `jobs` at once, in their order, but none before the run that it starts from."""
        waiting, busy = list(runs), dict[Future[dict[str, Any]], Run]()
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        spawn = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(self.jobs, spawn) as self._commands,
            ThreadPoolExecutor(self.jobs) as pool,
        ):
            while waiting or busy:
                for run in [each for each in waiting if self._ready(seed, each, runs)]:
                    if len(busy) < self.jobs:
                        waiting.remove(run)
                        busy[pool.submit(self._done, seed, run)] = run
                finished, _ = wait(busy, return_when=FIRST_COMPLETED)
                for future in finished:
                    del busy[future]
                    self._add(future.result())

    def _ready(self, seed: int, run: Run, runs: list[Run]) -> bool:
        to_come = {each.name for each in runs if not self._has(seed, each.name)}
        return not {run.start, run.tuned} & to_come

    def _is_tuned(self, run: Run) -> bool:
        return not run.tuned or self._has(TUNED_IN, run.tuned)

    def _has(self, seed: int, name: str) -> bool:
        return any(row["seed"] == seed and row["run"] == name for row in self.rows)

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.write()
        if "test" in row:
            print(f"seed {row['seed']} {row['run']}: {100 * row['test']['hr@10']:.2f}", flush=True)

    def write(self) -> None:
        """The page, from the rows so far."""
        write_page(
            self.rows,
            targets=DOWNSTREAM,
            shown=SHOWN,
            ablations=list(ABLATIONS),
            strays=STRAYS,
            sources=SOURCES,
            systems=SYSTEMS,
        )

    def _done(self, seed: int, run: Run) -> dict[str, Any]:
        if run.stage == "tune":
            return self._tuned(seed, run)
        home = self._home(seed, run.strays)
        folder = home.run(run.name)
        arguments = _arguments(home, self._home(TUNED_IN), seed, run)
        if folder.exists():
            arguments.append("--resume")
        started = time.monotonic()
        self._pmm(home, run.name, arguments)
        seconds = time.monotonic() - started
        row: dict[str, Any] = {"seed": seed, "run": run.name, "stage": run.stage}
        row |= {"target": run.target, "model": run.model, "commit": commit()}
        row["command"] = self._told(arguments)
        log = [each for each in read_log(folder / "log.jsonl") if each["kind"] == "evaluation"]
        row["valid"] = [[each["epoch"], round(each["hr@10"], 5)] for each in log]
        row |= {"steps": log[-1]["step"], "seconds": round(seconds, 1)}
        if run.target:
            also = ["--neighbours"] if run.claim == 6 else []
            self._pmm(home, run.name, ["evaluate", str(folder), "--cold", *also])
            found = json.loads((folder / "metrics.json").read_text())
            row |= {"test": _figures(found["model"]), "items_cold": found["model"]["cold"]}
            row["cold_start"] = found["cold_start"]
            row |= {name: _figures(found[name]) for name in NEIGHBOURS if name in found}
        return row

    def _tuned(self, seed: int, run: Run) -> dict[str, Any]:
        """A search; one that was broken off goes on."""
        home, started = self._home(seed), time.monotonic()
        arguments = _arguments(home, home, seed, run)
        self._pmm(home, run.name, arguments)
        row = {"seed": seed, "run": run.name, "stage": run.stage, "target": run.target}
        row |= {"model": run.model, "commit": commit()}
        row["command"] = self._told(arguments)
        trials = (home.tuning(run.target) / run.model / "trials.jsonl").read_text().splitlines()
        row["trials"] = [json.loads(line) for line in trials]
        return row | {"seconds": round(time.monotonic() - started, 1)}

    def _told(self, arguments: list[str]) -> str:
        return " ".join(arguments).replace(str(self.root), "HOMES")

    def _pmm(self, home: Home, name: str, arguments: list[str]) -> None:
        """Run a command; its output goes to logs/NAME.txt of the home folder."""
        log = home.root / "logs" / f"{name}.txt"
        status = self._commands.submit(_command, [*arguments, "--home", str(home.root)], log)
        if status.result():
            raise SystemExit(f"pmm {' '.join(arguments)} failed: see {log}")


def _command(arguments: list[str], log: Path) -> int:
    """The exit status of a command of the command line, in this process."""
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            main_of_pmm(arguments)
        except SystemExit as ended:
            return int(ended.code or 0)


def prepare(home: Home, seed: int, strays: int = 0) -> None:
    """Raw files, tables, encoders and shards of all fourteen datasets."""
    if not home.raw("kwai").exists():
        write_platforms(home, generate("demo", seed, strays))
    ingest_platforms(home)
    encoders = place_encoders(home)
    shard_targets(home, [target.name for target in TARGETS], encoders / "text")


def _oracle(home: Home, seed: int, target: str) -> dict[str, Any]:
    """The oracle, popularity and chance on the test items, popularity and chance on the cold."""
    found = references(Shards.of(home, target), EvaluateOptions())
    oracle = summarise(oracle_table(home, generate("demo", seed), target))
    row: dict[str, Any] = {"target": target, "stage": "oracle", "test": _figures(oracle)}
    row["items_cold"] = oracle["cold"]
    return row | {name: _figures(each) for name, each in found.items()}


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("users", "hr@10", "ndcg@10")}


def _arguments(home: Home, tuned: Home, seed: int, run: Run) -> list[str]:
    """The command of a run; `tuned` is where the searches were made."""
    tuning = run.stage == "tune"
    arguments = ["tune"] if tuning else ["train", "--stage", run.stage, "--name", run.name]
    arguments += ["--seed", str(seed)]
    if run.target:
        arguments += ["--target", run.target]
    if run.source:
        arguments += ["--sources", run.source]
    arguments += _model_arguments(place_encoders(home), tuned, run)
    epochs = run.epochs or _epochs(home, run)
    if run.model not in WITH_ENCODERS and run.stage in ("scratch", "tune"):
        epochs *= (COMPARED_STEPS if run.claim == 6 else BASELINE_STEPS) // STEPS
    arguments += ["--epochs", str(epochs)]
    if tuning:
        arguments += ["--budget", str(TRIALS)]
    if run.start:
        arguments += ["--from", str(home.run(run.start)), "--transfer", run.transfer or "full"]
    if run.modality:
        arguments += ["--modality", run.modality]
    settings = [*run.settings, f"train.eval_every={max(1, round(epochs / EVALUATIONS))}"]
    if run.claim in (6, 7) and run.target:
        settings.append(f"train.patience={PATIENCE}")
    elif run.model not in WITH_ENCODERS:
        settings.append("train.patience=0")
    if run.model not in WITH_ENCODERS and not run.start:
        settings.append(f"model.width={WIDTH}")
    for setting in settings:
        arguments += ["--set", setting]
    return arguments


def _model_arguments(encoders: Path, tuned: Home, run: Run) -> list[str]:
    """Which model, with which options and encoders."""
    arguments = [] if run.model == "pmmrec" else ["--model", run.model]
    if run.model not in WITH_ENCODERS:
        arguments += ["--batch-users", str(BATCH_USERS)]
    if run.tuned:
        arguments += ["--recipe", str(tuned.tuning(TUNED_ON) / run.model / "best.toml")]
    elif run.model in WITH_ENCODERS:
        arguments += ["--recipe", str(encoders / "recipe.toml")]
    of_ids = registry.entry(run.model).knows_by == "ids"
    if (run.tuned or run.model not in WITH_ENCODERS) and not (run.start or of_ids):
        arguments += ["--text-encoder", str(encoders / "text")]
        arguments += ["--vision-encoder", str(encoders / "vision")]
    return arguments


def _epochs(home: Home, run: Run) -> int:
    users = len(TrainingSet([Shards.of(home, run.target)], read="none"))
    return max(1, round(run.steps / -(-users // BATCH_USERS)))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="Folder of all homes, one a seed.")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--claims",
        default="1,2,3,4,5",
        help="Which claims' runs; 6 and 7 are the comparison of all systems.",
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="File of the rows.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at once.")
    given = parser.parse_args()
    claims = Claims(given.home.resolve(), given.rows.resolve(), given.jobs)
    for seed in given.seeds.split(","):
        claims.measure(int(seed), {int(claim) for claim in given.claims.split(",")})
    claims.write()


if __name__ == "__main__":
    main()
