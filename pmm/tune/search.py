"""`pmm tune`: as many trials for every model -> the best options by the validation items.

The first trial is what a run would have been without a search, so a search cannot end below the
defaults. What a later trial tries is a function of the seed and of the rows before it, and a trial
is an ordinary run; so a search that was stopped anywhere goes on to the rows that it would have had
(but for their seconds, and for what a limit in minutes cuts off). The test items are never read.

Below the home folder: `tuning/<target>/<model>/` with search.json (what is searched, from what),
trials.jsonl (one row a finished trial) and best.toml (a recipe), and a run for each trial.
"""

import hashlib
import importlib
import json
import logging
import math
import re
import shlex
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w

from pmm.errors import BrokenArtefact, InputError, PmmError, RecipeError, StaleArtefact, nearest
from pmm.runs import folder as run_folder
from pmm.runs.folder import LOG, Log
from pmm.runs.loading import open_parts
from pmm.runs.recipe import Recipe, with_whole_paths
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.storage.artefact import atomic_file, exclusive, storage_errors, write_json
from pmm.storage.home import Home, resolve_home, slug
from pmm.storage.toml import dump, merge, resolve
from pmm.text_table import text_table
from pmm.train.curves import read_log
from pmm.train.training import train

logger = logging.getLogger(__name__)

SEARCH, TRIALS, BEST = "search.json", "trials.jsonl", "best.toml"
STARTUP = 10
"""Trials before the sampler learns from them; the first are the defaults and random draws."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Numbers from low to high, drawn by their logarithm and kept with three digits."""

    low: float
    high: float
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other values with which it counts; with others it is not searched, and stays as it was."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


Space: TypeAlias = dict[str, Interval | Choice]
"""Recipe value (train.lr) -> what is searched."""

_WIDTHS = Choice(values=(64, 128, 256, 512, 768))
_DROPOUT = Choice(values=(0.0, 0.1, 0.2, 0.3, 0.5))
_DECAY = Choice(values=(0.0, 0.01, 0.1))
_LOGQ = ("on", "off", "corrected")
_TAU = Interval(low=0.03, high=0.3)
_DOTS = ("in_batch", "full")
"""Losses that ask for the similarity of users and items."""

_RATES: Space = {"train.lr": Interval(low=5e-5, high=5e-3), "train.weight_decay": _DECAY}
_TABLE: Space = {**_RATES, "model.width": _WIDTHS, "model.dropout": _DROPOUT}
_COSINE: Space = {
    "model.tau": replace(_TAU, only={"model.similarity": ("cosine",), "model.loss": _DOTS})
}
_CORRECTION: Space = {"model.logq": Choice(values=_LOGQ, only={"model.loss": ("in_batch",)})}
_SIMILARITY: Space = {
    "model.similarity": Choice(values=("dot", "cosine"), only={"model.loss": _DOTS})
}
_IN_BATCH: Space = {**_SIMILARITY, **_COSINE, **_CORRECTION}
_CONVOLUTIONS: Space = {**_RATES, "model.width": _WIDTHS, **_IN_BATCH}  # which have no dropout
_ENCODERS: Space = {
    "train.lr": Interval(low=5e-5, high=1e-3),
    "train.encoder_lr": Interval(low=1e-5, high=5e-4),
    "train.weight_decay": _DECAY,
    "model.dropout": _DROPOUT,
    "model.dap_similarity": Choice(values=("dot", "cosine")),
    "model.dap_tau": replace(_TAU, only={"model.dap_similarity": ("cosine",)}),
    "model.dap_logq": Choice(values=_LOGQ),
}

