"""A real browser, and a small server over the model of a tiny shop; where there is none, why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.recommend.answers import NewItem
from pmm.serve.load_served import load_served
from pmm.serve.serving import Serving

HERE = Path(__file__).parent

HOSTILE = {
    "<img src=x onerror=document.title=1>": "<script>document.title = 1</script>",
    "a/b ../c?d=1#e\"'&": "</script><script>document.title = 1</script><!--",
    "\u202ecod.exe": "right to left \u202e turned \u200f round",
    "bell\x07 and \x1b[31m": "control \x00\x07 characters\nand a second line",
    "%2e%2e%2fetc": "${document.title = 1} {{7*7}} `x`",
    "long": "w" * 3000,
    "x" * 300: "an id without an end",
}
"""Ids and texts that would like to be more than text."""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory, load_file: Any) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    clicks = load_file(HERE / "clicks.py")
    if why := clicks.why_none():
        pytest.skip(why)
    made = clicks.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()


@pytest.fixture(scope="session")
def run_of_shop(shop: Any, load_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the small shop, with the weights of the start, evaluated."""
    runs = load_file(HERE.parent / "recommend" / "conftest.py")
    place = tmp_path_factory.mktemp("page") / "run"
    made: Path = runs.make_run(shop, place, runs.options_of(shop, "pmmrec"))
    evaluate_run(shop.home, made, EvaluateOptions(gallery_users=0))
    return made


@pytest.fixture
def served(shop: Any, run_of_shop: Path, load_file: Any, tmp_path: Path) -> Iterator[Any]:
    """A server of that run that has just started."""
    serving = Serving(tmp_path / "serving", lambda place: load_served(place, shop.home))
    serving.start(run_of_shop)
    server = load_file(HERE / "served_shop.py").ServedShop(serving)
    yield server
    server.stop()
    serving.close()


@pytest.fixture
def page(browser: Any, served: Any) -> Any:
    """The page of that server, opened on a wide screen in the light theme."""
    browser.look()
    browser.open(served.url)
    return browser


@pytest.fixture(scope="session")
def hostile_items() -> list[NewItem]:
    return [
        NewItem(item_id=item_id, text=text, categories=(f"<b>{k}</b>",))
        for k, (item_id, text) in enumerate(HOSTILE.items())
    ]
