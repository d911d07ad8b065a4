"""Search over texts and ids: every word, in any script, and nothing that a query could break."""

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pmm.errors import InputError
from pmm.serve import item_search
from pmm.serve.item_search import ItemSearch, ListedItem, NotYet

TEXTS = [
    ("B00-X_1", "Red Shoe, café style", ("Shoes",)),
    ("0108775015", "blue shoe's lace", ("Shoes", "Blue")),
    ("<b>&'\"", "红色运动鞋", ()),
    ("../x", "Крёстный отец", ("Films",)),
    ("n", "", ()),
]


@pytest.fixture
def search() -> ItemSearch:
    made = ItemSearch()
    made.fill(
        ListedItem(row=row, item_id=item_id, text=text, count=row, categories=categories)
        for row, (item_id, text, categories) in enumerate(TEXTS)
    )
    return made


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("red shoe", [0]),
        ("SHOE", [0, 1]),
        ("sho", [0, 1]),
        ("cafe", [0]),
        ("shoe's", [1]),
        ("b00-x_1", [0]),
        ("B00", [0]),
        ("01087", [1]),
        ("运动", [2]),
        ("动运", []),
        ("鞋", [2]),
        ("отец крё", [3]),
        ("nothing", []),
        ('"red', [0]),
        ("red NOT shoe", []),
        ("words:red", []),
        ("red*", [0]),
        ("lace)", [1]),
    ],
)
def test_a_query_finds_items_with_all_its_words(
    search: ItemSearch, query: str, rows: list[int]
) -> None:
    total, ids = search.find(query)
    assert sorted(ids) == sorted(TEXTS[row][0] for row in rows)
    assert total == len(rows)


@pytest.mark.parametrize("query", ["!!!", "\0", "a " * 13, "x" * 201, "'", "*"])
def test_a_query_of_no_words_or_too_many_is_refused(search: ItemSearch, query: str) -> None:
    with pytest.raises(InputError):
        search.find(query)


def test_without_a_query_the_most_frequent_come_first_by_pages(search: ItemSearch) -> None:
    assert search.find(limit=2) == (5, ["n", "../x"])
    assert search.find(offset=4, limit=2) == (5, ["B00-X_1"])
    assert search.find(offset=5) == (5, [])
    assert search.find("shoe", "Blue") == (1, ["0108775015"])
    assert search.find(category="Shoes' OR 1=1 --") == (0, [])
    assert search.categories() == [("Shoes", 2), ("Blue", 1), ("Films", 1)]


def test_changed_and_withdrawn_items(search: ItemSearch) -> None:
    search.add([ListedItem(row=5, item_id="n", text="green hat", count=4, categories=("Hats",))])
    assert search.find("green") == (1, ["n"])
    assert search.find()[0] == 5
    search.add([ListedItem(row=6, item_id="n", text="grey hat", count=4)])
    assert search.find("green") == (0, [])
    assert ("Hats", 1) not in search.categories()
    search.withdraw("n")
    assert search.find("grey") == (0, [])
    search.add([ListedItem(row=7, item_id="n", text="grey hat", count=4)])
    assert search.find("grey") == (1, ["n"])


def test_what_comes_while_the_catalogue_is_being_read_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(item_search, "SEARCH_SECONDS", 0.01)
    search = ItemSearch()
    search.add([ListedItem(row=2, item_id="a", text="new", count=0)])
    search.withdraw("b")
    with pytest.raises(NotYet):
        search.find("new")
    names = ["a", "b"]
    search.fill(ListedItem(row=k, item_id=n, text="old", count=0) for k, n in enumerate(names))
    assert search.find() == (1, ["a"])
    assert search.find("old") == (0, [])


@pytest.mark.parametrize("ask", [ItemSearch.find, ItemSearch.categories])
def test_who_waits_for_a_search_that_is_let_go_is_asked_to_come_again(
    ask: Callable[[ItemSearch], object],
) -> None:
    search = ItemSearch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, search)
        time.sleep(0.1)  # so that it waits for the catalogue
        search.close()
        search.fill([ListedItem(row=0, item_id="a", text="hat", count=0)])
        with pytest.raises(NotYet, match="another model serves"):
            asked.result()


def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    search = ItemSearch()
    search.fill(ListedItem(row=k, item_id=str(k), text="shoe", count=0) for k in range(20_000))
    assert search.find("shoe")[0] == 20_000
    monkeypatch.setattr(item_search, "SEARCH_SECONDS", -1.0)
    with pytest.raises(InputError, match="write more of them"):
        search.find("shoe")
    monkeypatch.undo()
    assert search.find("19999")[0] == 1
    search.close()
    with pytest.raises(NotYet):
        search.find()
    with pytest.raises(sqlite3.ProgrammingError):
        search.withdraw("1")