SPACE: dict[str, Space] = {
    "pmmrec": _ENCODERS,
    "morec": _ENCODERS,
    "sasrec": {**_TABLE, **_IN_BATCH},
    "gru4rec": {**_TABLE, **_IN_BATCH},
    "nextitnet": _CONVOLUTIONS,
    "fdsa": {**_TABLE, **_IN_BATCH},
    "carca": {**_TABLE, **_CORRECTION},
    "unisrec": {**_TABLE, **_COSINE},
    "vqrec": {**_TABLE, **_COSINE},
    "peterrec": _CONVOLUTIONS,
}
"""What is searched of each model. A value that the user gives is kept, and not searched.

Learning rates: the published code on ids searches 5e-5 to 1e-3; VQ-Rec's goes to 3e-3, and the
defaults should not stand at the edge. With encoders: 1e-4 for both in PMMRec's code, 5e-5 for the
encoders in MoRec's. Widths: that code searches 512 to 4096 on far more items; 64 to 768 here, 768
being PMMRec's. Dropout: 0.1 in that code, 0.2 and 0.5 in SASRec's, 0 and 0.3 in those of GRU4Rec,
0.3 to 0.5 in CARCA's. Weight decay: 0.1 in that code, 0.01 in MoRec's, none in the original ones.
Cosine: tau is 0.07 in UniSRec's and VQ-Rec's, 0.05 in later work (docs/paper.md R16); without it
tau is 1 and only scales the vectors."""

_STRUCTURE = frozenset({"model.width"})
"""Not searched in fine-tuning: the run that it starts from has decided it."""


def space_of(model: str) -> Space:
    """What is searched of a model.

    Raises:
        InputError: there is no such model.

    >>> list(space_of("nextitnet"))[:3]
    ['train.lr', 'train.weight_decay', 'model.width']
    """
    if model not in SPACE:
        raise InputError(f'no search space for the model "{model}": {nearest(model, SPACE)}')
    return dict(SPACE[model])


