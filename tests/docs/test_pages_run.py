"""Every command of the tutorials and guides runs on the embedded world, in the order of a page."""

from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {
    "add-a-source.md": "tests/ingest/test_toy_source.py runs its program",
    "add-a-baseline.md": "tests/test_new_baseline.py runs its program",
    "csv-to-api.md": "tests/serve/test_csv_to_api.py types it",
    "serve-a-model.md": "tests/serve/test_page_of_serving.py makes its calls",
    "watch-a-training.md": "its commands start servers and ask for accounts",
}
"""Pages that this does not run, and why."""
TUTORIALS = sorted({page.name for page in (DOCS / "tutorials").glob("*.md")} - ELSEWHERE.keys())
GUIDES = sorted({page.name for page in (DOCS / "how-to").glob("*.md")} - ELSEWHERE.keys())


def test_what_the_tutorial_of_a_shop_promises_is_there(
    pages: ModuleType, after_my_shop: Path
) -> None:
    said = (after_my_shop / "said.txt").read_text(encoding="utf-8")
    assert "dropped:" in said
    assert "best validation HR@10" in said
    assert (after_my_shop / "sheet.png").is_file()
    assert pages.not_there(DOCS / "tutorials" / "my-shop.md", after_my_shop) == []


@pytest.mark.parametrize("name", [name for name in TUTORIALS if name != "my-shop.md"])
def test_the_commands_of_a_tutorial_run(name: str, pages: ModuleType, tmp_path: Path) -> None:
    pages.run_page(DOCS / "tutorials" / name, tmp_path)
    assert pages.not_there(DOCS / "tutorials" / name, tmp_path) == []


@pytest.mark.parametrize("name", GUIDES)
def test_the_commands_of_a_guide_run(name: str, pages: ModuleType, readers_folder: Path) -> None:
    pages.run_page(DOCS / "how-to" / name, readers_folder)
    assert pages.not_there(DOCS / "how-to" / name, readers_folder) == []


def test_few_commands_of_the_pages_are_not_run_and_each_says_why(pages: ModuleType) -> None:
    found = [
        command
        for folder, names in (("tutorials", TUTORIALS), ("how-to", GUIDES))
        for name in names
        for command in pages.commands_of(DOCS / folder / name)
    ]
    left_out = [command for command in found if command.not_run is not None]
    assert len(found) > 60
    assert len(left_out) <= 24
    assert all(len(str(command.not_run)) > 10 for command in left_out)
