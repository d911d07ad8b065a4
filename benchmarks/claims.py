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
from dataclasses import dataclass, fields
from fnmatch import fnmatch
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

SYSTEMS = tuple(registry.models())
"""Of the comparison: each from scratch, tuned with as many trials on one target, and pre-trained
where it can be. PMMRec is that on frozen vectors."""
TRANSFERRED = tuple(name for name in SYSTEMS[1:] if registry.entry(name).transfers)
"""Beside PMMRec those that pre-train and transfer."""
VECTORS = "model.items=vectors"
AS_BY_DEFAULT = {"model.logq=off": "logq", "model.dap_logq=off": "dap_logq"}
AS_BY_DEFAULT |= {"model.residual=none": "residual_rate", "model.dap_candidates=auto": "items"}
AS_BY_DEFAULT |= {"model.dap_prior=0.5": "dap_prior"}
"""Not searched, for any system that has the option: these buy hits on popular items with hits on
cold ones, and what popularity is worth is chosen when ranking."""
PRESETS: dict[str, tuple[str, ...]] = {"encoders": (), "paper": ("--preset", "paper")}
"""PMMRec with encoders that train: as by default, and as printed. With its small encoders its width
is theirs, half of the others', and a step takes several times as long."""
NEIGHBOURS = ("item kNN", "content kNN")

WIDTH = 128
"""Of every system whose encoders do not decide it."""
STEPS = 600
"""Of a run on one target, rounded to whole epochs, whatever the system."""
EVALUATIONS, PATIENCE = 12, 4
"""Evaluations of a run, and how many of them without a better one end it; the best is kept."""
BATCH_USERS = 32
PRETRAIN_EPOCHS = 3
SPARSE = ("Kwai Movie", "Amazon Clothes", "Amazon Shoes")
"""Targets with a fifth or more cold items among the test items; the others are dense."""
TUNED_ON = {"": "HM Shoes", "-sparse": "Kwai Movie"}
"""The targets of the two searches of each system, by the end of the search's name."""
TUNED_IN, TRIALS = 0, 6
"""The seed of the searches: all seeds have the best options of the dense search on dense targets
and in pre-training, those of the sparse one on sparse targets; a fine-tuning has those of its
start."""

ABLATIONS: dict[str, tuple[str, ...]] = {
    "all": (),
    "no-nicl": ("model.weights.nicl=0",),
    "vcl": ("model.nicl.family=vcl",),
    "icl": ("model.nicl.family=icl",),
    "no-nid": ("model.weights.nid=0",),
    "no-rcl": ("model.weights.rcl=0",),
}
"""What a pre-training with all objectives is done without, by the end of its name."""
NEGATIVES: dict[str, tuple[str, ...]] = {
    "own-source": ("model.negatives=source", "train.sequences=whole"),
    "any-negatives": ("model.negatives=batch", "train.sequences=whole"),
}
"""Pre-trainings by next-item prediction alone, but for whom they compare."""
LENGTHS = {"1-epoch": 1, "10-epochs": 10}
"""The same, shorter and longer."""

STRAYS = (10, 20, 40)
"""Per cents of noise at which pre-training with all objectives stands beside DAP alone."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation."""

    claim: int
    """What it is for: 1 every system from scratch and PMMRec pre-trained, 2 transfers and single
    modalities, 3 encoders that train and `paper`, 4 ablations of the pre-training, 5 single
    sources, 6 the pre-training of the other systems, 7 noise."""
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
    preset: str = ""
    """One of PRESETS; "" = on frozen vectors."""
    objectives: str = "dap"
    """Of a pre-training."""
    epochs: int = 0
    """Of a pre-training; a target's follow from its size and `STEPS`."""
    settings: tuple[str, ...] = ()
    tuned: str = ""
    """The search whose best options it has, of the seed TUNED_IN."""
    strays: int = 0
    """Per cent of the world's interactions that are noise."""


def plan() -> Iterator[Run]:
    """All runs of one seed, the most wanted first; what a run starts from comes before it."""
    targets = [*SHOWN, *(name for name in DOWNSTREAM if name not in SHOWN)]
    yield from _systems(targets)
    for target in SHOWN:
        for transfer in ("item", "user", "text", "vision"):
            yield _fine(2, target, transfer, "pre", transfer=transfer)
        for modality in ("text", "vision"):
            tuned = _search("pmmrec", target)
            yield _on(2, target, f"tuned-{modality}", modality=modality, tuned=tuned)
    yield from _with_encoders()
    yield from _ablations()
    for source in SOURCES:
        before = f"pre-{source.lower()}"
        yield _pretraining(5, before, source=source)
        for target in targets:
            yield _fine(5, target, f"from-{source.lower()}", before)
    for model in TRANSFERRED:
        before, tuned = f"pre-{model}", f"tune-{model}"
        yield _pretraining(6, before, model=model, tuned=tuned)
        for target in targets:
            yield _fine(6, target, f"{model}-full", before, model=model, tuned=tuned)
    yield from _with_noise()


