"""docs/ is a site: it builds offline without a warning, holds every page, and fetches nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^"' >]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^"' >]+|@import[^;]*//|url\(["']?https?:"""
)
"""What a browser gets from elsewhere when a page is opened."""


def named(nav: Any) -> list[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav
    return [page for each in below for page in named(each)]


def test_the_navigation_names_every_page_once() -> None:
    docs = ROOT / "docs"
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    assert sorted(named(CONFIG["nav"])) == pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_the_site_has_every_page(site: Path) -> None:
    for page in named(CONFIG["nav"]):
        assert (site / page).with_suffix(".html").is_file(), page


def test_nothing_is_fetched_when_a_page_is_opened(site: Path) -> None:
    texts = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(texts) > 15
    found = {
        str(path.relative_to(site)): FETCHED.findall(path.read_text(encoding="utf-8"))
        for path in texts
    }
    assert {name: each for name, each in found.items() if each} == {}
    # The theme's script gets the program for diagrams from elsewhere where a page has one.
    assert not [path for path in texts if 'class="mermaid"' in path.read_text(encoding="utf-8")]
