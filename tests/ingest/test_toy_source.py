"""A source from outside the package: the one that `docs/how-to/add-a-source.md` shows, as it is."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pmm.cli import main
from pmm.errors import InputError
from pmm.ingest.sources.source_registry import SourceEntry, register, source_names, unregister

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-source.md"
TEAS = ("black-assam", "green-sencha", "rooibos")
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's code as a file: help is read from its source."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    path = tmp_path_factory.mktemp("outside") / "diary.py"
    path.write_text(found[0], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(program: Path) -> Iterator[SourceEntry]:
    """What the page's module declares."""
    spec = importlib.util.spec_from_file_location("diary", program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["diary"] = module
    spec.loader.exec_module(module)
    assert isinstance(module.SOURCE, SourceEntry)
    yield module.SOURCE
    del sys.modules["diary"]


@pytest.fixture
def registered(source: SourceEntry) -> Iterator[SourceEntry]:
    register("diary", source, says="A diary of teas.")
    yield source
    unregister("diary")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command: its exit status, and what it prints."""

    def typed(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        told = capsys.readouterr()
        return int(str(ended.value.code)), told.out + told.err

    return typed


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Five drinkers, three teas, five days; one line more without a tea."""
    lines = [
        f"2024-05-{day + 1:02} {who} {TEAS[(day * day + n) % 3]}"
        for n, who in enumerate(("ada", "bea", "cid", "dan", "eva"))
        for day in range(5)
    ]
    path = tmp_path / "teas.txt"
    path.write_text("\n".join([*lines, "2024-05-09 ada"]), encoding="utf-8")
    return path


@pytest.mark.usefixtures("registered")
def test_a_registered_source_becomes_a_target_with_a_card(
    run: Run, diary: Path, tmp_path: Path
) -> None:
    options = ("--raw", diary, "--home", tmp_path, "--missing-image", "text-only")
    status, told = run("ingest", "diary", *options, "--item-core", 0)
    assert status == 0, told
    assert "Next: pmm shard --target Diary" in told
    card = json.loads((tmp_path / "targets" / "diary" / "card.json").read_text())
    assert card["rows"] == {"read": 26, "kept": 25, "dropped": {"malformed row": 1}}
    assert card["detected"] == {"encoding": "utf-8"}
    items = pq.read_table(tmp_path / "targets" / "diary" / "items.parquet")
    assert items["text"].to_pylist() == ["black assam", "green sencha", "rooibos"]


@pytest.mark.usefixtures("registered")
def test_a_registered_source_has_help_under_headings(run: Run) -> None:
    status, told = run("ingest", "diary", "--help")
    assert status == 0
    own, output = told.index("The diary, a text file."), told.index("\nOutput:")
    assert told.index("\nData:") < own < told.index("--user-core") < output < told.index("--home")
    assert told.rstrip().endswith("--missing-image text-only")
    assert "A diary of teas." in run("ingest", "--help")[1]


@pytest.mark.usefixtures("registered")
def test_a_fault_in_a_registered_sources_raw_file_is_an_error_without_a_traceback(
    run: Run, tmp_path: Path
) -> None:
    status, told = run("ingest", "diary", "--raw", tmp_path / "none", "--home", tmp_path)
    assert status == 1
    assert told.startswith("Error: --raw ")


@pytest.mark.parametrize("name", ["diary", "hm"])
def test_a_name_that_is_taken_is_refused(name: str, registered: SourceEntry) -> None:
    with pytest.raises(InputError, match=f'"{name}" already'):
        register(name, registered, says="Another one.")


def test_a_source_is_forgotten_when_it_is_unregistered_and_the_packages_own_stay(
    source: SourceEntry, run: Run
) -> None:
    before = source_names()
    register("diary", source, says="A diary of teas.")
    assert source_names() == [*before, "diary"]
    unregister("diary")
    unregister("hm")
    assert source_names() == before
    assert run("ingest", "diary")[0] == 2


def test_the_pages_program_runs_by_itself(program: Path, diary: Path, tmp_path: Path) -> None:
    options = ["--raw", str(diary), "--home", str(tmp_path), "--missing-image", "text-only"]
    command = [sys.executable, str(program), "ingest", "diary", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "targets" / "diary" / "manifest.json").exists()
