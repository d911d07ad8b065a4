"""PMM: recommenders that know items by what they say and show (PMMRec, ICDE 2024).

The stages are functions, with the options of the commands of the same names::

    import pmm

    pmm.ingest("csv", name="shop", interactions="ratings.csv", items="items.csv", images="pictures")
    pmm.shard(target="shop")
    run = pmm.train(target="shop")
    pmm.evaluate(run.place)
    run.metrics["model"]["hr@10"]
    run.ranks  # a Polars frame: user, target, rank, candidates, train_count

`ingest`, `train`, `tune`, `evaluate` and `recommend` are rooms of the code, too
(`pmm.train.trainer`): these packages can be called. Nothing heavy is imported before the first
call.
"""

import importlib
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pmm.errors import PmmError
from pmm.version import __version__

if TYPE_CHECKING:
    from pmm.api import (
        Run,
        cache,
        compare,
        compare_encoders,
        evaluate,
        ingest,
        load,
        recommend,
        shard,
        train,
        tune,
    )

__all__ = [
    "PmmError",
    "Run",
    "__version__",
    "cache",
    "compare",
    "compare_encoders",
    "evaluate",
    "ingest",
    "load",
    "recommend",
    "shard",
    "train",
    "tune",
]


class _Stage(ModuleType):
    """A package that is also the function of its name in `pmm.api`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _of_api(self.__name__.partition(".")[2])(*args, **options)

    @property
    def __signature__(self) -> Any:
        return importlib.import_module("inspect").signature(
            _of_api(self.__name__.partition(".")[2])
        )


def _of_api(name: str) -> Any:
    return getattr(importlib.import_module("pmm.api"), name)


logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that imports it decides

for _name in ("ingest", "train", "tune", "evaluate", "recommend"):
    importlib.import_module(f"pmm.{_name}")
    sys.modules[f"pmm.{_name}"].__class__ = _Stage


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pmm' has no attribute {name!r}")
    return _of_api(name)


def __dir__() -> list[str]:
    return sorted(__all__)
