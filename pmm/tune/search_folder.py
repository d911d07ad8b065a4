"""One search: what stays the same in all its trials, and its folder on disk."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact, RecipeError, StaleArtefact
from pmm.model.search_space import Space
from pmm.runs import folder as run_folder
from pmm.runs.former_recipes import without_former_options
from pmm.runs.names import name_of_start, shortened
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.storage.artefact import exclusive, storage_errors, write_json
from pmm.storage.dotted_names import flat, nested
from pmm.storage.home import Home, slug
from pmm.storage.json_files import JSON_ERRORS, parse_json, told
from pmm.storage.seal import require_sealed, sealed_file
from pmm.storage.toml import dump, merge, resolve

SEARCH, TRIALS, BEST = "search.json", "trials.jsonl", "best.toml"
"""In the folder: what is searched, the rows, and the recipe of the best."""
LONGEST_LABEL = 50
"""Bytes; a trial's run is called by the target, this and a number."""


@dataclass(frozen=True, kw_only=True)
class Search:
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
        """The search's folder: sasrec, unisrec-finetune-from-pretrain-unisrec, pmmrec-only-text."""
        parts, start = [self.base.model.name], self.base.start
        if start is not None:
            parts += [self.base.stage, name_of_start(self.home, Path(start.run))]
            parts += [start.transfer] if start.transfer != "full" else []
        if self.request.modality not in (None, "both"):
            parts.append(f"only-{self.request.modality}")
        return shortened("-".join(parts), LONGEST_LABEL)

    @property
    def folder(self) -> Path:
        """Below the home."""
        return self.home.tuning(self.base.target) / self.label

    @property
    def stem(self) -> str:
        """How the names of the trials' runs begin."""
        return f"{slug(self.base.target)}-{self.label}-tune"

    def run(self, number: int) -> Path:
        """The folder of a trial's run."""
        return self.home.run(f"{self.stem}-{number}")

    def recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """Of a trial."""
        limit = {"train": {"max_minutes": self.minutes or None}}
        asked = merge(self.values, limit, nested(parameters))
        return resolve_run(self.home, self.run(1), self.request, asked)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the search's folder for this process."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    taken = f"another pmm process searches in {folder}; wait for it, or end it"
    with exclusive(folder / ".lock", taken):
        yield


def forget(search: Search) -> None:
    """Delete an earlier search; its search.json goes last, so a kill leaves it to be told of."""
    runs = search.home.run(search.stem).parent
    for run_dir in sorted(runs.glob(f"{search.stem}-*")):
        if re.fullmatch(r"\d+", run_dir.name.removeprefix(f"{search.stem}-")):
            with run_folder.claim(run_dir):
                run_folder.clear(run_dir)
    for name in (BEST, TRIALS, SEARCH):
        with storage_errors(search.folder):
            (search.folder / name).unlink(missing_ok=True)


def keep_or_compare(search: Search) -> None:
    """Write search.json, or compare it with what is there."""
    path = search.folder / SEARCH
    now = about(search)
    if not path.is_file():
        with storage_errors(path), sealed_file(path) as temporary:
            write_json(temporary, now)
        return
    require_sealed(path, again="The search cannot go on: search with --overwrite")
    try:
        before = parse_json(path.read_bytes())
        origin = f"{path} (of another version of pmm? --overwrite begins again)"
        former = without_former_options(before["recipe"], origin=origin)
        recipe = resolve(Recipe, former, origin=origin)  # what is new has its default
        before |= {"recipe": tomllib.loads(dump(recipe))}
    except JSON_ERRORS as error:
        raise BrokenArtefact(
            f"{path} is damaged ({told(error)}), so the search cannot go on. "
            "Search with --overwrite"
        ) from error
    if before.get("shards") != now["shards"]:
        raise StaleArtefact(
            f"{search.folder} was searched on shards {str(before.get('shards'))[:8]}, but those of "
            f"{search.base.target} are now {search.shards[:8]}. Search again with --overwrite"
        )
    old, new = flat(before), flat(now)
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


def about(search: Search) -> dict[str, Any]:
    """What makes the rows of a search comparable, as JSON gives it back."""
    about = {
        "recipe": tomllib.loads(dump(search.base)),
        "space": {path: asdict(each) for path, each in search.space.items()},
        "seed": search.seed,
        "shards": search.shards,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain
