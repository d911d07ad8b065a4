"""Recipes: TOML files that fill frozen dataclasses.

Each stage declares its options as a frozen, keyword-only dataclass beside the code that reads them;
a recipe is a dataclass of such sections. Unknown keys and values of the wrong type are errors, all
reported at once. The resolved recipe (every value, defaults included) is saved with every run.
"""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import tomli_w

from pmm.errors import InputError, RecipeError, nearest
from pmm.storage.seal import require_sealed

Options = TypeVar("Options")


NAMED = "named"
"""Key of a field's metadata, with a `Named`."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """Of a field whose table says under `name` which dataclass it fills.

    It stands in the field's metadata, so that what there is to choose from may grow: a recipe's
    model is looked up among those that are registered.
    """

    names: Callable[[], Sequence[str]]
    """All names."""
    kind: Callable[[str], type[Any]]
    """The dataclass of a name."""
    default: str
    """Where the table says none."""


_LARGEST = 1 << 20
"""Bytes of a TOML file that is read (1 MiB)."""
# Names with dots cost the square of their parts: 16 kB of them took two seconds.
_DEEP = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){100}""")


def read_recipe(path: Path) -> dict[str, Any]:
    """The nested values of a TOML file.

    Raises:
        InputError: there is no such file.
        RecipeError: it is no TOML.
        BrokenArtefact: a run or a search wrote it, and it is not what was written.
    """
    try:
        require_sealed(path, again="Train or search again with --overwrite")
        return parse_toml(path, "utf-8")
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {path} is no valid TOML: {error}") from error


def parse_toml(path: Path, encoding: str) -> dict[str, Any]:
    """What a TOML file holds, in time proportional to its length.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML, or larger or deeper than anything that a person writes.
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST >> 20} MiB")
    text = path.read_text(encoding=encoding)
    if _DEEP.search(text):
        raise ValueError("a name of a hundred parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("tables within tables without end") from error


def read_recipe_beside(path: Path) -> dict[str, Any]:
    """As `read_recipe`, with values that begin with "./" taken from the recipe's own folder.

    So a recipe can lie beside the encoders that it names, and be used from anywhere.
    """
    folder = path.absolute().parent

    def anchored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: anchored(below) for key, below in value.items()}
        beside = isinstance(value, str) and value.startswith("./")
        return str(folder / value) if beside else value

    found: dict[str, Any] = anchored(read_recipe(path))
    return found


def resolve(kind: type[Options], values: Mapping[str, Any], *, origin: str = "recipe") -> Options:
    """Fill a (nested) frozen dataclass with values; what is not given keeps its default.

    Args:
        kind: the dataclass.
        values: nested tables, as TOML gives them.
        origin: where the values come from, for the error.

    Raises:
        RecipeError: unknown keys (with the nearest known one) or values of the wrong type, all of
            them in one message.

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Rates:
    ...     rate: float = 0.1
    ...     pool: Literal["mean", "cls"] = "mean"
    >>> resolve(Rates, {"rate": 1})
    Rates(rate=1.0, pool='mean')
    >>> resolve(Rates, {"rte": 1, "pool": "max"})
    Traceback (most recent call last):
    pmm.errors.RecipeError: recipe: unknown key "rte" (did you mean "rate"?); \
pool = 'max' should be one of 'mean', 'cls'
    """
    faults: list[str] = []
    filled = _fill(kind, values, "", faults)
    if faults:
        raise RecipeError(f"{origin}: " + "; ".join(faults))
    return typing.cast(Options, filled)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables laid over one another; the later one wins, but None says nothing.

    >>> merge({"train": {"lr": 1, "seed": 0}}, {"train": {"lr": 2}})
    {'train': {'lr': 2, 'seed': 0}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if value is None:
                continue
            below = merged.get(key)
            both = isinstance(value, Mapping) and isinstance(below, Mapping)
            nested = merge(below, value) if both else value  # type: ignore[arg-type]
            merged[key] = merge(nested) if isinstance(nested, Mapping) else nested
    return merged


def dump(recipe: Any, *, header: str = "") -> str:
    """A recipe as TOML, every value written out; values that are None are left out.

    Args:
        recipe: a (nested) dataclass.
        header: comment lines to stand on top, without `#`.
    """
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + tomli_w.dumps(_plain(dataclasses.asdict(recipe)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items() if below is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _fill(kind: type[Any], values: Mapping[str, Any], prefix: str, faults: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    named = {field.name: field.metadata.get(NAMED) for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            faults.append(f'unknown key "{prefix}{key}" ({nearest(key, names)})')
        elif chooser := named[key]:
            given[key] = _fill_named(chooser, value, f"{prefix}{key}", faults)
        else:
            given[key] = _convert(hints[key], value, f"{prefix}{key}", faults)
    for field in dataclasses.fields(kind):
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if bare and field.name not in values:
            faults.append(f'"{prefix}{field.name}" is missing')
    if faults:
        return None
    try:
        return kind(**given)
    except ValueError as error:  # a range that the dataclass checks itself
        faults.append(f"{prefix or kind.__name__}: {error}")
        return None


def _convert(hint: Any, value: Any, name: str, faults: list[str]) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _fill(hint, value, f"{name}.", faults)
        faults.append(f"{name} should be a table, found {value!r}")
        return None
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            faults.append(f"{name} = {value!r} should be one of {', '.join(map(repr, choices))}")
        return value
    if origin in (Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        words = [w for each in inner for w in typing.get_args(each) if isinstance(w, str)]
        others = [each for each in inner if typing.get_origin(each) is not Literal]
        if value is not None and words and (isinstance(value, str) or not others):
            if value not in words:
                kinds = [each.__name__ for each in others]
                wanted = ", ".join([*map(repr, words), *(f"of type {kind}" for kind in kinds)])
                faults.append(f"{name} = {value!r} should be one of {wanted}")
            return value
        return value if value is None else _convert((others or inner)[0], value, name, faults)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            faults.append(f"{name} should be a list, found {value!r}")
            return None
        element = typing.get_args(hint)[0]
        return tuple(_convert(element, each, name, faults) for each in value)
    return _scalar(hint, value, name, faults)


def _fill_named(named: Named, value: Any, name: str, faults: list[str]) -> Any:
    """The dataclass that a table names; None (and a fault) where there is no such one."""
    if not isinstance(value, Mapping):
        faults.append(f"{name} should be a table, found {value!r}")
        return None
    chosen, names = value.get("name", named.default), list(named.names())
    if chosen not in names:
        known = ", ".join(map(repr, names))
        faults.append(f"{name}.name = {chosen!r} should be one of {known}")
        return None
    return _fill(named.kind(chosen), value, f"{name}.", faults)


def _scalar(hint: Any, value: Any, name: str, faults: list[str]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        faults.append(f"{name} = {value!r} should be of type {hint.__name__}")
    return value


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Nested values from `section.key=value`; the value is TOML, or a plain word.

    >>> parse_assignments(["train.lr=1e-3", "model.pool=cls"])
    {'train': {'lr': 0.001}, 'model': {'pool': 'cls'}}

    Raises:
        RecipeError: there is no `=`.
    """
    layers = []
    for text in texts:
        path, sign, raw = text.partition("=")
        if not sign or not path.strip():
            raise RecipeError(f"{text!r} should read section.key=value")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw.strip()
        layer: dict[str, Any] = {}
        below = layer
        *sections, key = path.strip().split(".")
        for section in sections:
            below = below.setdefault(section, {})
        below[key] = value
        layers.append(layer)
    return merge(*layers)
