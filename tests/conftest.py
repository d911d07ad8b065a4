"""The small shop of the evaluation and training tests; what it is made of stands in shop.py."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Generator
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


@pytest.fixture(scope="session")
def reseal() -> Callable[[Path], None]:
    """Take spoilt files for what was written, so that what is behind the digests is met."""

    def change(place: Path) -> None:
        manifest = json.loads((place / "manifest.json").read_text())
        del manifest["checksum"]
        for name, entry in manifest["files"].items():
            content = (place / name).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (place / "manifest.json").write_text(json.dumps(manifest))

    return change
