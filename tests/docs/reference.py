"""The pages of docs/reference/, made from the code: commands, recipe values, the door for Python.

`PMM_DOCS=write python -m pytest tests/test_docs.py` writes them; without it the test compares.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import typer.main

import pmm.api
from pmm.cli import app
from pmm.flags import field_docs
from pmm.model import registry
from pmm.model.baselines.next_item_baseline import NextItemOptions
from pmm.model.protocol import ModelOptions
from pmm.runs.recipe import Recipe, Start
from pmm.runs.train_options import TrainOptions

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made from the code: PMM_DOCS=write python -m pytest tests/test_docs.py -->"


def pages() -> dict[Path, str]:
    """Each generated page and its text."""
    return {
        FOLDER / "commands.md": commands_page(),
        FOLDER / "recipe.md": recipe_page(),
        FOLDER / "python.md": python_page(),
    }


# --- commands ---------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its options, in the order and under the headings of its help."""
    lines = [
        "# Commands",
        "",
        MADE,
        "",
        "In the order in which data flows. `pmm COMMAND --help` shows the same on a terminal.",
        "Everything lands in one home folder: `--home`, else `$PMM_HOME`, else `./pmm-data`.",
        "",
        "Exit status: 0 done; 1 your input is at fault, with one message and no traceback; 2 the",
        "command line cannot be read; 130 a training or a search was stopped and can go on.",
    ]
    for name, command in walk(typer.main.get_command(app), "pmm"):
        lines += ["", f"## {name}", "", *help_of(command), *options_of(command)]
        lines += ["```bash", command.epilog.removeprefix("Example: "), "```"]
    return "\n".join(lines) + "\n"


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and those below it, with their whole names."""
    yield name, command
    if hasattr(command, "list_commands"):
        for below in command.list_commands(None):
            yield from walk(command.get_command(None, below), f"{name} {below}")


def help_of(command: Any) -> list[str]:
    """Help as Markdown: paragraphs, and what stands on lines of its own as it stands."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(command.help).split("\n\n"):
        if "\b" in paragraph:
            as_it_stands = paragraph.replace("\b", "").strip("\n")
            lines += ["```text", as_it_stands, "```", ""]
        else:
            lines += [" ".join(paragraph.split()), ""]
    return lines


def options_of(command: Any) -> list[str]:
    """A table a heading, of options and arguments with values, defaults and help."""
    by_heading: dict[str, list[tuple[str, ...]]] = {}
    context = typer.Context(command, info_name=command.name)
    for param in command.params:
        if param.name == "help" or getattr(param, "hidden", False):
            continue
        is_argument = param.param_type_name == "argument"
        heading = "Arguments" if is_argument else getattr(param, "rich_help_panel", None)
        by_heading.setdefault(heading or "Options", []).append(option_row(param, context))
    order = ("Arguments", "Data", "Model", "Training", "Search", "Output", "Options")
    lines = []
    for heading in [each for each in order if each in by_heading]:
        rows = by_heading[heading]
        lines += [f"**{heading}**", "", *table(("option", "values", "default", "what"), rows), ""]
    return lines


def option_row(param: Any, context: Any) -> tuple[str, ...]:
    """An option's name, values, default and help."""
    told = param.help or ""
    later = re.search(r" \[([^\[\]]+)\]$", told)  # a default that is decided when it runs
    if later:
        told = told[: later.start()]
    switch = getattr(param, "is_flag", False)
    default = "required" if param.required else later[1] if later else said(param.default)
    if switch or "Sentinel" in default:
        default = ""
    values = "" if switch else values_of(param, context)
    name = (
        param.name.upper()
        if param.param_type_name == "argument"
        else " ".join([*param.opts, *param.secondary_opts])
    )
    return f"`{name}`", values, default, told


def values_of(param: Any, context: Any) -> str:
    """What an option takes, in words."""
    shown = param.get_help_record(context)[0].split(" ", 1)[-1]
    plain = {"<str>": "text", "<int>": "integer", "<float>": "number", "<path>": "path"}
    plain |= {"<list[str]>": "text, repeatable", "NAME=VALUE": "NAME=VALUE, repeatable"}
    return plain.get(shown, shown.strip("<>[]{}").replace("|", ", "))


# --- recipe values ----------------------------------------------------------------------------


def models() -> list[tuple[str, Any, dict[str, Any]]]:
    """Each model: its name, its default options, and how it trains unless told otherwise.

    The only place here that knows how models are registered.
    """
    found = {name: registry.entry(name).settings["default"] for name in registry.models()}
    return [(name, each.options, dict(each.training)) for name, each in found.items()]


