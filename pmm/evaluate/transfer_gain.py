"""What a transfer gave or cost: a fine-tuned run beside the same training from scratch.

The run from scratch is found among those of the home folder by its recipe. Where there is none,
the command that makes it is told; where the transfer is worse, that is told too.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import ArtefactError, InputError, PmmError
from pmm.evaluate.compare import Difference, compare_runs
from pmm.evaluate.evaluate_options import RankedPart
from pmm.evaluate.evaluation import ranks_file
from pmm.model import registry
from pmm.runs.folder import RECIPE, shards_of
from pmm.runs.loading import command_to_train_again, saved_recipe
from pmm.runs.names import shortened
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, read_header, read_tensors
from pmm.shards.read import Shards
from pmm.storage.home import Home, slug

_TOLD = ("seed", "epochs", "patience", "max_steps", "max_minutes", "eval_every")
"""Training options in which the two may differ; the report says so."""
_SAME_RESULT = (
    *("log_every", "save_every", "ahead", "trackers", "device", "cache", "recompute"),
    *("eval_start", "eval_test"),
)
"""Those that change nothing of what is learnt, but for rounding."""
_Z = 1.959964
"""Of the normal distribution: 95% lie within so many deviations."""
_PARTS: dict[RankedPart, str] = {
    "test": "test items",
    "valid": "validation items",
    "cold": "cold cuts, held out",
}


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """A run from scratch that a transfer can be compared with."""

    run_dir: Path
    differs: tuple[str, ...]
    """Training options in which it differs, in words."""

    def __str__(self) -> str:
        differs = f" (there {', '.join(self.differs)})" if self.differs else ""
        return f"{self.run_dir.name}{differs}"


def find_scratch(run_dir: Path, recipe: Recipe) -> FromScratch | None:
    """The run of the same home, target, shards, model and training that started from nothing.

    Of several the one that differs least in how long it trained, and of those the latest.

    Args:
        run_dir: of the transfer.
        recipe: of the transfer.
    """
    made_on = shards_of(run_dir)
    found: list[tuple[tuple[bool, int, float], FromScratch]] = []
    for each in sorted(run_dir.absolute().parent.glob(f"*/{RECIPE}")):
        other = each.parent
        try:
            if not (other / BEST).is_file() or shards_of(other) != made_on:
                continue
            differs = _differences(recipe, saved_recipe(other), other)
        except PmmError:  # a damaged run, or one of a model that is not there, says nothing
            continue
        if differs is not None:
            order = ("seed" in " ".join(differs), len(differs), -(other / BEST).stat().st_mtime)
            found.append((order, FromScratch(run_dir=other, differs=differs)))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _differences(recipe: Recipe, scratch: Recipe, run_dir: Path) -> tuple[str, ...] | None:
    """In what a run from scratch differs from a transfer; None: in more than it may."""
    if scratch.stage != "scratch" or slug(scratch.target) != slug(recipe.target):
        return None
    if scratch.model.name != recipe.model.name:
        return None
    now, before = asdict(recipe.train), asdict(scratch.train)
    apart = [name for name in now if now[name] != before[name] and name not in _SAME_RESULT]
    if set(apart) - {*_TOLD} or not _same_model(recipe, scratch, run_dir):
        return None
    return tuple(f"{name} {before[name]}, here {now[name]}" for name in apart)


def _same_model(recipe: Recipe, scratch: Recipe, run_dir: Path) -> bool:
    """Whether both are the same model; a width that an encoder decides is read off the weights."""
    if recipe.model == scratch.model:
        return True
    ours, theirs = asdict(recipe.model), asdict(scratch.model)
    if {**ours, "width": 0} != {**theirs, "width": 0} or theirs.get("width"):
        return False
    again = command_to_train_again(run_dir)
    options = registry.entry(scratch.model.name).of_run(
        scratch.model, "full", lambda: read_tensors(run_dir / BEST, made_by=again)[0]
    )
    return bool(options == recipe.model)


def told_after_training(home: Home, run_dir: Path) -> list[str]:
    """What a transfer gave or cost on the validation items, in lines; none of another run.

    The two rankings are not there user by user, so the interval takes them for independent: it is
    wider than that of `told`.
    """
    recipe = saved_recipe(run_dir)
    if recipe.start is None or not (run_dir / BEST).is_file():
        return []
    scratch = find_scratch(run_dir, recipe)
    if scratch is None:
        return [_how_to_have_it(run_dir, recipe)]
    users = Shards.of(home, recipe.target).n_users
    before, now = _valid_rate(scratch.run_dir), _valid_rate(run_dir)
    hr = independent_difference("hr@10", before, now, questions=users)
    return [_heading(run_dir, recipe, scratch), _line("validation items, best epoch", hr)]


def told(run_dir: Path) -> list[str]:
    """What a transfer gave or cost by what `pmm evaluate` has written of both, in lines.

    None of a run that is no transfer.

    Raises:
        MissingArtefact, RecipeError: it is no run.
    """
    recipe = saved_recipe(run_dir)
    if recipe.start is None or not (run_dir / BEST).is_file():
        return []
    scratch = find_scratch(run_dir, recipe)
    if scratch is None:
        return [_how_to_have_it(run_dir, recipe)]
    return [_heading(run_dir, recipe, scratch), *_evaluated(run_dir, scratch.run_dir)]


def _evaluated(run_dir: Path, scratch: Path) -> Iterator[str]:
    """A line for each part of which both have ranks, or the command that makes those."""
    there = [part for part in _PARTS if (run_dir / ranks_file(run_dir, part)).is_file()]
    if not there:
        yield f"  not evaluated yet. Run: {command('evaluate', run_dir)}"
    for part in there:
        try:
            differences = compare_runs(scratch, run_dir, asked=part)
        except (ArtefactError, InputError) as error:  # it names what is to be run
            yield f"  {_PARTS[part]}: {error}"
            continue
        for each in differences:
            if each.name in ("hr@10", "ndcg@10"):
                yield _line(_PARTS[part], each)


def independent_difference(name: str, first: float, second: float, questions: int) -> Difference:
    """The difference of two shares of as many questions each, as if they were independent.

    One hit and one miss are added to each side (Agresti and Caffo 2000), so that shares of 0 have
    an interval too.

    >>> found = independent_difference("hr@10", 0.0, 0.1, questions=100)
    >>> round(found.low, 3), round(found.high, 3)
    (0.035, 0.161)
    """
    shares = [(share * questions + 1) / (questions + 2) for share in (first, second)]
    deviation = math.sqrt(sum(p * (1 - p) / (questions + 2) for p in shares))
    middle = shares[1] - shares[0]
    return Difference(
        name=name,
        first=first,
        second=second,
        low=middle - _Z * deviation,
        high=middle + _Z * deviation,
    )


def _valid_rate(run_dir: Path) -> float:
    header = read_header(run_dir / BEST, made_by=command_to_train_again(run_dir))
    return float(header["valid_hr@10"])


def _heading(run_dir: Path, recipe: Recipe, scratch: FromScratch) -> str:
    assert recipe.start is not None
    return (
        f"{run_dir.name}, {recipe.start.transfer} transfer from {Path(recipe.start.run).name}, "
        f"against {scratch} from scratch:"
    )


def _line(what: str, found: Difference) -> str:
    return (
        f"  {what}: {found.name.upper()} {100 * found.first:.2f} from scratch, "
        f"{100 * found.second:.2f} transferred: {100 * found.difference:+.2f} "
        f"(95% interval {100 * found.low:+.2f} .. {100 * found.high:+.2f}): {verdict(found)}"
    )


def verdict(found: Difference) -> str:
    """Whether a transfer helped, in words.

    >>> verdict(Difference(name="hr@10", first=0.3, second=0.2, low=-0.15, high=-0.05))
    'NEGATIVE TRANSFER, scratch is better'
    """
    if found.high < 0:
        return "NEGATIVE TRANSFER, scratch is better"
    if found.low > 0:
        return "the transfer helped"
    side = "below" if found.difference < 0 else "above" if found.difference > 0 else "equal to"
    return f"{side} scratch, but within chance"


def _how_to_have_it(run_dir: Path, recipe: Recipe) -> str:
    home = Home.holding(run_dir, "runs")
    again: dict[str, Any] = {
        "stage": "scratch",
        "target": recipe.target,
        "recipe": run_dir.absolute() / RECIPE,
        "name": shortened(f"{run_dir.name}-scratch"),
        "home": home and home.option,
    }
    return (
        f"what the transfer gave or cost is not known: no run from scratch on {recipe.target} by "
        f"the same recipe is there. Run: {command('train', **again)}"
    )
