"""Commands made of requests: the flags of a dataclass become the options of a command.

A command is a request, the dataclass of all that can be asked of it, and a function of one. Options
are listed under headings by what they are about.
"""

import dataclasses
import inspect
import shlex
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from pmm.errors import nearest
from pmm.flags import Field, flags_of

Request = TypeVar("Request")

HEADINGS: dict[str, str] = {
    "data": "Data",
    "model": "Model",
    "training": "Training",
    "search": "Search",
    "output": "Output",
}
"""Group of a flag -> heading in help, in this order."""


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by heading, then what every command has."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                heading = "Arguments" if is_argument else getattr(param, "rich_help_panel", None)
                rows.setdefault(heading or "Other options", []).append(record)
        for heading in ("Arguments", *HEADINGS.values(), "Other options"):
            if heading in rows:
                with formatter.section(heading):
                    formatter.write_dl(rows[heading])


class LazyGroup(TyperGroup):
    """A group whose commands are made when they are used, so that its own help answers at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Only the names are read of these: what a misspelt command could have meant.
        self.commands = dict.fromkeys(self.lines())  # type: ignore[assignment]

    def lines(self) -> dict[str, str]:
        """Name of a command -> one line on it, in the order of help."""
        raise NotImplementedError

    def make(self, name: str) -> Any:
        """The command of a name that `lines` lists."""
        raise NotImplementedError

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of help."""
        del ctx
        return list(self.lines())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; None where there is none of that name."""
        del ctx
        return self.make(cmd_name) if cmd_name in self.lines() else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines().items()))


def make_group(commands: type[LazyGroup], says: str, example: str) -> Any:
    """A command that only holds others: one line on it, and an example of one of them."""
    app = typer.Typer(
        cls=commands,
        help=says,
        epilog=f"Example: {example}",
        no_args_is_help=True,
        rich_markup_mode=None,
    )

    @app.callback()
    def nothing() -> None:
        """With one command alone Typer would make no group."""

    return typer.main.get_group(app)


def make_command(
    name: str, request: type[Request], run: Callable[[Request], None], *, example: str
) -> GroupedCommand:
    """A command that makes a request of its options and runs it.

    Args:
        name: of the command.
        request: a dataclass; its fields with a `Flag` are the options.
        run: what the command does; its docstring is the command's help.
        example: with which help ends.
    """
    fields = flags_of(request)

    def command(**given: Any) -> None:
        run(request(**{field.name: _value(field, given[field.name]) for field in fields}))

    parameters = [_parameter(field) for field in fields]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = run.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, epilog=f"Example: {example}", cls=GroupedCommand)(command)
    made = typer.main.get_command(app)
    assert isinstance(made, GroupedCommand)
    return made


def typed_command(leave_out: str = "") -> str:
    """The command as the user typed it, without one of its options."""
    return shlex.join(["pmm", *(each for each in sys.argv[1:] if each != leave_out)])


def _parameter(field: Field) -> inspect.Parameter:
    """A field as a parameter that typer understands."""
    flag, hint, default = field.flag, field.hint, field.default
    shown = f" [{flag.shown}]" if flag.shown else ""
    extras: dict[str, Any] = {"help": f"{field.help}{shown}"}
    if flag.metavar:
        extras["metavar"] = flag.metavar
    element = _element(hint)
    if flag.choices is not None:
        extras["parser"] = _one_of(field)
        extras["metavar"] = f"[{'|'.join(flag.choices())}]"
        hint = str if default is dataclasses.MISSING else str | None
    elif element is not None and flag.commas:
        hint, default = str | None, None
    elif element is not None:
        hint = list[element] if default is dataclasses.MISSING else list[element] | None  # type: ignore[valid-type]
        default = default if default is dataclasses.MISSING else None
    elif not _plain(hint):  # as an int or a word: what it means is decided in `_value`
        hint = str | None
    if flag.argument:
        told = typer.Argument(**extras)
    else:
        name = flag.name or f"--{field.name.strip('_').replace('_', '-')}"
        # A switch that is off needs no --no-... beside it.
        told = typer.Option(name, rich_help_panel=HEADINGS[flag.group], **extras)
    absent = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=absent,
        annotation=Annotated[hint, told],
    )


def _element(hint: Any) -> Any:
    """The type of a tuple's elements; None of anything else."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def _plain(hint: Any) -> bool:
    """Whether typer reads the type itself: one of its own, a Literal, or one of these or None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return len(inner) == 1 and _plain(inner[0])
    return hint in (int, float, str, bool, Path) or typing.get_origin(hint) is Literal


def _value(field: Field, given: Any) -> Any:
    """What the dataclass is given for what was typed."""
    if _element(field.hint) is not None:
        if field.flag.commas and given is not None:
            given = [each.strip() for each in given.split(",") if each.strip()]
        return tuple(given or ())
    if isinstance(given, str) and not _plain(field.hint) and given.isdecimal():
        return int(given)
    return given


def _one_of(field: Field) -> Callable[[str], str]:
    """A parser that refuses what is not among a flag's choices, and names the nearest."""
    assert field.flag.choices is not None
    known = field.flag.choices

    def parse(text: str) -> str:
        if text not in known():
            name = field.flag.name or f"--{field.name}"
            raise typer.BadParameter(f"{text!r}: {nearest(text, known())}", param_hint=name)
        return text

    return parse
