"""Texts beside ids on real data, and whether pre-training pays there.

    python -m benchmarks.real_text --home DIR --text-encoder FOLDER [--parts search,ablate,transfer]

DIR has the shards of the targets (`pmm ingest csv`, `amazon`, `hm`, then `pmm shard`); docs/log.md
says how they were made. PMMRec on frozen vectors of texts and SASRec on ids have the same search
(trials, users a step, epochs, patience); the best trial is seed 0, and its options are those of the
other seeds. Then single options of the best are changed, one at a time; and a model that was
pre-trained on several targets is fine-tuned on each, in full and by its parts, beside the same
recipe without it. Every run is a command of the command line; what came out is a row of the file of
rows, and what has its row is not done again. Prints the tables of docs/log.md.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims import NEIGHBOURS, run_command
from benchmarks.claims_page import interval
from benchmarks.results import commit
from pmm.storage.home import Home, slug

ROWS = Path(__file__).with_name("real_text.jsonl")
LARGE = ("MicroLens", "Instruments", "Scientific")
TARGETS = (*LARGE, "HM", "Amazon")
"""The last is Gift Cards."""
SOURCES = ("MicroLens", "Scientific", "HM")
"""Of the pre-training."""
TRANSFERS = ("full", "item", "user")
FINETUNED = ("Instruments", "HM", "Scientific", "Amazon")
SEEDS, TRIALS = (0, 1, 2), 6
WIDTH, EPOCHS, PATIENCE = 128, {"MicroLens": 10, "Instruments": 10, "Scientific": 15}, 3
SMALL_EPOCHS = 30
BATCH_USERS, SMALL_BATCH_USERS = 256, 32

GIVEN = {
    "pmmrec": ("model.items=vectors", "train.schedule=linear", "train.warmup_steps=50"),
    "sasrec": ("train.schedule=linear", "train.warmup_steps=50"),
}
"""What each trial of a system has; the rest is searched."""
CHANGES: dict[str, tuple[str, ...]] = {
    "among the batch": ("model.dap_candidates=batch",),
    "among the catalogue": ("model.dap_candidates=catalogue",),
    "cosine, tau 0.05": ("model.dap_similarity=cosine", "model.dap_tau=0.05"),
    "cosine, tau 0.1": ("model.dap_similarity=cosine", "model.dap_tau=0.1"),
    "cosine, tau 0.2": ("model.dap_similarity=cosine", "model.dap_tau=0.2"),
    "product": ("model.dap_similarity=dot", "model.dap_tau=1.0"),
    "no residual": ("model.residual=none",),
    "residual": ("model.residual=item", "model.residual_from=5"),
    "absolute positions": ("model.user_positions=absolute", "model.user_convolution=0"),
    "rope and convolution": ("model.user_positions=rope", "model.user_convolution=3"),
    "width 256": ("model.width=256",),
    "half the rate": ("train.lr=0.0005",),
    "twice the rate": ("train.lr=0.002",),
    "dropout 0.3": ("model.dropout=0.3",),
}
"""Options of the best that are changed one at a time; one that says what was so already is a second
run of the same."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, and what its row says."""

    name: str
    what: str
    """Shown: "PMMRec", "SASRec", a change, or a transfer."""
    target: str
    seed: int
    arguments: tuple[str, ...]
    needs: str = ""
    """The step that has to be done before."""
    kind: str = "train"


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """The rows, and what makes those that are missing."""

    home: Home
    path: Path
    text_encoder: Path
    parts: frozenset[str]
    targets: tuple[str, ...] = TARGETS

    def rows(self) -> list[dict[str, Any]]:
        """Those that are there."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def steps(self) -> Iterator[Step]:
        """All of them, what others start from first."""
        for target in self.targets:
            for model in GIVEN:
                yield self._search(target, model)
        for target in self.targets:
            for model in GIVEN:
                for seed in SEEDS[1:]:
                    yield self._again(target, model, seed)
        if "ablate" in self.parts:
            for target in [each for each in LARGE if each in self.targets]:
                for what, settings in CHANGES.items():
                    yield self._again(target, "pmmrec", SEEDS[0], what, settings)
        if "transfer" in self.parts:
            for seed in SEEDS:
                yield from self._transfers(seed)

    def _options(self, target: str) -> list[str]:
        large = target in LARGE
        epochs = EPOCHS.get(target, SMALL_EPOCHS)
        users = BATCH_USERS if large else SMALL_BATCH_USERS
        options = ["--epochs", str(epochs), "--batch-users", str(users)]
        every = 1 if large else 3
        return [*options, *_set(f"train.patience={PATIENCE}", f"train.eval_every={every}")]

    def _content(self, model: str) -> list[str]:
        if model == "sasrec":
            return []
        return ["--text-encoder", str(self.text_encoder), "--modality", "text"]

    def _search(self, target: str, model: str) -> Step:
        arguments = ["tune", "--target", target, "--model", model, "--budget", str(TRIALS)]
        arguments += [*self._options(target), *self._content(model)]
        arguments += _set(*GIVEN[model], f"model.width={WIDTH}")
        return Step(
            name=f"tune-{model}-{slug(target)}",
            what=NAMES[model],
            target=target,
            seed=SEEDS[0],
            arguments=tuple(arguments),
            kind="tune",
        )

    def _again(
        self,
        target: str,
        model: str,
        seed: int,
        what: str = "",
        settings: Sequence[str] = (),
    ) -> Step:
        """The best options of a search, with another seed or something changed."""
        recipe = self.home.tuning(target) / SEARCHES[model] / "best.toml"
        told = f"-{what.replace(' ', '-').replace(',', '')}" if what else ""
        name = f"{model}-{slug(target)}-{seed}{told}"
        arguments = ["train", "--stage", "scratch", "--target", target, "--name", name]
        arguments += ["--seed", str(seed), "--recipe", str(recipe), *self._options(target)]
        arguments += [*self._content(model), *_set(*settings)]
        return Step(
            name=name,
            what=what or NAMES[model],
            target=target,
            seed=seed,
            arguments=tuple(arguments),
            needs=f"tune-{model}-{slug(target)}",
        )

    def _transfers(self, seed: int) -> Iterator[Step]:
        """Pre-training on several targets, and what each transfer gives on each target."""
        recipe = self.home.tuning(SOURCES[0]) / SEARCHES["pmmrec"] / "best.toml"
        searched, before = f"tune-pmmrec-{slug(SOURCES[0])}", f"pre-{seed}"
        common = ["--seed", str(seed), "--recipe", str(recipe)]
        arguments = ["train", "--stage", "pretrain", "--name", before, "--objectives", "dap"]
        arguments += [word for each in SOURCES for word in ("--sources", each)]
        arguments += [*common, *self._content("pmmrec"), "--epochs", "5"]
        arguments += ["--batch-users", str(BATCH_USERS)]
        plain = _set("model.residual=none", "model.dap_candidates=batch")
        yield Step(
            name=before,
            what="pre-training",
            target="",
            seed=seed,
            arguments=(*arguments, *plain),
            needs=searched,
        )
        for target in [each for each in FINETUNED if each in self.targets]:
            of_target = ["--target", target, *common, *self._options(target), *plain]
            name = f"scratch-{slug(target)}-{seed}"
            scratch = ["train", "--stage", "scratch", "--name", name, *of_target]
            yield Step(
                name=name,
                what="scratch",
                target=target,
                seed=seed,
                arguments=(*scratch, *self._content("pmmrec")),
                needs=searched,
            )
            for transfer in TRANSFERS:
                name = f"{transfer}-{slug(target)}-{seed}"
                fine = ["train", "--stage", "finetune", "--name", name, *of_target]
                fine += ["--from", str(self.home.run(before)), "--transfer", transfer]
                yield Step(
                    name=name,
                    what=transfer,
                    target=target,
                    seed=seed,
                    arguments=tuple(fine),
                    needs=before,
                )

    def measure(self, jobs: int) -> None:
        """Make what is missing, up to `jobs` at once."""
        done = {row["name"] for row in self.rows()}
        waiting = [step for step in self.steps() if step.name not in done]
        busy: dict[Future[dict[str, Any]], Step] = {}
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn) as pool:
            while waiting or busy:
                for step in [each for each in waiting if not each.needs or each.needs in done]:
                    if len(busy) < jobs:
                        waiting.remove(step)
                        busy[pool.submit(measured, self.home, step)] = step
                if not busy:
                    break  # what is left needs something that failed
                finished, _ = wait(busy, return_when=FIRST_COMPLETED)
                for future in finished:
                    step = busy.pop(future)
                    if error := future.exception():
                        print(f"{step.name} failed: {error}", flush=True)
                        continue
                    done.add(step.name)
                    self._add(step, future.result())

    def _add(self, step: Step, found: dict[str, Any]) -> None:
        row = {"name": step.name, "what": step.what, "target": step.target, "seed": step.seed}
        line = json.dumps({**row, **found, "commit": commit()})
        for place, name in ((self.home.root, "HOME"), (self.text_encoder, "TEXT_ENCODER")):
            line = line.replace(str(place), name)  # a place of this machine tells nobody anything
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        mix = found.get("mix", {})
        told = {name: f"{100 * each['hr@10']:.2f}" for name, each in mix.items()}
        print(f"{step.name}: {found['seconds']} s, {told}", flush=True)


SEARCHES = {"pmmrec": "pmmrec-only-text", "sasrec": "sasrec"}
"""The folders of their searches."""
NAMES = {"pmmrec": "PMMRec on texts", "sasrec": "SASRec on ids"}


def _set(*settings: str) -> list[str]:
    return [word for each in settings for word in ("--set", each)]


def measured(home: Home, step: Step) -> dict[str, Any]:
    """Run a step and evaluate what it trained, in this process.

    Raises:
        RuntimeError: the command failed.
    """
    log, started = home.root / "logs" / f"{step.name}.txt", time.monotonic()
    arguments = list(step.arguments)
    if step.kind == "train" and home.run(step.name).exists():
        arguments.append("--resume")
    _run(home, arguments, log)
    run, found = home.run(step.name), dict[str, Any]()
    if step.kind == "tune":
        model = arguments[arguments.index("--model") + 1]
        lines = (home.tuning(step.target) / SEARCHES[model] / "trials.jsonl").read_text()
        trials = [json.loads(line) for line in lines.splitlines()]
        run = home.run(max(trials, key=lambda trial: trial["hr@10"] or 0.0)["run"])
        found["trials"] = trials
    told = json.loads((run / "run.json").read_text())
    found |= {"run": run.name, "device": told["device"]}
    found["seconds"] = round(time.monotonic() - started, 1)
    if step.target:
        also = ["--neighbours"] if step.kind == "tune" else []
        _run(home, ["evaluate", str(run), "--cold", *also], log)
        metrics = json.loads((run / "metrics.json").read_text())
        found |= figures(metrics)
    return {**found, "command": " ".join(step.arguments)}


def _run(home: Home, arguments: Sequence[str], log: Path) -> None:
    status, _ = run_command([*arguments, "--home", str(home.root)], log)
    if status:
        raise RuntimeError(f"pmm {' '.join(arguments)}: see {log}")


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a row keeps of metrics.json: HR@10 and NDCG@10 of each ranking and part."""
    parts = ("warm", "cold", "cold_cuts")
    mixes = metrics.get("popularity_mix") or {"none": {"alpha": 0.0, **metrics["model"]}}
    held_out = metrics["cold_start"].get("held_out", {})
    found: dict[str, Any] = {
        "mix": {
            name: {
                "alpha": mix["alpha"],
                **_two(mix),
                **{part: _two(mix[part]) for part in parts if "hr@10" in (mix.get(part) or {})},
            }
            for name, mix in mixes.items()
        }
    }
    for name in ("popularity", *NEIGHBOURS):
        if name in metrics:
            found[name] = {**_two(metrics[name])}
            if "hr@10" in held_out.get(name, {}):
                found[name]["cold_cuts"] = _two(held_out[name])
    return found


