"""Runs, searches, comparisons, downloaded pictures: files replaced or appended to one by one."""

import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pmm.advice import command
from pmm.check.finding import Condition, Finding
from pmm.errors import InputError, PmmError
from pmm.ingest.download.picture_store import PICTURE_OUTCOMES, PictureStore, damaged_lines
from pmm.runs.checkpoint import LAST
from pmm.runs.folder import LOG, RECIPE, RUN, read_records, shards_of
from pmm.runs.loading import command_to_train, saved_recipe
from pmm.runs.weights import BEST, read_header, read_tensors
from pmm.storage.home import Home
from pmm.storage.json_files import read_json
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.seal import is_damaged
from pmm.tune.encoder_rows import ROWS, TABLE, read_comparison
from pmm.tune.search_folder import BEST as BEST_RECIPE
from pmm.tune.search_folder import SEARCH, TRIALS

EVALUATION = ("metrics*.json", "ranks*.parquet", "gallery*.png")
"""What `pmm evaluate` writes into a run's folder, and writes again."""
_TRIES, _BETWEEN_S = 3, 0.2
"""Of a file that another process replaces meanwhile."""


def check_runs(home: Home) -> Iterator[Finding]:
    """Every run."""
    for run_dir in _folders(home.root / "runs"):
        if not (run_dir / RECIPE).is_file() and not (run_dir / RUN).is_file():
            if any(each.name not in (".lock", ".sums") for each in run_dir.iterdir()):
                yield _finding(run_dir, "run", "unfinished", "it has no recipe", "", [])
            continue
        yield _look_at_run(home, run_dir)


def damaged_files(run_dir: Path) -> dict[str, str]:
    """What is wrong with a run's files: name -> why. It only reads."""
    found = {}
    for path in _files_of_run(run_dir):
        why = _why(partial(_check_file, run_dir, path))
        if why:
            found[path.relative_to(run_dir).as_posix()] = why
    return found


def command_of_run(home: Home, run_dir: Path) -> str:
    """The command that trained a run, to train it again."""
    try:
        typed = str(read_json(run_dir / RUN, again="")["command"])
    except (PmmError, KeyError):
        typed = ""
    if not typed.startswith(command("train")):
        typed = _command_by_recipe(home, run_dir)
    return typed if "--overwrite" in typed else f"{typed} --overwrite"


def _command_by_recipe(home: Home, run_dir: Path) -> str:
    """Of a run that was not started from a shell: by its recipe, where that can be read."""
    try:
        recipe = saved_recipe(run_dir)
    except PmmError:
        made = command("train", name=run_dir.name, home=home.option)
        return f"{made}  # and what else it was trained with"
    return command_to_train(run_dir, recipe, overwrite=True)


def command_to_evaluate(home: Home, run_dir: Path, names: list[str]) -> str:
    """The command that writes an evaluation's files again."""
    cold = any("-cold" in name for name in names)
    split = "valid" if any(Path(name).stem.endswith("-valid") for name in names) else None
    return command("evaluate", run_dir.name, cold=cold, split=split, home=home.option)


def check_searches(home: Home) -> Iterator[Finding]:
    """Every search for options."""
    for folder in _folders(home.root / "tuning", "*/*"):
        paths = [folder / name for name in (SEARCH, TRIALS, BEST_RECIPE)]
        paths = [path for path in paths if path.is_file()]
        damaged = {}
        for path in paths:
            why = _why(partial(_check_file, folder, path))
            if why:
                damaged[path.name] = why
        again = _command_of_search(home, folder, list(damaged))
        state: Condition = "damaged" if damaged else "whole"
        yield _finding(folder, "search", state, _told(damaged), again if damaged else "", paths)


def check_comparisons(home: Home) -> Iterator[Finding]:
    """Every comparison of encoders."""
    for folder in _folders(home.root / "comparisons"):
        paths = [path for path in (folder / ROWS, folder / TABLE) if path.is_file()]
        damaged = {}
        for path in paths:
            look = partial(read_comparison if path.name == ROWS else pq.read_table, path)
            if why := _why(look):
                damaged[path.name] = why
        # Rows come back from runs that are whole, and the table from the rows.
        gone = shlex.join(str(folder / name) for name in damaged)
        again = (
            f"rm {gone} && {command('encoders', 'compare', target=folder.name, home=home.option)}"
        )
        state: Condition = "damaged" if damaged else "whole"
        yield _finding(folder, "comparison", state, _told(damaged), again if damaged else "", paths)


def check_downloads(home: Home) -> Iterator[Finding]:
    """Every store of downloaded pictures."""
    for folder in _folders(home.root / "downloads"):
        store = PictureStore(folder)
        if not store.journal.is_file() and not store.table.is_file():
            continue
        pictures = sorted(path for path in (folder / "pictures").rglob("*") if path.is_file())
        wrong = [path for path in pictures if _why(partial(_named_by_content, path))]
        damaged = {}
        if wrong:
            names = ", ".join(path.name for path in wrong[:3])
            damaged["pictures"] = f"{len(wrong):,} of {len(pictures):,} are damaged ({names})"
        if lines := damaged_lines(store.journal):
            damaged[store.journal.name] = f"{lines:,} lines are damaged (asked for again)"
        if store.table.is_file():
            why = _why(partial(read_table, store.table, PICTURE_OUTCOMES))
            damaged |= {store.table.name: why} if why else {}
        again = command("ingest", folder.name, images="download", home=home.option)
        if wrong:  # what is there with all its bytes is not fetched again
            again = f"rm {shlex.join(map(str, wrong))} && {again}"
        state: Condition = "damaged" if damaged else "whole"
        yield _finding(
            folder, "pictures", state, _told(damaged), again if damaged else "", pictures
        )