BY_NAME = {
    "stage": "From public encoders; on the sources; from a pre-trained run.",
    "model": "The model: its `name`, and what stands in [model] below.",
    "train": "How it is trained: [train] below.",
    "transfer": "The parts that are taken over.",
    "text": "The text encoder.",
    "vision": "The picture encoder.",
    "name": "Which model.",
    "dropout": "Share of values that training sets to zero.",
    "fusion_type_embedding": "Whether the fusion's tokens say which modality they are of (R8).",
    "user_blocks": "Transformer blocks of the user encoder (R33).",
    "user_heads": "Attention heads of the user encoder.",
    "dap_logq": "Popularity correction of the next-item softmax (R14).",
    "dap_reject": "Which columns of the batch are no negatives of a user (R13).",
    "reject": "Which columns of the batch are no negatives of a user (R13).",
    "dap_similarity": "How a user and an item are compared (R16).",
    "tau": "Divides the logits.",
    "weights": "Weights of the objectives in their sum (Eq. 12; R26).",
    "loss": "in_batch: PMMRec's softmax over the batch's items; full: over all items; bce, bpr: "
    "one drawn negative at each input; cosine: over the batch's targets.",
    "dap": "Of next-item prediction (Eq. 5).",
    "nicl": "Of the contrast of text and picture (Eq. 9).",
    "nid": "Of noised item detection (Eq. 10).",
    "rcl": "Of the contrast of a user with its noised self (Eq. 11).",
    "shuffle": "Share of a sequence whose items change places (R29).",
    "replace": "Share of a sequence that other items replace (R29).",
    "pool": "What of the states stands for the sequence (R30).",
}
"""Of fields whose declaration leaves it to their name."""


def recipe_page() -> str:
    """Every value that a recipe can set: its type, default and meaning."""
    lines = [
        "# Recipe values",
        "",
        MADE,
        "",
        "A recipe is a TOML file: `--recipe FILE`. A single value is set by its whole name,",
        "`--set train.schedule=linear`. What counts, from weak to strong: the model's defaults,",
        "the preset, the file, the command's options, `--set`. An unknown name is refused with",
        "the nearest known one. `recipe.toml` in a run's folder holds all values of that run.",
        "",
        "Numbers such as R14 stand on [the page of decisions](../paper.md).",
        "",
        "## Top level",
        "",
        "The command's options set these.",
        "",
        *rows_of(Recipe(start=Start(run="")), "", skip=("model", "train")),
        "",
        "## [train]",
        "",
        *rows_of(TrainOptions(), "train."),
    ]
    for name, options, training in models():
        told = ", ".join(f"`train.{key} = {said(value)}`" for key, value in training.items())
        lines += ["", f"## [model] of {name}", ""]
        lines += [f"Trains with {told} unless told otherwise.", ""] if told else []
        lines += rows_of(options, "model.")
    return "\n".join(lines) + "\n"


def rows_of(options: Any, prefix: str, skip: Iterable[str] = ()) -> list[str]:
    """The table of a dataclass's fields; those of nested ones by their whole names."""
    rows = list(_rows(options, prefix, frozenset(skip)))
    return table(("name", "values", "default", "what"), rows)


def _rows(options: Any, prefix: str, skip: frozenset[str]) -> Iterator[tuple[str, ...]]:
    kind, hints = type(options), typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        if field.name in skip:
            continue
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{prefix}{field.name}.", frozenset())
            continue
        told = field_docs(kind).get(field.name) or BY_NAME.get(field.name) or asked(field.name)
        assert told, f"{kind.__name__}.{field.name} says nothing of itself"
        yield f"`{prefix}{field.name}`", hint_in_words(hints[field.name]), said(value), told


def asked(name: str) -> str | None:
    """What is said of an option where options are asked for it: in the protocols of a model."""
    for protocol in (NextItemOptions, ModelOptions):
        if isinstance(vars(protocol).get(name), property):
            return inspect.getdoc(vars(protocol)[name])
    return None


