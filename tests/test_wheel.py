"""The wheel holds all that the program needs, under the name that belongs to it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, as a build leaves folders behind where it runs."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "pmm", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    subprocess.run([*build, folder / "source"], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_distribution_is_called_pmmrec_and_is_typed(wheel: Path) -> None:
    assert wheel.name.startswith("pmmrec-")
    names = zipfile.ZipFile(wheel).namelist()
    assert "pmm/py.typed" in names
    assert {f"pmm/report/page/report.{kind}" for kind in ("css", "html", "js")} <= set(names)
    assert [n for n in names if n.startswith("pmm/world/encoders/") and n.endswith(".safetensors")]
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pmm/serve/page").iterdir()}
    assert page <= set(names)
    assert any(name.endswith("page.html") for name in page)
    about = wheel.stem.partition("-py3")[0] + ".dist-info"
    assert {name.partition("/")[0] for name in names} == {"pmm", about}
    disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pmm").rglob("*.py")}
    assert disk <= set(names)


def test_the_program_starts_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment; CI installs them anew (`make wheel`)."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, 'site'); import pmm; "
        "assert pmm.__file__.startswith(sys.argv[1]), pmm.__file__; "
        "from pmm.cli import main; main(['world', '--size', 'tiny', '--to', 'raw'])"
    )
    run = [sys.executable, "-I", "-c", program, str(tmp_path)]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "raw" / "articles.csv").is_file()
