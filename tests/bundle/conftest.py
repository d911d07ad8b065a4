"""Bundles of small runs. The runs are made as those of the recommendations' tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_runs() -> ModuleType:
    path = Path(__file__).parents[1] / "recommend" / "conftest.py"
    spec = importlib.util.spec_from_file_location("pmm_tests_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    return load_runs()