def _two(summary: dict[str, Any]) -> dict[str, float]:
    return {name: round(summary[name], 5) for name in ("hr@10", "ndcg@10")}


def table(rows: Sequence[dict[str, Any]], target: str) -> str:
    """What was measured on a target: HR@10 at alpha 0, with the chosen share, on cold cuts.

    >>> mix = {"alpha": 0.5, "hr@10": 0.2, "ndcg@10": 0.1}
    >>> row = {"target": "HM", "what": "scratch", "seed": 0, "mix": {"none": mix, "chosen": mix}}
    >>> print(table([row], "HM").splitlines()[2])
    | scratch | 20.00 (1) | 20.00 (1) | - |
    """
    lines = ["| HM | alpha 0 | chosen share | cold cuts, alpha 0 |".replace("HM", target)]
    lines.append("|---|---|---|---|")
    mine = [row for row in rows if row["target"] == target]
    for what in dict.fromkeys(row["what"] for row in mine):
        each = [row["mix"] for row in mine if row["what"] == what]
        chosen = [mix.get("chosen", mix["none"])["hr@10"] for mix in each]
        cold = [mix["none"]["cold_cuts"]["hr@10"] for mix in each if "cold_cuts" in mix["none"]]
        cells = [interval([mix["none"]["hr@10"] for mix in each]), interval(chosen), interval(cold)]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    untrained = dict.fromkeys(name for row in mine for name in NEIGHBOURS if name in row)
    for name in ("popularity", *untrained):
        for row in [row for row in mine if name in row][:1]:
            cold = [row[name]["cold_cuts"]["hr@10"]] if "cold_cuts" in row[name] else []
            cells = [interval([row[name]["hr@10"]]), "", interval(cold)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="Has the shards of the targets.")
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--parts", default="search,ablate,transfer")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--rows", type=Path, default=ROWS, help="File of the rows.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at once.")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    experiments = Experiments(
        home=Home(given.home.resolve()),
        path=given.rows.resolve(),
        text_encoder=given.text_encoder.resolve(),
        parts=frozenset(given.parts.split(",")),
        targets=tuple(given.targets.split(",")),
    )
    experiments.measure(given.jobs)
    for target in experiments.targets:
        print(f"\n{table(experiments.rows(), target)}")


if __name__ == "__main__":
    main()
