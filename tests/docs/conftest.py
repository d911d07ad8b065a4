"""What stands beside the tests of the docs: modules that are loaded by their place."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """A module of this folder."""
    known = f"pmm_docs_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    return load("pages")


@pytest.fixture(scope="session")
def after_my_shop(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder at the end of the tutorial "My shop's CSV", which has been run in it."""
    folder = tmp_path_factory.mktemp("my-shop")
    said = pages.run_page(pages.DOCS / "tutorials" / "my-shop.md", folder)
    (folder / "said.txt").write_text(said, encoding="utf-8")
    return folder


@pytest.fixture
def readers_folder(after_my_shop: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(after_my_shop, tmp_path, dirs_exist_ok=True)
    return tmp_path