def hint_in_words(hint: Any) -> str:
    """A type as a reader of a recipe sees it: words of a choice, text, a number.

    >>> hint_in_words(int | Literal["all"])
    'integer, all'
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(said, inner))
    if origin in (typing.Union, types.UnionType):
        return ", ".join(hint_in_words(each) for each in inner if each is not type(None))
    if origin is tuple:
        return f"list of {hint_in_words(inner[0])}"
    names = {str: "text", int: "integer", float: "number", bool: "true, false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


# --- the door for Python ----------------------------------------------------------------------


def python_page() -> str:
    """The functions of `pmm.api` and `Run`, from their signatures and docstrings."""
    lines = [
        "# Python",
        "",
        MADE,
        "",
        "```python",
        "import pmm",
        "",
        'pmm.ingest("csv", name="shop", interactions="ratings.csv", items="items.csv")',
        'pmm.shard(target="shop")',
        'run = pmm.train(target="shop", model="sasrec")',
        "pmm.evaluate(run.place)",
        "print(run.metrics)",
        "```",
        "",
        "The stages are functions. Each takes the options of the [command](commands.md) of its",
        "name as keywords, with `_` for `-`, so options are declared once;",
        "`examples/first_steps.py` runs most of them. Where a path is asked for, a string does as",
        "well. The examples below run in the tests, in a home folder that holds a tiny shop.",
    ]
    functions = ("ingest", "shard", "cache", "train", "tune", "compare_encoders")
    functions += ("evaluate", "compare", "recommend", "load")
    for name in functions:
        function = getattr(pmm.api, name)
        lines += ["", f"## pmm.{name}", "", *code(signature_of(name, function))]
        lines += ["", *docstring(function)]
    lines += ["", "## pmm.Run", "", *docstring(pmm.api.Run)]
    for field, told in field_docs(pmm.api.Run).items():
        lines += ["", f"### Run.{field}", "", told]
    for name, member in vars(pmm.api.Run).items():
        if isinstance(member, property):
            lines += ["", f"### Run.{name}", "", *docstring(member.fget)]
    lines += ["", "## pmm.PmmError", "", *docstring(pmm.PmmError)]
    return "\n".join(lines) + "\n"


def signature_of(name: str, function: Any) -> str:
    """A call with its options, those that must be given first."""
    needed, more = [], []
    for each in inspect.signature(function).parameters.values():
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            more.append(f"**{each.name}")
        elif each.default is inspect.Parameter.empty:
            needed.append(each.name)
        else:
            more.append(f"{each.name}={default_shown(each.default)}")
    shown = needed + more
    line = f"pmm.{name}({', '.join(shown)})"
    inner = "".join(f"    {each},\n" for each in shown)
    return line if len(line) <= 88 else f"pmm.{name}(\n{inner})"


def default_shown(value: Any) -> str:
    """A default; a path without its class."""
    return json.dumps(str(value)) if isinstance(value, Path | str) else repr(value)


def docstring(thing: Any) -> list[str]:
    """A docstring as Markdown: its sections as bold words, its examples as code."""
    lines: list[str] = []
    for block in inspect.cleandoc(thing.__doc__).split("\n\n"):
        first, *rest = block.split("\n")
        if first.startswith(">>>"):
            lines += code(block)
        elif first in ("Args:", "Returns:", "Raises:"):
            items = re.sub(r"\n {8,}", " ", "\n".join(rest)).split("\n")
            if first == "Returns:":
                items = [" ".join(each.strip() for each in items)]
            lines += [f"**{first[:-1]}**", "", *(f"- {in_html(each.strip())}" for each in items)]
        else:
            lines += [in_html(" ".join(block.split()))]
        lines.append("")
    return lines[:-1]


# --- Markdown ---------------------------------------------------------------------------------


def code(text: str) -> list[str]:
    """A block of Python."""
    return ["```python", text, "```"]


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table, without the columns that are empty in every row."""
    kept = [n for n in range(len(heads)) if any(row[n] for row in rows)]
    lines = [f"| {' | '.join(heads[n] for n in kept)} |", f"|{'---|' * len(kept)}"]
    for row in rows:
        lines.append(f"| {' | '.join(cell(row[n]) for n in kept)} |")
    return lines


def cell(text: str) -> str:
    """Text on one line that ends no cell."""
    return in_html(" ".join(text.split())).replace("|", "&#124;")


def in_html(text: str) -> str:
    """Text whose `<` and `[` are no markup; what stands in backticks is left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    outside = [part if n % 2 else part.replace("<", "&lt;") for n, part in enumerate(parts)]
    return "".join(outside)


def said(value: Any) -> str:
    """A value as a recipe or a command line has it.

    >>> said(1e-4), said(True), said(None), said(())
    ('1e-4', 'true', '', '')
    """
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(said, value))
    return str(value)
