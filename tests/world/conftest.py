"""A tiny world, its H&M dump, and the slowest possible computations to hold it against."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pmm.world import World, generate
from pmm.world.attributes import ATTRIBUTES
from pmm.world.formats.defects import Defects
from pmm.world.formats.hm_writer import write_hm
from pmm.world.generate import WorldItems

Row = dict[str, str]

DEFECTS = Defects(
    missing_pictures=0.05,
    broken_pictures=0.04,
    odd_pictures=0.06,
    missing_texts=0.04,
    markup=0.05,
    repeated_rows=0.01,
    stripped_ids=0.02,
)


@pytest.fixture(scope="session")
def tiny() -> World:
    return generate("tiny", seed=0)


@pytest.fixture(scope="session")
def hm(tiny: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A tiny H&M dump with many defects, and what its writer says of it."""
    folder = tmp_path_factory.mktemp("hm")
    return folder, write_hm(tiny, folder, DEFECTS)


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[Row]]:
    """Reads a CSV file into one dict a row."""

    def read(path: Path) -> list[Row]:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture(scope="session")
def slow_core() -> Callable[[list[tuple[str, str]], int], list[tuple[str, str]]]:
    """The k-core of (user, item) pairs, one round at a time."""

    def core(pairs: list[tuple[str, str]], k: int) -> list[tuple[str, str]]:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users[u] >= k and items[i] >= k]
        return kept if len(kept) == len(pairs) else core(kept, k)

    return core


@pytest.fixture(scope="session")
def slow_walk() -> Callable[[WorldItems, list[int], float, list[str]], list[float]]:
    """P(next item) inside one department, item by item and attribute by attribute."""

    def chance(items: WorldItems, history: list[int], noise: float, seen: list[str]) -> list[float]:
        steps, free = [], []
        for item in range(len(items)):
            weight = 0.0 if item in history else float(items.weight[item])
            free.append(weight)
            for column, attribute in enumerate(ATTRIBUTES):
                if attribute.name in seen and len(history) >= attribute.lag:
                    earlier = int(items.values[history[-attribute.lag], column])
                    step = int(items.values[item, column]) - earlier
                    weight *= attribute.moves[step % attribute.size]
            steps.append(weight)
        return [
            (1 - noise) * s / sum(steps) + noise * f / sum(free)
            for s, f in zip(steps, free, strict=True)
        ]

    return chance