def _look_at_run(home: Home, run_dir: Path) -> Finding:
    damaged = damaged_files(run_dir)
    paths = _files_of_run(run_dir)
    evaluated = [name for name in damaged if any(Path(name).match(each) for each in EVALUATION)]
    if damaged:
        commands = [command_to_evaluate(home, run_dir, evaluated)] if evaluated else []
        if len(evaluated) < len(damaged):
            commands = [command_of_run(home, run_dir), *commands]
        if set(damaged) - set(evaluated) == {LAST} and (run_dir / BEST).is_file():
            said = "; its best weights are whole, only --resume needs the last ones"
            return _finding(
                run_dir, "run", "damaged", _told(damaged) + said, "\n  ".join(commands), paths
            )
        return _finding(run_dir, "run", "damaged", _told(damaged), "\n  ".join(commands), paths)
    why = _stale(home, run_dir)
    if why:
        return _finding(run_dir, "run", "stale", why, command_of_run(home, run_dir), paths)
    if not (run_dir / BEST).is_file():
        again = command_of_run(home, run_dir).replace("--overwrite", "--resume")
        return _finding(run_dir, "run", "unfinished", "no evaluated weights yet", again, paths)
    return _finding(run_dir, "run", "whole", "", "", paths)


def _stale(home: Home, run_dir: Path) -> str:
    """Why a run's shards are others now; of a run on several sources nothing is said."""
    recipe = saved_recipe(run_dir)
    if len(recipe.names) != 1 or not (run_dir / RUN).is_file():
        return ""
    from pmm.check.check_artefacts import readable_manifest

    try:
        place = home.shards(recipe.names[0])
    except InputError:
        return ""
    manifest, had = readable_manifest(place), shards_of(run_dir)
    if manifest is None or manifest.fingerprint == had:
        return ""
    return f"trained on shards {had[:8]}, but {place} is now {manifest.fingerprint[:8]}"


def _files_of_run(run_dir: Path) -> list[Path]:
    patterns = (RECIPE, RUN, LOG, *EVALUATION, "*.json", "*.png", "checkpoint/*.safetensors")
    return sorted({path for each in patterns for path in run_dir.glob(each) if path.is_file()})


def _check_file(folder: Path, path: Path) -> None:
    """Read a file as the commands do; PmmError where it is damaged."""
    if is_damaged(path):
        raise InputError(f"{path.name} has other content than it was written with")
    again = "-"
    if path.name == RECIPE and path.parent == folder:
        saved_recipe(folder)
    elif path.suffix == ".jsonl":
        read_records(path, path.read_bytes())
    elif path.suffix == ".json":
        read_json(path, again=again)
    elif path.suffix == ".parquet":
        read_table(path, RANKS)
    elif path.suffix == ".png":
        _check_png(path)
    elif path == folder / BEST:
        read_header(path, made_by=again)
        read_tensors(path, made_by=again)
    elif path.suffix == ".safetensors":
        read_tensors(path, made_by=again)


def _check_png(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()  # the chunks' own checksums
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is no whole PNG ({error})") from error


def _named_by_content(path: Path) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
            raise InputError("it has other content than its name says")


def _why(look: Callable[[], object]) -> str:
    """What is wrong by a look that raises; looked at again, as files are replaced meanwhile."""
    why = ""
    for turn in range(_TRIES):
        if turn:
            time.sleep(_BETWEEN_S)
        try:
            look()
        except FileNotFoundError:
            return ""  # gone since it was listed
        except (PmmError, OSError, pa.ArrowInvalid) as error:
            why = str(error).partition(". Run: ")[0]
            continue
        return ""
    return why


def _command_of_search(home: Home, folder: Path, damaged: list[str]) -> str:
    typed = ""
    if (folder / TRIALS).is_file() and TRIALS not in damaged:
        rows = read_records(folder / TRIALS, (folder / TRIALS).read_bytes())
        typed = str(rows[-1].get("command", "")) if rows else ""
    if not typed.startswith(command("tune")):
        model = folder.name.split("-")[0]
        typed = command("tune", target=folder.parent.name, model=model, home=home.option)
    if damaged == [BEST_RECIPE]:  # it is written again from the rows
        return f"{typed}  # writes {BEST_RECIPE} again from the finished trials"
    return typed if "--overwrite" in typed else f"{typed} --overwrite"


def _folders(room: Path, pattern: str = "*") -> list[Path]:
    return sorted(
        path for path in room.glob(pattern) if path.is_dir() and not path.name.startswith(".")
    )


def _told(damaged: dict[str, str]) -> str:
    return "; ".join(
        why if name in why else f"{name}: {why}" for name, why in list(damaged.items())[:5]
    )


def _finding(
    place: Path, kind: str, state: Condition, why: str, run: str, paths: list[Path]
) -> Finding:
    size = sum(path.stat().st_size for path in paths if path.is_file())
    return Finding(
        place=place, kind=kind, state=state, why=why, run=run, files=len(paths), bytes=size
    )
