"""A search space made to fit a recipe: without what is given or cannot count."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pmm.errors import InputError
from pmm.model.search_space import Choice, Interval, Space
from pmm.runs.recipe import Recipe
from pmm.storage.dotted_names import value_at

_WIDTH = "model.width"
_STRUCTURE = frozenset(
    {_WIDTH, "model.user_encoder", "model.user_positions", "model.user_convolution"}
    | {"model.user_norm"}
)
"""Not searched in fine-tuning: the run that it starts from has decided it."""


def fit_space(space: Space, base: Recipe, given: set[str]) -> Space:
    """A space without what was given or cannot count, and with the defaults inside.

    Raises:
        InputError: nothing is left.
    """
    fixed = given | (_STRUCTURE if base.stage == "finetune" else set())
    left = {path: each for path, each in space.items() if path not in fixed}
    fitted: Space = {}
    heads = getattr(base.model, "user_heads", 1)  # of which a width must be a multiple
    for path, each in left.items():
        if not any(counts(each, chosen, base) for chosen in _ways(left, base)):
            continue
        usual = [_usual_value(path, each, base)] if counts(each, {}, base) else []
        if isinstance(each, Interval):
            bounds = [each.low, each.high, *usual]
            fitted[path] = replace(each, low=min(bounds), high=max(bounds))
        else:
            kept = [v for v in each.values if path != _WIDTH or v % heads == 0]
            options = kept + [v for v in usual if v not in kept]
            fitted[path] = replace(each, values=tuple(options))
    if not fitted:
        raise InputError(
            f"every value that a search of {base.model.name} tries is given "
            f"({', '.join(space)}), so there is nothing to search: give fewer"
        )
    return fitted


def stands_for_another(each: Interval | Choice) -> bool:
    """Whether a 0 there means a value that follows from others."""
    return isinstance(each, Interval) and bool(each.instead_of_zero)


def _usual_value(path: str, each: Interval | Choice, base: Recipe) -> Any:
    """What a recipe has there, be it that 0 stands for it."""
    found = value_at(base, path)
    if isinstance(each, Interval) and each.instead_of_zero and not found:
        return getattr(base.model, each.instead_of_zero)
    return found


def _ways(space: Space, base: Recipe) -> Iterator[dict[str, Any]]:
    """Choices on which others depend, one at a time, to see what can count at all."""
    yield {}
    for path, each in space.items():
        if isinstance(each, Choice) and counts(each, {}, base):
            yield from ({path: value} for value in each.values)


def counts(each: Interval | Choice, chosen: Mapping[str, Any], base: Recipe) -> bool:
    """Whether a value says anything beside those chosen, or else those of the base."""
    return all(
        (chosen[path] if path in chosen else value_at(base, path)) in allowed
        for path, allowed in each.only.items()
    )
