"""The small shop of the evaluation and training tests; what it is made of stands in shop.py."""

import importlib.util
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed may hold half characters, which no report carries to another process."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def load_shop() -> ModuleType:
    path = Path(__file__).with_name("shop.py")
    spec = importlib.util.spec_from_file_location("pmm_tests_shop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shop_maker() -> ModuleType:
    return load_shop()


@pytest.fixture(scope="session")
def shop(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    return shop_maker.open_shop(tmp_path_factory.mktemp("shop"))
