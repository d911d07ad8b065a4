"""Values of a recipe by names with dots, as train.lr."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from pmm.storage.toml import merge


def value_at(recipe: Any, path: str) -> Any:
    """The value of a recipe under a name as train.lr."""
    return reduce(getattr, path.split("."), recipe)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables from names with dots.

    >>> nested({"train.lr": 0.1, "model.width": 8})
    {'train': {'lr': 0.1}, 'model': {'width': 8}}
    """
    layers: list[dict[str, Any]] = []
    for path, value in values.items():
        *sections, key = path.split(".")
        layers.append(reduce(lambda below, name: {name: below}, reversed(sections), {key: value}))
    return merge(*layers)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names with dots from tables.

    >>> flat({"train": {"lr": 0.1}, "model": {"text": {"encoder": "x"}}})
    {'train.lr': 0.1, 'model.text.encoder': 'x'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        table = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if table else {f"{prefix}{key}": value}
    return found


def short_name(path: str) -> str:
    """The last part of a name: lr of train.lr."""
    return path.rpartition(".")[2]


def written(value: Any) -> str | None:
    """A value as a table or a line shows it."""
    return f"{value:g}" if isinstance(value, float) else None if value is None else str(value)
