"""Bundles of small runs. The runs are made as those of the recommendations' tests."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def runs(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).parents[1] / "recommend" / "conftest.py")
