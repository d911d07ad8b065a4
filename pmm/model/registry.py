"""The table of models: name -> the module that has it, and what it knows an item by.

Reading the table loads no torch; a model's module is imported when the model is asked for. One that
is not of this package is added with `register`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from pmm.errors import InputError, nearest
from pmm.model.model_entry import ModelEntry
from pmm.model.search_space import Space

DEFAULT_MODEL = "pmmrec"
"""What is trained where nobody names a model."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A line of the table."""

    knows: str
    """What the model knows of an item, and where it was published; a line of help."""
    module: str = ""
    """Has the model's entry as ENTRY; empty where the entry was registered."""


def _own(module: str, knows: str) -> Listed:
    return Listed(module=f"pmm.model.{module}", knows=knows)


_TABLE: dict[str, Listed] = {
    "pmmrec": _own(
        "pmmrec.pmmrec_entry", "its text and picture, by encoders that train; transfers"
    ),
    "morec": _own(
        "baselines.morec",
        "the same without fusion of tokens and without further objectives; transfers "
        "(MoRec++; Yuan et al. 2023)",
    ),
    "sasrec": _own("baselines.sasrec", "its id (Kang and McAuley 2018)"),
    "gru4rec": _own("baselines.gru4rec", "its id (Hidasi et al. 2016)"),
    "nextitnet": _own("baselines.nextitnet", "its id (Yuan et al. 2019)"),
    "fdsa": _own("baselines.fdsa", "its id and a frozen vector of its text (Zhang et al. 2019)"),
    "carca": _own(
        "baselines.carca",
        "its id and frozen vectors of text and picture (CARCA++; Rashed et al. 2022)",
    ),
    "unisrec": _own(
        "baselines.unisrec", "a frozen vector of its text; transfers (Hou et al. 2022)"
    ),
    "vqrec": _own(
        "baselines.vqrec", "codes of a frozen vector of its text; transfers (Hou et al. 2023)"
    ),
    "peterrec": _own(
        "baselines.peterrec",
        "frozen vectors of text and picture; transfers by adapters (Yuan et al. 2020, on ids; on "
        "vectors it is our extension)",
    ),
}
_OWN = frozenset(_TABLE)
_registered: dict[str, ModelEntry] = {}


def models() -> Mapping[str, Listed]:
    """Every model by name, in the order of help; PMMRec first, registered ones last."""
    return _TABLE


def entry(name: str) -> ModelEntry:
    """What a model says of itself; its module is imported.

    Raises:
        InputError: no model has that name; the nearest one is named.
    """
    if name in _registered:
        return _registered[name]
    if name not in _TABLE:
        raise InputError(f'there is no model "{name}": {nearest(name, _TABLE)}')
    found: ModelEntry = importlib.import_module(_TABLE[name].module).ENTRY
    return found


def register(made: ModelEntry, knows: str = "") -> None:
    """Add a model from outside of this package, under its options' `name`; twice replaces it.

    Args:
        made: its entry.
        knows: what it knows of an item; a line of help.

    Raises:
        InputError: the name is one of this package's.
    """
    name = made.settings["default"].options.name
    if name in _OWN:
        raise InputError(f'the model "{name}" is part of pmm: give yours another name')
    _registered[name] = made
    _TABLE[name] = Listed(knows=knows or made.knows_by)


def space_of(name: str) -> Space:
    """What `pmm tune` searches of a model; errors as `entry`.

    >>> list(space_of("nextitnet"))[:3]
    ['train.lr', 'train.weight_decay', 'model.width']
    """
    return dict(entry(name).space)
