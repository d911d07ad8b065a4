"""The README, the docs and the command line's help say what is true."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from pmm.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")])
WRITE = os.environ.get("PMM_DOCS") == "write"
"""Whether what is made from the code is written anew: the tree, docs/reference/, docs/rooms.png."""


def commands(command: Any, name: str) -> list[tuple[str, Any]]:
    found = [(name, command)]
    if hasattr(command, "list_commands"):
        for below in command.list_commands(None):
            found += commands(command.get_command(None, below), f"{name} {below}")
    return found


COMMANDS = commands(typer.main.get_command(app), "pmm")


ARCHITECTURE = ROOT / "docs" / "architecture.md"
ORDER = ("storage", "world", "ingest", "shards", "data", "model", "runs", "evaluate", "train")
"""Of the folders, as data flows; `model/` and the others have the order of tests/test_structure.py.
"""


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".")


def tree(folder: Path, depth: int = 0) -> list[str]:
    """A line for each folder and module: its name and what its docstring says first."""
    said = "" if depth == 0 else first_line(folder / "__init__.py")
    lines = [f"{'  ' * depth}{folder.name + '/':<{30 - 2 * depth}} {said}".rstrip()]
    folders = [each.parent for each in folder.glob("*/__init__.py")]
    for each in sorted(folders, key=lambda f: (ORDER.index(f.name) if f.name in ORDER else 99, f)):
        lines += tree(each, depth + 1)
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            lines.append(f"{'  ' * (depth + 1)}{path.name:<{28 - 2 * depth}} {first_line(path)}")
    return lines


def test_the_tree_of_the_architecture_page_is_the_tree_on_disk() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    found = "\n".join(tree(ROOT / "pmm"))
    written = re.sub(
        r"```text\n.*?```", lambda _: f"```text\n{found}\n```", text, count=1, flags=re.DOTALL
    )
    if WRITE:
        ARCHITECTURE.write_text(written, encoding="utf-8")
    assert ARCHITECTURE.read_text(encoding="utf-8") == written


def beside(name: str) -> ModuleType:
    """A module of tests/docs/."""
    known = f"pmm_docs_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, ROOT / "tests" / "docs" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.mark.parametrize("page", ["commands.md", "recipe.md", "python.md"])
def test_the_reference_is_what_the_code_says(page: str) -> None:
    reference = beside("reference")
    path = reference.FOLDER / page
    made = reference.pages()[path]
    if WRITE:
        path.write_text(made, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == made


def test_the_picture_of_the_rooms_shows_the_imports_of_the_code() -> None:
    """By the picture's own description: its bytes depend on the version of what draws it."""
    rooms = beside("rooms")
    if WRITE and rooms.description_of(rooms.PICTURE) != rooms.described():
        rooms.draw(rooms.PICTURE)
    assert rooms.description_of(rooms.PICTURE) == rooms.described()


def test_the_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_has_help_that_ends_in_an_example(name: str, command: Any) -> None:
    assert command.help
    assert command.epilog
    assert f"{name} " in f"{command.epilog} "
    assert command.epilog.startswith("Example: ")
    for option in command.params:
        assert getattr(option, "help", "given") or option.name == "help", option.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists_with_its_options(page: Path) -> None:
    known = dict(COMMANDS)
    whole_lines = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:\$ )?(pmm(?: [a-z]+)+.*)$", whole_lines, re.MULTILINE):
        words = line.split("#")[0].split()
        name = max((n for n in known if words[: len(n.split())] == n.split()), key=len)
        assert name != "pmm" or words[1].startswith("-"), line
        options = {text for param in known[name].params for text in param.opts}
        used = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
        assert used <= options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:pmm|tests|benchmarks|recipes|docs)/[\w/.-]+\.\w+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_help_answers_at_once() -> None:
    """0.5 s is the promise; five tries, the best counts, since a shared machine stalls."""
    best = 10.0
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pmm", "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    assert best < 0.5


def test_every_decision_that_the_code_cites_stands_on_the_paper_page() -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    listed = [
        int(number)
        for row in re.findall(r"^\| (R\d+(?:, R\d+)*) \|", page, re.MULTILINE)
        for number in re.findall(r"R(\d+)", row)
    ]
    assert listed == sorted(set(listed))
    for path in (ROOT / "pmm").rglob("*.py"):
        cited = {int(number) for number in re.findall(r"\bR(\d+)\b", path.read_text())}
        assert cited <= set(listed), path


def test_the_functions_that_the_paper_page_names_exist() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    named = re.findall(r"`(pmm/[\w/]+\.py):(\w+)`", text)
    assert len(named) >= 5
    for file, function in named:
        assert re.search(rf"(def|class) {function}\b", (ROOT / file).read_text()), (file, function)


SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)


START_EACH = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code, name
    print(f"{name} started", file=sys.stderr)
"""
"""One process, since each would load torch anew."""


def test_every_benchmark_starts_as_make_bench_starts_it() -> None:
    assert len(SCRIPTS) > 8
    command = [sys.executable, "-c", START_EACH, *SCRIPTS]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.stderr.count(" started") == len(SCRIPTS), ended.stderr
