"""The plain CSV form of any source or target."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.world import World
from pmm.world.formats.csv_writer import write_csv
from pmm.world.formats.defects import NO_DEFECTS, Defects

Rows = Callable[[Path], list[dict[str, str]]]


@pytest.mark.parametrize("name", ["Bili Food", "Kwai", "Amazon Shoes"])
def test_csv_holds_the_target_in_order(tiny: World, rows: Rows, tmp_path: Path, name: str) -> None:
    said = write_csv(tiny, name, tmp_path, NO_DEFECTS)
    actions, items = rows(tmp_path / "interactions.csv"), rows(tmp_path / "items.csv")
    assert list(actions[0]) == ["user_id", "item_id", "timestamp"]
    assert list(items[0]) == ["item_id", "title", "description"]
    assert [len(actions), len(items)] == [said["rows"], said["items"]]
    times = [int(row["timestamp"]) for row in actions]
    assert times == sorted(times)
    assert {row["item_id"] for row in actions} <= {row["item_id"] for row in items}
    assert len(list((tmp_path / "images").iterdir())) == len(items) == said["pictures"]


def test_a_carved_target_holds_its_department_only(tiny: World, rows: Rows, tmp_path: Path) -> None:
    write_csv(tiny, "Amazon Shoes", tmp_path, NO_DEFECTS)
    shoes = {tiny.item_ids("Amazon")[number] for number in tiny.target_items("Amazon Shoes")}
    assert {row["item_id"] for row in rows(tmp_path / "items.csv")} == shoes
    assert len(shoes) < len(tiny.item_ids("Amazon"))


def test_defects_are_counted(tiny: World, rows: Rows, tmp_path: Path) -> None:
    said = write_csv(tiny, "Kwai Food", tmp_path, Defects(missing_texts=0.1, repeated_rows=0.05))
    texts = [row["description"] for row in rows(tmp_path / "items.csv")]
    assert texts.count("") == said["missing_texts"] > 0
    actions = [tuple(row.values()) for row in rows(tmp_path / "interactions.csv")]
    assert len(actions) - len(set(actions)) == said["repeated_rows"] > 0


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"markup=1\.5"):
        Defects(markup=1.5)
    with pytest.raises(InputError, match="together"):
        Defects(missing_pictures=0.6, broken_pictures=0.6)


def test_shops_have_clean_grounds_and_covers_cluttered_ones(tiny: World, tmp_path: Path) -> None:
    spread: dict[str, float] = {}
    for name in ("Amazon Shoes", "Bili Food"):
        write_csv(tiny, name, tmp_path / name, NO_DEFECTS)
        edges = []
        for path in (tmp_path / name / "images").iterdir():
            with Image.open(path) as picture:
                edges.append(np.asarray(picture.convert("L"))[:, :20].std())
        spread[name] = float(np.mean(edges))
    assert spread["Amazon Shoes"] < 1 < 5 < spread["Bili Food"]