def _systems(targets: list[str]) -> Iterator[Run]:
    for kind, target in TUNED_ON.items():
        for model in SYSTEMS:
            yield Run(claim=1, name=f"tune-{model}{kind}", stage="tune", target=target, model=model)
    yield _pretraining(1, "pre")
    for target in targets:
        yield _fine(1, target, "full", "pre")
        for model in SYSTEMS:
            yield _on(1, target, f"tuned-{model}", model=model, tuned=_search(model, target))


def _search(model: str, target: str) -> str:
    return f"tune-{model}{'-sparse' if target in SPARSE else ''}"


def _with_noise() -> Iterator[Run]:
    for strays in STRAYS:
        for name in ("all", "dap"):
            before = f"strays-{strays}-pre-{name}"
            yield _pretraining(7, before, objectives=name, strays=strays)
            for target in SHOWN:
                yield _fine(7, target, f"strays-{strays}-from-{name}", before, strays=strays)


def _with_encoders() -> Iterator[Run]:
    for preset in PRESETS:
        objectives = "all" if preset == "paper" else "dap"
        yield _pretraining(3, f"pre-{preset}", preset=preset, tuned="", objectives=objectives)
        for target in SHOWN:
            yield _on(3, target, preset, preset=preset)
            yield _fine(3, target, f"{preset}-full", f"pre-{preset}", preset=preset, tuned="")


def _ablations() -> Iterator[Run]:
    runs = [
        _pretraining(4, f"pre-{n}", objectives="all", settings=each)
        for n, each in ABLATIONS.items()
    ]
    runs += [_pretraining(4, f"pre-{n}", settings=each) for n, each in NEGATIVES.items()]
    runs += [_pretraining(4, f"pre-{n}", epochs=epochs) for n, epochs in LENGTHS.items()]
    for run in runs:
        yield run
        for target in SHOWN:
            yield _fine(4, target, run.name.replace("pre-", "from-"), run.name)


def _pretraining(claim: int, name: str, **given: Any) -> Run:
    given = {"epochs": PRETRAIN_EPOCHS, "tuned": "tune-pmmrec", **given}
    return Run(claim=claim, name=name, stage="pretrain", **given)


def _fine(claim: int, target: str, what: str, start: str, **given: Any) -> Run:
    given = {"transfer": "full", "tuned": "tune-pmmrec", **given}
    return _on(claim, target, what, start=start, **given)


def _on(claim: int, target: str, what: str, **given: Any) -> Run:
    name = f"{slug(target)}-{what}"
    stage = "finetune" if given.get("start") else "scratch"
    return Run(claim=claim, name=name, stage=stage, target=target, **given)


class Claims:
    """The rows, and what makes those that are missing."""

    def __init__(self, root: Path, rows: Path, jobs: int, wanted: str = "*") -> None:
        self.root, self.path, self.jobs = root, rows, jobs
        self.wanted = wanted.split(",")
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def measure(self, seed: int, claims: set[int]) -> None:
        """Make the rows of a seed that are not there yet: of the world itself, then of the runs."""
        runs = [run for run in plan() if run.claim in claims and not self._has(seed, run.name)]
        runs = [run for run in runs if any(fnmatch(run.name, each) for each in self.wanted)]
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
            ablations=[*ABLATIONS, *NEGATIVES, *LENGTHS],
            strays=STRAYS,
            sources=SOURCES,
            systems=SYSTEMS,
            how={"trials": TRIALS, "steps": STEPS, "epochs": PRETRAIN_EPOCHS},
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
        cpu_seconds = self._pmm(home, run.name, arguments)
        seconds = time.monotonic() - started
        row: dict[str, Any] = {"seed": seed, "run": run.name, "stage": run.stage}
        row |= {"target": run.target, "model": run.model, "commit": commit()}
        row["command"] = self._told(arguments)
        log = [each for each in read_log(folder / "log.jsonl") if each["kind"] == "evaluation"]
        row["valid"] = [[each["epoch"], round(_reached(each), 5)] for each in log]
        row |= {"steps": log[-1]["step"], "seconds": round(seconds, 1)}
        row["cpu_seconds"] = cpu_seconds
        if run.target:
            also = ["--neighbours"] if run.model == "carca" else []
            self._pmm(home, run.name, ["evaluate", str(folder), "--cold", *also])
            found = json.loads((folder / "metrics.json").read_text())
            row |= {"test": _figures(found["model"]), "items_cold": found["model"]["cold"]}
            row["cold_start"] = found["cold_start"]
            row["mix"] = _mixes(found)
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

    def _pmm(self, home: Home, name: str, arguments: list[str]) -> float:
        """Run a command; its output goes to logs/NAME.txt of the home folder.

        Returns:
            processor seconds, which other work on the machine hardly changes.
        """
        log = home.root / "logs" / f"{name}.txt"
        future = self._commands.submit(run_command, [*arguments, "--home", str(home.root)], log)
        status, cpu_seconds = future.result()
        if status:
            raise SystemExit(f"pmm {' '.join(arguments)} failed: see {log}")
        return round(cpu_seconds, 1)


