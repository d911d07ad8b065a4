"""The picture of the rooms, docs/rooms.png: which imports which, from the imports in the code.

`PMM_DOCS=write python -m pytest tests/test_docs.py` draws it where the imports have changed. The
imports that it shows stand in the picture's own description, so that a test can compare them.
"""

import importlib.util
import sys
import textwrap
from collections import Counter
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from PIL import Image

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "rooms.png"
INK, ACCENT, PALE = "#222222", "#3f51b5", "#666666"


def structure() -> ModuleType:
    """tests/test_structure.py, which knows the rooms and who imports whom."""
    name = "pmm_docs_structure"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "test_structure.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def rooms() -> list[str]:
    """The rooms in the order of the flow; those inside another count as that one."""
    return list(dict.fromkeys(room.partition(".")[0] for room in structure().ROOMS))


def imports() -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> how many modules of the one import how many of other."""
    found: Counter[tuple[str, str]] = Counter()
    names = set(rooms())
    for module, imported in structure().GRAPH.items():
        inside = module.removeprefix("pmm.").partition(".")[0]
        for other in imported:
            there = other.removeprefix("pmm.").partition(".")[0]
            if inside in names and there in names and inside != there:
                found[inside, there] += 1
    return found


def described() -> str:
    """The imports as text: what the picture shows."""
    return "; ".join(f"{a} imports {b} {n}" for (a, b), n in sorted(imports().items()))


def description_of(picture: Path) -> str:
    """What a picture says that it shows; nothing if it is not there."""
    if not picture.exists():
        return ""
    with Image.open(picture) as image:
        return str(image.info.get("Description", ""))


def what_is_inside(room: str) -> str:
    """The first line of a room's docstring, on at most two lines."""
    path = ROOT / "pmm" / room
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    line = path.read_text(encoding="utf-8").lstrip('"').split("\n")[0].rstrip('".')
    return "\n".join(textwrap.wrap(line.replace("`", ""), 58, max_lines=2))


def draw(picture: Path) -> None:
    """Draw the rooms from the first to the last, and an arc from each to those it imports."""
    names = rooms()
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure = Figure(figsize=(8.8, 0.46 * len(names) + 0.9), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 110), ylim=(len(names) + 0.4, -1.3))
    axes.axis("off")
    axes.text(2, -0.8, "Data flows downwards; imports point upwards.", color=PALE, fontsize=10)
    for at, name in enumerate(names):
        folder = (ROOT / "pmm" / name).is_dir()
        label = f"{name}/" if folder else f"{name}.py"
        axes.text(2, at, label, fontsize=11, color=INK, weight="bold", va="center")
        axes.text(20, at, what_is_inside(name), fontsize=9, color=INK, va="center")
        axes.plot(76, at, "o", color=INK, markersize=6, zorder=3)
    scale = 62 / len(names)  # an arc as wide as it is high looks like half a circle
    for (inside, there), count in imports().items():
        low, high = names.index(inside), names.index(there)
        width = 0.6 + min(count, 12) / 6
        span = low - high
        axes.add_patch(
            Arc(
                (76, (low + high) / 2),
                span * scale,
                span,
                theta1=-90,
                theta2=90,
                lw=width,
                color=ACCENT,
                alpha=0.45,
            )
        )
    figure.savefig(picture, metadata={"Description": described(), "Software": None})
