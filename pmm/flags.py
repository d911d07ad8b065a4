"""How the fields of a dataclass of options appear on the command line, declared beside them.

A field with a `Flag` in its annotation becomes an option of the commands that take the dataclass;
the help is the first sentence of the docstring below the field, so an option is described once:

    @dataclass(frozen=True, kw_only=True)
    class Options:
        user_core: Annotated[int, Flag(group="data")] = 5
        \"\"\"Least interactions of a user; 0 switches it off.\"\"\"

Nothing here knows a library for command lines: `pmm.commands.from_request` makes options of flags.
"""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["data", "model", "training", "search", "output"]
"""What an option is about: the headings of help, in this order."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a field appears on the command line."""

    group: Group = "output"
    name: str = ""
    """Of the option, "--from", or of a switch, "--on/--off"; by default the field's name with
    dashes."""
    of: type | None = None
    """The dataclass whose field this option fills, if it is another one that reads the value; its
    docstring is the help then."""
    sets: tuple[str, ...] = ()
    """Recipe values that the option sets, as "train.epochs"; the last part of the first is the name
    of the field of `of`."""
    shown: str = ""
    """What help says of the default, where the default is decided later."""
    metavar: str = ""
    """What stands for the value in help, "N|all"; by default its type or its choices."""
    commas: bool = False
    """Whether one option takes several values with commas between, instead of being repeated."""
    argument: bool = False
    """Whether it is an argument by its place, not an option."""
    choices: Callable[[], Sequence[str]] | None = None
    """What the value may be, where that is only known when the program runs."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field with a flag: all that an option needs."""

    name: str
    hint: Any
    """Its type."""
    default: Any
    """`dataclasses.MISSING` where a value has to be given."""
    flag: Flag
    help: str


def flags_of(kind: type) -> list[Field]:
    """The fields of a dataclass that have a flag: its own first, then those that it inherits.

    Raises:
        TypeError: a flag's field has no docstring, so nobody would know what it does.
    """
    found = []
    for field, hint, flag in flagged(kind):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        told = _help(kind, field.name, flag)
        found.append(Field(name=field.name, hint=hint, default=default, flag=flag, help=told))
    return sorted(found, key=lambda field: _age(kind, field.name))


def flagged(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Flag]]:
    """The fields of a dataclass that have a flag, each with its type; no docstring is read."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        for each in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(each, Flag):
                yield field, typing.get_args(hints[field.name])[0], each


def _age(kind: type, name: str) -> int:
    """How far up the line of ancestors a field was declared last; 0 in the class itself."""
    return next(
        n for n, each in enumerate(kind.__mro__) if name in vars(each).get("__annotations__", {})
    )


def _help(kind: type, name: str, flag: Flag) -> str:
    told = field_docs(kind).get(name)
    if told is None and flag.of is not None:
        read_as = flag.sets[0].rpartition(".")[2] if flag.sets else name
        told = field_docs(flag.of).get(read_as)
    if told is None:
        raise TypeError(f"{kind.__name__}.{name} is an option without a docstring")
    return first_sentence(told)


def first_sentence(text: str) -> str:
    """A docstring's first sentence, on one line.

    >>> first_sentence("Of a user; 0 = off.\\n\\nMore.")
    'Of a user; 0 = off.'
    >>> first_sentence("A name, e.g. All_Beauty; repeatable. And more.")
    'A name, e.g. All_Beauty; repeatable.'
    """
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])(?<!e\.g\.) (?=[A-Z\"`])", line, maxsplit=1)[0]


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Field -> the docstring that stands below it, of a dataclass and of those it derives from.

    >>> field_docs(Flag)["argument"]
    'Whether it is an argument by its place, not an option.'
    """
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        if not dataclasses.is_dataclass(each):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(below.value.value)
    return docs