def run_command(arguments: list[str], log: Path) -> tuple[int, float]:
    """The exit status of a command of the command line, in this process, and its processor time."""
    log.parent.mkdir(exist_ok=True)
    before, status = time.process_time(), 0
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            main_of_pmm(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, time.process_time() - before


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


def _reached(evaluation: dict[str, Any]) -> float:
    """HR@10 of a validation, of the better of its rankings."""
    plain, mixed = evaluation["hr@10"], evaluation.get("mixed_hr@10", 0.0)
    return max(float(plain), float(mixed))


def _mixes(found: dict[str, Any]) -> dict[str, Any]:
    """The rankings with a share of popularity: what was chosen, and its figures."""
    parts = ("warm", "cold", "cold_cuts")
    return {
        name: {
            "alpha": mix["alpha"],
            **_figures(mix),
            **{part: _figures(mix[part]) for part in parts if "hr@10" in mix.get(part, {})},
        }
        for name, mix in found.get("popularity_mix", {}).items()
    }


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
    arguments += ["--epochs", str(epochs)]
    if tuning:
        arguments += ["--budget", str(TRIALS)]
    if run.start:
        arguments += ["--from", str(home.run(run.start)), "--transfer", run.transfer]
    if run.modality:
        arguments += ["--modality", run.modality]
    settings = [*run.settings, f"train.eval_every={max(1, round(epochs / EVALUATIONS))}"]
    if run.target:
        settings.append(f"train.patience={PATIENCE}")
    if not run.start and not _has_encoders(run):
        settings.append(f"model.width={WIDTH}")
    for setting in settings:
        arguments += ["--set", setting]
    return arguments


def _has_encoders(run: Run) -> bool:
    """Whether encoders train, which decide the width."""
    return bool(run.preset) or run.model == "morec"


def _model_arguments(encoders: Path, tuned: Home, run: Run) -> list[str]:
    """Which model, with which options and encoders."""
    arguments = [] if run.model == "pmmrec" else ["--model", run.model]
    if run.stage == "pretrain" and run.model == "pmmrec":
        arguments += ["--objectives", run.objectives]
    if not run.start:
        arguments += PRESETS.get(run.preset, ())
    if run.model not in ("pmmrec", "morec"):
        arguments += ["--batch-users", str(BATCH_USERS)]
    if run.tuned:
        searched = TUNED_ON["-sparse" if run.tuned.endswith("-sparse") else ""]
        arguments += ["--recipe", str(tuned.tuning(searched) / run.model / "best.toml")]
    elif run.model in ("pmmrec", "morec"):
        arguments += ["--recipe", str(encoders / "recipe.toml")]
    if run.stage == "tune":
        known = {each.name for each in fields(registry.entry(run.model).options)}
        given = [setting for setting, option in AS_BY_DEFAULT.items() if option in known]
        given += [VECTORS] if run.model == "pmmrec" else []
        arguments += [part for each in given for part in ("--set", each)]
    of_ids = registry.entry(run.model).knows_by == "ids"
    if not of_ids:
        arguments += ["--text-encoder", str(encoders / "text")]
        arguments += ["--vision-encoder", str(encoders / "vision")]
    return arguments


def _epochs(home: Home, run: Run) -> int:
    users = len(TrainingSet([Shards.of(home, run.target)], read="none"))
    return max(1, round(STEPS / -(-users // BATCH_USERS)))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="Folder of all homes, one a seed.")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--claims",
        default="1,2,3,4,5,6,7",
        help="Which claims' runs.",
    )
    parser.add_argument("--runs", default="*", help="Names of runs, as '*-paper,pre-paper'.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="File of the rows.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at once.")
    given = parser.parse_args()
    claims = Claims(given.home.resolve(), given.rows.resolve(), given.jobs, given.runs)
    for seed in given.seeds.split(","):
        claims.measure(int(seed), {int(claim) for claim in given.claims.split(",")})
    claims.write()


if __name__ == "__main__":
    main()
