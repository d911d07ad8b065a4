"""The small shop of the evaluation and training tests; what it is made of stands in shop.py."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
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


def load_module(path: Path) -> ModuleType:
    name = "pmm_tests_" + "_".join(path.relative_to(Path(__file__).parent).with_suffix("").parts)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def load_shop() -> ModuleType:
    return load_module(Path(__file__).with_name("shop.py"))


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own, of so many bytes; the test skips where none can be mounted."""
    place.mkdir()
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("no small file system can be mounted here: not Linux")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "pmm-test", str(place)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture(scope="session")
def mount_disk() -> Callable[[Path, int], AbstractContextManager[Path]]:
    return mounted


@pytest.fixture(scope="session")
def load_file() -> Callable[[Path], ModuleType]:
    """A module by its place; loaded once."""
    return load_module


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
