"""The shape of the code base: imports point upstream, names say what is inside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pmm"
ROOMS = ("world", "ingest", "shards", "model", "evaluate", "train")
SHARED = {"errors", "cores", "schemas", "home", "artefact", "progress", "recipe", "text_table"}
EVERYTHING = {
    "cli",
    "cli_ingest",
    "demo",
    "demo_datasets",
    "inspect",
    "tune",
    "__main__",
    "__init__",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The rooms and shared modules of pmm that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in found if name.split(".")[0] == "pmm"]
    return {part[1] for part in parts if len(part) > 1} - {"__version__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upstream(path: Path) -> None:
    room = room_of(path)
    if room in EVERYTHING:
        return
    upstream = set(ROOMS[: ROOMS.index(room) + 1]) if room in ROOMS else set()
    assert imported(path) <= SHARED | upstream


def test_every_module_belongs_to_a_room_or_is_shared_by_all() -> None:
    assert {room_of(path) for path in SOURCES} == set(ROOMS) | SHARED | EVERYTHING


def test_no_name_is_vague() -> None:
    names = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & VAGUE


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and path.name not in ("cli.py", "cli_ingest.py"):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.name} ({length})")
    assert not long


def test_every_public_function_and_class_says_what_it_does() -> None:
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in [tree, *tree.body]:
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                name = getattr(node, "name", path.stem)
                if (not name.startswith("_")) and not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(ROOT)}:{name}")
    assert not silent


@pytest.mark.parametrize("room", ["pmm.ingest", "pmm.world", "pmm.cli"])
def test_early_rooms_and_the_command_line_start_without_torch(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if ".".join(path.relative_to(ROOT).with_suffix("").parts).startswith(room)
        and path.name != "__init__.py"
    ]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_no_file_of_the_project_names_a_machine_or_a_registry() -> None:
    forbidden = ["/wor" + "k/", "file" + "s.pythonhosted", "/ro" + "ot/", "pypi" + ".org"]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    texts = [ROOT / name for name in listed if name.endswith((".py", ".md", ".toml", ".txt"))]
    assert [
        f"{path.name}: {word}"
        for path in texts
        if path.is_file()
        for word in forbidden
        if word in path.read_text(encoding="utf-8")
    ] == []