def tune(
    home: Home,
    request: TrainRequest,
    values: Mapping[str, Any],
    *,
    budget: int,
    seed: int = 0,
    minutes: float = 0.0,
    overwrite: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Search a model's options on a target, or go on with a search that was stopped.

    Args:
        home: where the shards are, and the search and its runs go.
        request: model, target, and how each trial is trained; not in pre-training.
        values: of the recipe, kept in all trials and not searched.
        budget: trials, failed ones included. What earlier calls did counts; of more than these the
            first count, so that models with the same budget can be compared.
        seed: of what is tried, and of the training where the values do not say.
        minutes: of a trial at most; 0 leaves the recipe's limits. Results then depend on the
            machine's speed.
        overwrite: delete an earlier search of this model and target with its runs.
        command: as the user typed it, for the rows and the runs.

    Returns:
        folder, ended (budget or interrupted), rows, best (a row; None before the first finished
        trial), run (of the best), recipe (best.toml), next (what to run).

    Raises:
        InputError: wrong options, or Optuna is missing.
        RecipeError, StaleArtefact: the folder holds a search from other options or on other shards.
        PmmError: all trials failed.
    """
    search = _prepare(home, request, values, budget=budget, seed=seed, minutes=minutes)
    search = replace(search, command=command)
    with _claimed(search.folder):
        if overwrite:
            _forget(search)
        _settle(search)
        with closing(_open_rows(search.folder / TRIALS)) as log:
            rows = _read_rows(search)
            while len(rows) < budget:
                row = _run_trial(search, rows, budget)
                if row is None:
                    break
                with storage_errors(search.folder / TRIALS):
                    log.write(row)
                rows.append(row)
                _write_best(search, rows)
        ended = "budget" if len(rows) >= budget else "interrupted"
        return _result(search, rows[:budget], ended)


def trials_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a search, the best first and failed ones last; metrics times 100.

    >>> row = {"number": 1, "state": "finished", "hr@10": 0.25, "ndcg@10": 0.125, "epochs": 3}
    >>> print(trials_table([{**row, "seconds": 9.5, "parameters": {"train.lr": 1e-3}}]))
    trial  HR@10  NDCG@10  epochs  seconds     lr
    1      25.00    12.50       3     9.50  0.001
    """
    paths = list(dict.fromkeys(path for row in rows for path in row["parameters"]))
    header = ["trial", "HR@10", "NDCG@10", "epochs", "seconds", *map(_short, paths)]
    lines = []
    for row in sorted(rows, key=lambda each: -_value_of(each)):
        metrics = [None if row[name] is None else 100 * row[name] for name in ("hr@10", "ndcg@10")]
        mark = "" if row["state"] == "finished" else " failed"
        said = [_written(row["parameters"].get(path)) for path in paths]
        lines.append([f"{row['number']}{mark}", *metrics, row["epochs"], row["seconds"], *said])
    return text_table(header, lines)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One search: what stays the same in all its trials."""

    home: Home
    request: TrainRequest
    values: Mapping[str, Any]
    minutes: float
    base: Recipe
    """Of the first trial: the defaults under what the user gave."""
    space: Space
    seed: int
    shards: str
    """Fingerprint of what the trials are trained on."""
    command: str = ""

    @property
    def label(self) -> str:
        """The search's folder: sasrec, pmmrec-finetune-text."""
        parts: list[str] = [self.base.model.name]
        if self.base.start is not None:
            parts += [self.base.stage, self.base.start.transfer]
        return "-".join(parts)

    @property
    def folder(self) -> Path:
        return self.home.tuning(self.base.target) / self.label

    @property
    def stem(self) -> str:
        """How the names of the trials' runs begin."""
        return f"{slug(self.base.target)}-{self.label}-tune"

    def run(self, number: int) -> Path:
        return self.home.run(f"{self.stem}-{number}")

    def recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """Of a trial."""
        limit = {"train": {"max_minutes": self.minutes or None}}
        asked = merge(self.values, limit, _nested(parameters))
        return resolve_run(self.home, self.run(1), self.request, asked)


def _prepare(
    home: Home,
    request: TrainRequest,
    values: Mapping[str, Any],
    *,
    budget: int,
    seed: int,
    minutes: float,
) -> _Search:
    """What is to be searched; errors as `tune`, before anything is written."""
    _optuna()
    if budget < 1:
        raise InputError(f"--budget {budget}: a search needs 1 trial at least")
    if seed < 0:
        raise InputError(f"--seed {seed} should be 0 or above")
    if not (math.isfinite(minutes) and minutes >= 0):
        raise InputError(f"--minutes {minutes} should be 0 (no limit) or above")
    if request.stage == "pretrain":
        raise InputError("pmm tune searches on one --target: --stage scratch or finetune")
    values = merge({"train": {"seed": seed}}, values)
    limit = {"train": {"max_minutes": minutes or None}}
    base = with_whole_paths(resolve_run(home, home.run("tune"), request, merge(values, limit)))
    (shards,) = open_parts(home, base)
    return _Search(
        home=home,
        request=request,
        values=values,
        minutes=minutes,
        base=base,
        space=_fitted(space_of(base.model.name), base, set(_flat(values))),
        seed=seed,
        shards=shards.fingerprint,
    )


def _fitted(space: Space, base: Recipe, given: set[str]) -> Space:
    """A space without what was given or cannot count, and with the defaults inside.

    Raises:
        InputError: nothing is left.
    """
    fixed = given | (_STRUCTURE if base.stage == "finetune" else set())
    left = {path: each for path, each in space.items() if path not in fixed}
    fitted: Space = {}
    heads = base.model.user_heads
    for path, each in left.items():
        if not any(_counts(each, chosen, base) for chosen in _ways(left, base)):
            continue
        usual = [_value(base, path)] if _counts(each, {}, base) else []
        if isinstance(each, Interval):
            bounds = [each.low, each.high, *usual]
            fitted[path] = replace(each, low=min(bounds), high=max(bounds))
        else:
            kept = [v for v in each.values if path not in _STRUCTURE or v % heads == 0]
            options = kept + [v for v in usual if v not in kept]
            fitted[path] = replace(each, values=tuple(options))
    if not fitted:
        raise InputError(
            f"every value that a search of {base.model.name} tries is given "
            f"({', '.join(space)}), so there is nothing to search: give fewer"
        )
    return fitted


def _ways(space: Space, base: Recipe) -> Iterator[dict[str, Any]]:
    """Choices on which others depend, one at a time, to see what can count at all."""
    yield {}
    for path, each in space.items():
        if isinstance(each, Choice) and _counts(each, {}, base):
            yield from ({path: value} for value in each.values)


def _counts(each: Interval | Choice, chosen: Mapping[str, Any], base: Recipe) -> bool:
    """Whether a value says anything beside those chosen, or else those of the base."""
    return all(
        (chosen[path] if path in chosen else _value(base, path)) in allowed
        for path, allowed in each.only.items()
    )


def _run_trial(
    search: _Search, rows: Sequence[Mapping[str, Any]], budget: int
) -> dict[str, Any] | None:
    """Train the trial after these rows, or go on with it; None: it was interrupted."""
    number = len(rows) + 1
    parameters = _ask(search, rows)
    run_dir = search.run(number)
    told = ", ".join(f"{_short(path)} {_written(value)}" for path, value in parameters.items())
    logger.info("trial %d of %d: %s", number, budget, told)
    recipe = search.recipe(parameters)
    row: dict[str, Any] = {"number": number, "state": "finished", "parameters": parameters}
    began = time.perf_counter()
    try:
        found = train(search.home, run_dir, recipe, existing="resume", command=search.command)
    except PmmError as error:
        if type(error) is not PmmError:  # options, files, a full disk: not the trial's fault
            raise
        logger.warning("trial %d failed: %s", number, error)
        seconds = round(time.perf_counter() - began, 1)
        row |= {"state": "failed", "hr@10": None, "ndcg@10": None, "steps": None, "epochs": None}
        row |= {"seconds": seconds, "ended": "failed", "error": str(error)}
    else:
        if found["ended"] == "interrupted":
            return None
        row |= {"hr@10": found["best_hr@10"] or 0.0, "ndcg@10": _ndcg(run_dir, found["best_hr@10"])}
        row |= {"best_epoch": found["best_epoch"]}
        row |= {name: found[name] for name in ("steps", "epochs", "seconds", "ended")}
    row |= {"hardware": _hardware(run_dir), "seen": time.strftime("%Y-%m-%d")}
    return row | {"run": run_dir.name, "command": search.command}


def _ndcg(run_dir: Path, best: float | None) -> float:
    """NDCG@10 of the evaluation that had the best HR@10: the first, as its weights were kept."""
    records = (each for each in read_log(run_dir / LOG) if each["kind"] == "evaluation")
    return next((float(each["ndcg@10"]) for each in records if each["hr@10"] == best), 0.0)


def _ask(search: _Search, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of the trial after these rows; of the first the defaults."""
    if not rows:
        active = {path for path, each in search.space.items() if _counts(each, {}, search.base)}
        return {path: _value(search.base, path) for path in search.space if path in active}
    optuna = _optuna()
    digest = hashlib.sha256(f"tune {search.seed} {len(rows) + 1}".encode()).digest()
    sampler = optuna.samplers.TPESampler(
        seed=int.from_bytes(digest[:4], "little"), n_startup_trials=STARTUP
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in rows:
        tried = row["parameters"]
        former = optuna.trial.create_trial(
            params=tried,
            distributions={path: _distribution(search.space[path]) for path in tried},
            value=max(0.0, _value_of(row)),  # a failed one is worth what finds nothing is worth
        )
        study.add_trial(former)
    trial, chosen = study.ask(), dict[str, Any]()
    for path, each in search.space.items():
        if not _counts(each, chosen, search.base):
            continue
        if isinstance(each, Choice):
            chosen[path] = trial.suggest_categorical(path, each.values)
        else:
            drawn = float(f"{trial.suggest_float(path, each.low, each.high, log=True):.3g}")
            chosen[path] = min(max(drawn, each.low), each.high)
    return chosen


def _distribution(each: Interval | Choice) -> Any:
    kinds = _optuna().distributions
    if isinstance(each, Choice):
        return kinds.CategoricalDistribution(each.values)
    return kinds.FloatDistribution(each.low, each.high, log=True)


def _optuna() -> Any:
    """Optuna, quiet.

    Raises:
        InputError: it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            f"pmm tune needs Optuna, which cannot be imported ({error}). Install PMM with its "
            "extra: pip install 'pmmrec[tune]', or from a checkout pip install -e '.[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the search's folder for this process."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    taken = f"another pmm process searches in {folder}; wait for it, or end it"
    with exclusive(folder / ".lock", taken):
        yield


def _forget(search: _Search) -> None:
    """Delete an earlier search; its search.json goes last, so a kill leaves it to be told of."""
    runs = search.home.run(search.stem).parent
    for run_dir in sorted(runs.glob(f"{search.stem}-*")):
        if re.fullmatch(r"\d+", run_dir.name.removeprefix(f"{search.stem}-")):
            with run_folder.claim(run_dir):
                run_folder.clear(run_dir)
    for name in (BEST, TRIALS, SEARCH):
        with storage_errors(search.folder):
            (search.folder / name).unlink(missing_ok=True)


def _settle(search: _Search) -> None:
    """Write search.json, or compare it with what is there."""
    path = search.folder / SEARCH
    now = _about(search)
    if not path.is_file():
        with storage_errors(path), atomic_file(path) as temporary:
            write_json(temporary, now)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        origin = f"{path} (of another version of pmm? --overwrite begins again)"
        recipe = resolve(Recipe, before["recipe"], origin=origin)  # what is new has its default
        before |= {"recipe": tomllib.loads(dump(recipe))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtefact(
            f"{path} is damaged ({error}), so the search cannot go on. Search with --overwrite"
        ) from error
    if before.get("shards") != now["shards"]:
        raise StaleArtefact(
            f"{search.folder} was searched on shards {str(before.get('shards'))[:8]}, but those of "
            f"{search.base.target} are now {search.shards[:8]}. Search again with --overwrite"
        )
    old, new = _flat(before), _flat(now)
    changed = [
        f"{name.removeprefix('recipe.')} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name != "pmm" and old.get(name) != new.get(name)
    ]
    if changed:
        raise RecipeError(
            f"{search.folder} holds a search that was started with other options "
            f"({'; '.join(changed)}). Go on with the same ones, or begin again with --overwrite"
        )


def _about(search: _Search) -> dict[str, Any]:
    """What makes the rows of a search comparable, as JSON gives it back."""
    about = {
        "recipe": tomllib.loads(dump(search.base)),
        "space": {path: asdict(each) for path, each in search.space.items()},
        "seed": search.seed,
        "shards": search.shards,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _open_rows(path: Path) -> Log:
    """Open for appending; a line that a kill cut off is dropped, its trial has a run to go on."""
    with storage_errors(path):
        return Log(path, path.stat().st_size if path.is_file() else 0)


def _read_rows(search: _Search) -> list[dict[str, Any]]:
    """The finished trials.

    Raises:
        BrokenArtefact: they are not those of this search, one after the other.
    """
    path = search.folder / TRIALS
    rows = read_log(path)
    for number, row in enumerate(rows, start=1):
        whole = isinstance(row, dict) and row.keys() >= _COLUMNS
        if (
            not whole
            or row["number"] != number
            or not row["parameters"].keys() <= search.space.keys()
        ):
            raise BrokenArtefact(
                f"{path}:{number} is no row of trial {number}. Search again with --overwrite"
            )
    return rows


_COLUMNS = {"number", "state", "parameters", "hr@10", "ndcg@10", "steps", "epochs", "seconds"}
_COLUMNS |= {"run", "hardware", "seen"}
"""What every row has; finished ones also best_epoch, failed ones also error."""


def _best_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished row with the highest HR@10; of equal ones the first."""
    finished = [row for row in rows if row["state"] == "finished"]
    return max(finished, key=_value_of, default=None)


def _value_of(row: Mapping[str, Any]) -> float:
    """A row's validation HR@10, below 0 where it failed."""
    return -1.0 if row["hr@10"] is None else float(row["hr@10"])


def _write_best(search: _Search, rows: Sequence[dict[str, Any]]) -> None:
    """Write best.toml: what was given and the best parameters, under what came of them."""
    best = _best_of(rows)
    if best is None:
        return
    path = search.folder / BEST
    values = merge(
        {"model": {"name": search.base.model.name}},
        _anchored(search.values, search.base),
        _nested(best["parameters"]),
    )
    defaults = rows[0]["hr@10"]
    first = "failed" if defaults is None else f"had {100 * defaults:.2f}"
    header = "\n".join(
        [
            f"The best of {len(rows)} trials on {search.base.target}, by the validation items.",
            f"command:  {_command_to_train(search)}",
            f"duration: {best['seconds']:,} s for {best['steps']:,} steps",
            f"hardware: {best['hardware']}",
            f"expected: validation HR@10 {100 * best['hr@10']:.2f}, NDCG@10 "
            f"{100 * best['ndcg@10']:.2f} (trial {best['number']}; the defaults {first})",
            f"seen:     {best['seen']}",
        ]
    )
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    with storage_errors(path), atomic_file(path) as temporary:
        temporary.write_text(f"{comment}\n{tomli_w.dumps(values)}", encoding="utf-8")


def _anchored(values: Mapping[str, Any], base: Recipe) -> dict[str, Any]:
    """Values with encoders in folders named from the root, as the base has them."""
    model = values.get("model", {})
    sides = {side: model[side] for side in ("text", "vision") if "encoder" in model.get(side, {})}
    whole = {side: {"encoder": getattr(base.model, side).encoder} for side in sides}
    return merge(values, {"model": whole} if whole else {})


def _hardware(run_dir: Path) -> str:
    """What a run was trained on, as its run.json says."""
    if not (run_dir / run_folder.RUN).is_file():
        return "unknown"
    about = json.loads((run_dir / run_folder.RUN).read_text(encoding="utf-8"))
    found = about["hardware"]
    on = ", ".join(found["accelerators"]) if about["device"] != "cpu" else "no GPU"
    return f"{found['system']}, {found['cores']} CPU cores, {on}"


def _command_to_train(search: _Search) -> str:
    """The command that trains with the best recipe."""
    request, words = search.request, ["pmm", "train", "--recipe", str(search.folder / BEST)]
    options = {"stage": request.stage, "target": search.base.target}
    options["from"] = search.base.start.run if search.base.start else ""
    options |= {name: getattr(request, name) or "" for name in _SAID}
    if search.home.root != resolve_home(None).root:
        options["home"] = str(search.home.root)
    for name, value in options.items():
        words += [f"--{name}", value] if value else []
    return shlex.join(words)


_SAID = ("transfer", "objectives", "modality", "preset")
"""What a request says and a recipe does not, or not alone."""


def _result(search: _Search, rows: list[dict[str, Any]], ended: str) -> dict[str, Any]:
    """What `tune` returns.

    Raises:
        PmmError: the budget is spent, and all trials failed.
    """
    best = _best_of(rows)
    if best is None and ended == "budget":
        raise PmmError(
            f"all {len(rows)} trials failed, the first with: {rows[0]['error']} Give what is tried "
            "another range by hand, as --set train.lr=1e-4, and add --overwrite"
        )
    _write_best(search, rows)
    run = search.run(best["number"]) if best else None
    return {
        "folder": str(search.folder),
        "ended": ended,
        "rows": rows,
        "best": best,
        "run": str(run) if run else None,
        "recipe": str(search.folder / BEST) if best else None,
        "next": [f"pmm evaluate {run}", _command_to_train(search)] if run else [],
    }


def _value(recipe: Recipe, path: str) -> Any:
    """The value of a recipe under a name as train.lr."""
    return reduce(getattr, path.split("."), recipe)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables from names with dots.

    >>> _nested({"train.lr": 0.1, "model.width": 8})
    {'train': {'lr': 0.1}, 'model': {'width': 8}}
    """
    layers: list[dict[str, Any]] = []
    for path, value in values.items():
        *sections, key = path.split(".")
        layers.append(reduce(lambda below, name: {name: below}, reversed(sections), {key: value}))
    return merge(*layers)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names with dots from tables.

    >>> _flat({"train": {"lr": 0.1}, "model": {"text": {"encoder": "x"}}})
    {'train.lr': 0.1, 'model.text.encoder': 'x'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _written(value: Any) -> str | None:
    return f"{value:g}" if isinstance(value, float) else None if value is None else str(value)
