"""An option is declared once, in the dataclass that reads it, and commands are made of that."""

import dataclasses
import typing
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from pmm.commands.from_request import make_command
from pmm.flags import Flag, flags_of
from pmm.ingest.sources.source_registry import find_source, source_names
from pmm.runs.recipe import Recipe
from pmm.runs.request import CacheRequest, TrainRequest, TuneRequest, recipe_values


@dataclass(frozen=True, kw_only=True)
class Read:
    depth: int = 2
    """How deep. It is read here."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    place: Annotated[Path, Flag(argument=True)]
    """Where."""
    kind: Annotated[Literal["one", "two"], Flag(group="model")] = "one"
    """Which kind. Two is larger."""
    depth: Annotated[int | None, Flag(group="training", of=Read, sets=("read.depth",))] = None
    names: Annotated[tuple[str, ...], Flag(group="data", name="--name")] = ()
    """Some names; repeatable."""
    parts: Annotated[tuple[str, ...], Flag(group="data", commas=True)] = ()
    """Parts with commas between."""
    blocks: Annotated[int | Literal["all"], Flag(group="model")] = 3
    """How many."""
    quiet: bool = False
    dry: Annotated[bool, Flag()] = False
    """Do nothing."""


def asked(*words: str) -> Asked:
    found: list[Asked] = []
    _command(found).main(list(words), standalone_mode=False)
    return found[0]


def _command(found: list[Asked]) -> Any:
    def run(request: Asked) -> None:
        """What it does."""
        found.append(request)

    return make_command("asked", Asked, run, example="asked here")


def test_what_is_typed_becomes_the_dataclass() -> None:
    assert asked("here") == Asked(place=Path("here"))
    words = ("here", "--kind", "two", "--depth", "5", "--name", "a", "--name", "b", "--dry")
    more = ("--parts", "x, y", "--blocks", "all")
    assert asked(*words, *more) == Asked(
        place=Path("here"),
        kind="two",
        depth=5,
        names=("a", "b"),
        parts=("x", "y"),
        blocks="all",
        dry=True,
    )
    assert asked("here", "--blocks", "0").blocks == 0


def test_help_stands_under_headings_and_comes_from_the_docstrings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _command([]).main(["--help"], standalone_mode=False)
    told = capsys.readouterr().out
    order = [told.index(f"{heading}:") for heading in ("Data", "Model", "Training", "Output")]
    assert order == sorted(order)
    assert "How deep." in told
    assert "It is read here" not in told
    assert "--quiet" not in told
    assert told.rstrip().endswith("Example: asked here")


def test_what_is_not_given_says_nothing_of_the_recipe() -> None:
    assert recipe_values(Asked(place=Path())) == {}
    assert recipe_values(Asked(place=Path(), depth=0)) == {"read": {"depth": 0}}


def test_an_option_without_a_docstring_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent:
        depth: Annotated[int, Flag()] = 1

    with pytest.raises(TypeError, match=r"Silent\.depth is an option without a docstring"):
        flags_of(Silent)


@pytest.mark.parametrize("kind", [TrainRequest, TuneRequest, CacheRequest])
def test_every_recipe_value_that_an_option_sets_is_one(kind: type) -> None:
    """Of PMMRec's recipe, whose default could have been given by the option."""
    for field in flags_of(kind):
        for path in field.flag.sets:
            usual = reduce(getattr, path.split("."), Recipe(target="x"))
            kinds = typing.get_args(field.hint) or (field.hint,)
            assert any(_is(usual, each) for each in (field.hint, *kinds)), path


def _is(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    return isinstance(kind, type) and isinstance(value, kind)


@pytest.mark.parametrize("name", source_names())
def test_every_source_says_what_can_be_asked(name: str) -> None:
    entry = find_source(name)
    assert dataclasses.is_dataclass(entry.request)
    assert entry.ingest.__doc__
    assert entry.example.startswith(f"pmm ingest {name}")
