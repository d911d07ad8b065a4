"""The golden tests: what must not change while the code is moved about.

Each compares with a file beside it. After a change that is meant, all of them are written anew by

    PMM_GOLDEN=write python -m pytest tests/golden

and the difference is looked at before it is committed. The runs below runs/ are kept as they are
(they stand for those that users have); only PMM_GOLDEN=runs trains them again, and writes the rest.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

for _name in ("subjects", "compare"):
    _path = Path(__file__).with_name(f"{_name}.py")
    _spec = importlib.util.spec_from_file_location(f"pmm_golden_{_name}", _path)
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[_spec.name] = _module
    _spec.loader.exec_module(_module)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with the tiny world: every format ingested, one target of each sharded."""
    subjects, compare = (sys.modules[f"pmm_golden_{name}"] for name in ("subjects", "compare"))
    found = subjects.make_home(tmp_path_factory.mktemp("golden"))
    for name in subjects.MADE_BEFORE if compare.TRAINING else ():
        subjects.train_again(found, name)
    return found


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Text encoder and vision tower of random weights."""
    found: tuple[Path, Path] = sys.modules["pmm_golden_subjects"].small_encoders(
        tmp_path_factory.mktemp("encoders")
    )
    return found
