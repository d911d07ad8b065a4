"""Full-text search over texts and ids, and the catalogue by category, in SQLite in memory.

Rows are those of a `CatalogueState`. The index of words holds no text and is never changed: an item
with new content has a new row, and the old one is no longer listed.
"""

import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Event, Lock

from pmm.errors import InputError, PmmError
from pmm.serve.limits import QUERY_CHARACTERS, QUERY_WORDS, SEARCH_SECONDS

_TABLES = """
CREATE TABLE item(row INTEGER PRIMARY KEY, item_id TEXT, count INT, listed INT);
CREATE TABLE category(name TEXT, row INT, PRIMARY KEY(name, row)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
    said, content='', prefix='2 3', tokenize="unicode61 remove_diacritics 2");
CREATE INDEX by_count ON item(count DESC, row) WHERE listed;
CREATE INDEX by_id ON item(item_id);
"""
# Written without spaces between words: each character counts as one, and a query of several is a
# phrase. Chinese, Japanese (kana too), Thai, Lao, Khmer and Burmese; Korean has spaces.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])")
_WORD = re.compile(r"\w")
_PART = 1_000
"""Items that are taken in at a time; searches come in between."""


class NotYet(PmmError):
    """What is asked for is being made; ask again in a moment."""


@dataclass(frozen=True, kw_only=True)
class ListedItem:
    """What is listed of a row."""

    row: int
    item_id: str
    text: str
    count: int
    categories: Sequence[str] = ()


class ItemSearch:
    """The listed items of a model. Safe to ask from several threads."""

    def __init__(self) -> None:
        """Begin with no item."""
        self._base = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._base.executescript(_TABLES)
        self._lock = Lock()
        self._whole, self._closed = Event(), False
        self._withdrawn: set[str] = set()

    def fill(self, items: Iterable[ListedItem]) -> None:
        """Take a whole catalogue, a part at a time; from the end on it can be asked.

        Items that were added or withdrawn meanwhile stay so.
        """
        part: list[ListedItem] = []
        for each in items:
            part.append(each)
            if len(part) == _PART:
                self._insert(part)
                part = []
        self._insert(part)
        self._whole.set()

    @property
    def is_whole(self) -> bool:
        """Whether all items are in it."""
        return self._whole.is_set()

    def add(self, items: Sequence[ListedItem]) -> None:
        """List items; a former row of the same id is listed no more."""
        with self._lock:
            self._withdrawn -= {each.item_id for each in items}
        self._insert(items)

    def _insert(self, items: Sequence[ListedItem]) -> None:
        with self._lock:
            if self._closed:
                return
            self._base.execute("BEGIN")
            for each in items:
                self._base.execute(
                    "UPDATE item SET listed = 0 WHERE item_id = ? AND row < ?",
                    (each.item_id, each.row),
                )
                newer = "SELECT 1 FROM item WHERE item_id = ? AND row > ?"
                found = self._base.execute(newer, (each.item_id, each.row)).fetchone()
                listed = found is None and each.item_id not in self._withdrawn
                self._base.execute(
                    "INSERT INTO item VALUES (?, ?, ?, ?)",
                    (each.row, each.item_id, each.count, listed),
                )
                words = spaced(f"{each.item_id}\n{each.text}")
                self._base.execute(
                    "INSERT INTO words(rowid, said) VALUES (?, ?)", (each.row, words)
                )
                self._base.executemany(
                    "INSERT OR IGNORE INTO category VALUES (?, ?)",
                    [(name, each.row) for name in each.categories],
                )
            self._base.execute("COMMIT")

    def withdraw(self, item_id: str) -> None:
        """List an item no more."""
        with self._lock:
            self._withdrawn.add(item_id)
            self._base.execute("UPDATE item SET listed = 0 WHERE item_id = ?", (item_id,))

    def find(
        self, query: str = "", category: str = "", *, offset: int = 0, limit: int = 20
    ) -> tuple[int, list[str]]:
        """How many items there are, and the ids of a page of them.

        Args:
            query: words that all stand in an item's text or id, or begin a word there; "": any.
            category: of the items; "": any.
            offset: the first of the page; the best first, without a query the most frequent.
            limit: rows of the page.

        Raises:
            InputError: the query is too long, or so short that it takes too long to answer.
            NotYet: the catalogue is still being read.
        """
        self._require_whole()
        source, order, values = "item", "item.count DESC, item.row", list[str | int]()
        if query.strip():
            source = "words JOIN item ON item.row = words.rowid"
            order = f"words.rank, {order}"
        where = ["item.listed"]
        if query.strip():
            where.append("words MATCH ?")
            values.append(_match(query))
        if category:
            where.append("item.row IN (SELECT row FROM category WHERE name = ?)")
            values.append(category)
        condition = f"FROM {source} WHERE {' AND '.join(where)}"
        with self._lock:
            self._require_open()  # it may have been let go while this waited
            until = time.monotonic() + SEARCH_SECONDS
            self._base.set_progress_handler(lambda: time.monotonic() > until, 50_000)
            try:
                (total,) = self._base.execute(f"SELECT count(*) {condition}", values).fetchone()
                page = self._base.execute(
                    f"SELECT item.item_id {condition} ORDER BY {order} LIMIT ? OFFSET ?",
                    [*values, limit, offset],
                ).fetchall()
            except sqlite3.OperationalError as error:
                raise InputError("too many items have these words; write more of them") from error
            finally:
                self._base.set_progress_handler(None, 0)
        return int(total), [row[0] for row in page]

    def categories(self) -> list[tuple[str, int]]:
        """Each category with its listed items, the largest first; errors as `find`."""
        self._require_whole()
        with self._lock:
            self._require_open()
            return self._base.execute(
                "SELECT name, count(*) AS n FROM category JOIN item USING (row) WHERE listed "
                "GROUP BY name ORDER BY n DESC, name"
            ).fetchall()

    def _require_open(self) -> None:
        if self._closed:
            raise NotYet("another model serves by now; ask again")

    def _require_whole(self) -> None:
        self._require_open()
        if not self._whole.wait(SEARCH_SECONDS):
            raise NotYet("the catalogue is still being read for searches; ask again in a moment")

    def close(self) -> None:
        """Let it go."""
        with self._lock:
            self._closed = True
            self._base.close()


def spaced(text: str) -> str:
    """A text with spaces around the characters of scripts that have none between words.

    >>> spaced("红鞋 shoe").split()
    ['红', '鞋', 'shoe']
    """
    return _UNSPACED.sub(r" \1 ", text.replace("\0", " "))


def _match(query: str) -> str:
    """What somebody typed as an expression of FTS5: every word a quoted phrase that may go on.

    >>> _match('red "sho NOT')
    '"red"* AND "sho"* AND "NOT"*'
    """
    if len(query) > QUERY_CHARACTERS:
        raise InputError(f"a search has {QUERY_CHARACTERS} characters at most")
    words = [spaced(word.replace('"', " ")).strip() for word in query.split()]
    words = [" ".join(word.split()) for word in words if _WORD.search(word)]
    if not words or len(words) > QUERY_WORDS:
        raise InputError(f"search for 1 to {QUERY_WORDS} words of letters or digits")
    return " AND ".join(f'"{word}"*' for word in words)
