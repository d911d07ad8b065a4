"""The shape of the code base: imports point upstream, names say what is inside."""

import ast
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pmm"
LEAVES = (
    "advice",
    "arrays",
    "errors",
    "flags",
    "font",
    "machine",
    "messages",
    "progress",
    "terminal",
    "text_table",
    "version",
)
"""Modules that every room may import; they import nothing but each other and `pmm.__version__`."""
ROOMS = (
    "storage",
    "world",
    "world.formats",
    "ingest.readers",
    "ingest.pictures",
    "ingest.download",
    "ingest.tables",
    "ingest.targets",
    "ingest.sources",
    "ingest.sources.video",
    "ingest.sources.amazon",
    "shards",
    "data",
    "model.search_space",
    "model.losses",
    "model.encoders",
    "model.text_encoders",
    "model.protocol",
    "model.features",
    "model.user_encoders",
    "model.item_parts",
    "model.model_entry",
    "model.pmmrec",
    "model.baselines",
    "model.registry",
    "model.build",
    "runs",
    "statistics",
    "evaluate",
    "train",
    "comparison",
    "tune",
    "recommend",
    "recommend.batch",
    "bundle",
    "serve",
    "serve.web",
    "inspect",
    "check",
    "audit",
    "report",
    "paper",
    "paper.running",
    "paper.reporting",
    "demo",
    "api",
    "commands",
    "commands.answering",
    "commands.reporting",
    "cli",
)
"""In the order in which data flows: a room imports only what stands before it, and itself."""
MOST_FILES = 15
"""Of a room, so that its list is read at a glance."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}
"""Dotted name of a module or package -> its file."""


def room_of(name: str) -> str:
    """The room of a module: the longest one that its dotted name begins with, or itself."""
    below = name.removeprefix("pmm.")
    inside = [room for room in (*ROOMS, *LEAVES) if f"{below}.".startswith(f"{room}.")]
    return max(inside, key=len, default=below)


def imported(path: Path) -> set[str]:
    """The modules of pmm that a file imports, also where only a type checker does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in NAMES else str(node.module))
    return {name for name in found if name.split(".")[0] == "pmm"} & NAMES.keys()


GRAPH = {name: imported(path) for name, path in NAMES.items()}


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) in ROOMS])
def test_imports_point_upstream(name: str) -> None:
    upstream = {*LEAVES, *ROOMS[: ROOMS.index(room_of(name)) + 1]}
    assert {each for each in GRAPH[name] if room_of(each) not in upstream} == set()


@pytest.mark.parametrize("leaf", LEAVES)
def test_what_every_room_may_import_imports_no_room(leaf: str) -> None:
    assert {room_of(each) for each in GRAPH[f"pmm.{leaf}"]} <= {*LEAVES}


def test_every_module_is_in_a_room_or_is_a_leaf() -> None:
    packages = {name for name, path in NAMES.items() if path.name == "__init__.py"}
    assert {room_of(name) for name in NAMES.keys() - packages} <= {*ROOMS, *LEAVES, "__main__"}


def circles() -> list[list[str]]:
    """The sets of modules that import one another, however many others lie between them."""
    reached: dict[str, set[str]] = {}
    for start in GRAPH:
        seen, coming = set[str](), [start]
        while coming:
            new = GRAPH[coming.pop()] - seen
            seen |= new
            coming += new
        reached[start] = seen
    both = {frozenset({n, *(m for m in found if n in reached[m])}) for n, found in reached.items()}
    return sorted(sorted(each) for each in both if len(each) > 1)


def test_no_module_stands_in_a_circle_of_imports() -> None:
    assert circles() == []


def test_no_room_behind_the_models_knows_one_of_them() -> None:
    """They ask the registry and the protocol, so a model is added without touching them."""
    behind = ROOMS[ROOMS.index("model.registry") :]
    models = ("pmm.model.pmmrec", "pmm.model.baselines")
    assert {
        name: sorted(each for each in found if each.startswith(models))
        for name, found in GRAPH.items()
        if room_of(name) in behind and any(each.startswith(models) for each in found)
    } == {}


def test_no_room_has_more_files_than_a_reader_takes_in_at_a_glance() -> None:
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    crowded = {str(room.relative_to(ROOT)): n for room, n in counts.items() if n > MOST_FILES}
    assert crowded == {}


def test_no_two_files_have_one_name() -> None:
    """But for those of commands, which have the commands' names."""
    named = [path for path in SOURCES if "commands" not in path.parent.parts]
    counts = Counter(path.name for path in named if path.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


def types_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The public classes and type aliases of a module, and what each of them means.

    A class means itself; an alias what it is an alias of, however numpy.typing is imported.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, f"class at {id(node)}"
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            meaning = ast.unparse(node.value).replace("npt.", "")
            if isinstance(target, ast.Name) and target.id != target.id.upper():
                yield target.id, meaning


def test_no_type_name_has_two_meanings() -> None:
    meanings: dict[str, set[str]] = {}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    for name, meaning in itertools.chain.from_iterable(map(types_of, trees)):
        if name[0].isupper():
            meanings.setdefault(name, set()).add(meaning)
    assert [name for name, found in meanings.items() if len(found) > 1] == []


TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def test_no_two_test_files_have_one_name() -> None:
    counts = Counter(path.name for path in TESTS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_two_tests_have_one_name() -> None:
    named: dict[str, list[str]] = {}
    for path in TESTS:
        below = path.relative_to(ROOT / "tests").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                named.setdefault(node.name, []).append(below)
    twins = {name: places for name, places in named.items() if len(places) > 1}
    assert twins == {}


def test_every_room_says_what_is_in_it() -> None:
    inits = [path for path in SOURCES if path.name == "__init__.py"]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in inits}
    assert [str(path) for path, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_no_name_is_vague() -> None:
    names = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & VAGUE


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
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


@pytest.mark.parametrize("room", ["pmm.ingest", "pmm.world", "pmm.commands", "pmm.cli"])
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
