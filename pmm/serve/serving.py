"""What the server serves: the model of now and the one before, and the items that came and went.

Answers take the model of the moment and keep it to their end. Writing calls go through one thread,
one after the other: encoded, written down and synced, then put into the model; who asks next sees
them. A swap prepares the other model beside all that, and then takes its turn in the same thread.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from pmm.advice import command
from pmm.bundle.open_bundle import is_bundle
from pmm.errors import InputError, PmmError, StorageError
from pmm.recommend.answers import NewItem
from pmm.serve.item_log import ItemLog, LoggedItem, Vectors
from pmm.serve.item_search import ListedItem, NotYet
from pmm.serve.limits import CHECKED_SHARE
from pmm.serve.load_served import ServedModel
from pmm.serve.tested_users import RankCheck, check_ranks
from pmm.storage.artefact import exclusive, storage_errors

logger = logging.getLogger(__name__)

LOG = "items.log"
_ENCODED = 16
"""Items of the log that are encoded together; each may bring a picture file."""


class Refused(PmmError):
    """What was asked for does not go with what is there."""


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """What came of a swap."""

    serving: ServedModel
    check: RankCheck


class Serving:
    """The state of a server. Safe to use from several threads."""

    def __init__(self, folder: Path, load: Callable[[Path], ServedModel]) -> None:
        """Take hold of a server's folder.

        Args:
            folder: where live items are kept.
            load: a folder -> the model in it.

        Raises:
            StorageError: another server holds the folder, or it cannot be written.
            BrokenArtefact: the log of items is damaged.
        """
        self._held, self._load = ExitStack(), load
        taken = f"another server holds {folder}; stop it, or choose another folder with --data"
        with storage_errors(folder / LOG, "--data"):
            folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(exclusive(folder / ".lock", taken))
        try:
            self.log = ItemLog(folder / LOG)
        except BaseException:
            self._held.close()
            raise
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="pmm-writer")
        self.loader = ThreadPoolExecutor(1, thread_name_prefix="pmm-loader")
        self._swapping = Lock()
        self._current: ServedModel | None = None
        self.previous: ServedModel | None = None
        self.stopping = False

    @property
    def current(self) -> ServedModel:
        """The model of now.

        Raises:
            NotYet: it is being loaded.
        """
        if self._current is None:
            raise NotYet("the model is still being loaded; ask again in a moment")
        return self._current

    @property
    def is_ready(self) -> bool:
        """Whether there is a model that answers."""
        return self._current is not None and not self.stopping

    def start(self, place: Path) -> ServedModel:
        """Load the first model, and put in the items of the log.

        Raises:
            PmmError: it cannot be loaded, or cannot take the items.
        """
        served = self._load(place)
        check = check_ranks(served.model, served.users)
        if check.same < CHECKED_SHARE * check.users:
            logger.warning(
                f"warning: {served.name} gives {check.users - check.same} of {check.users} test "
                "users another rank than its evaluation did; the device or its numbers differ"
            )
        try:
            encoded = self._catch_up(served)
        except InputError as error:
            raise InputError(
                f"{error}. Choose another folder for live items with --data"
            ) from error
        if encoded:
            # So that the next start need not encode them again.
            try:
                self.log.rewrite(lambda item_id: _vectors(served, item_id))
            except StorageError as error:  # all items are in, and on the disk as they were
                logger.warning("The next start encodes %d items again: %s", encoded, error)
        served.begin()
        self._current = served
        return served

    def close(self) -> None:
        """Finish what is being written, and let the folder go."""
        self.stopping = True
        self.loader.shutdown(wait=False, cancel_futures=True)
        self.writer.shutdown(wait=True)
        self.log.close()
        self._held.close()

    # --- Items. Both run in `writer`.

    def put(self, item: NewItem) -> ServedModel:
        """Add an item, or give one new content: it is in, and on the disk, when this returns.

        Raises:
            InputError: the model can make nothing of it.
            Refused: the model takes no items.
            DiskFull, StorageError: it cannot be kept; nothing was changed.
        """
        served = self.current
        if served.model.encoder.cannot_add:
            raise Refused(served.model.encoder.cannot_add)
        input_1W, score_1D = served.model.encode_items([item])
        logged = self.log.put(item, (input_1W[0], score_1D[0]), served.version)
        _add(served, [item], (input_1W, score_1D))
        served.applied = logged.changed
        return served

    def withdraw(self, item_id: str) -> ServedModel:
        """Recommend an item no more.

        Raises:
            InputError: there is none.
            DiskFull, StorageError: that cannot be kept; nothing was changed.
        """
        served = self.current
        served.model.require(item_id)
        logged = self.log.withdraw(item_id)
        served.model.remove_items([item_id])
        served.search.withdraw(item_id)
        served.applied = logged.changed
        return served

    def picture(self, item_id: str) -> bytes | None:
        """The picture file of an item; None where it has none.

        Raises:
            InputError: there is no such item.
        """
        model = self.current.model
        model.require(item_id)
        live = self.log.read(item_id)
        return live[0].image if live is not None else model.picture(item_id)

    # --- Models. Both run in `loader`.

    def swap(self, place: Path) -> Swapped:
        """Load another model beside, check it, and let it serve.

        Raises:
            NotYet: another swap is under way.
            Refused: it has no evaluation to be checked by, does not rank as it was evaluated, or
                cannot take the items that were added.
            PmmError: it cannot be loaded.
        """
        with self._one_at_a_time():
            served = self._load(place)
            try:
                check = check_ranks(served.model, served.users)
                if not check.users:
                    raise Refused(_unchecked(served))
                if check.same < CHECKED_SHARE * check.users:
                    raise Refused(
                        f"{served.name} gives {check.users - check.same} of {check.users} test "
                        "users another rank than its evaluation did, so it is not served"
                    )
                self._prepare_and_switch(served)
            except BaseException:
                served.search.close()
                raise
            return Swapped(serving=served, check=check)

    def roll_back(self) -> ServedModel:
        """Let the model before serve again; the one of now becomes the one before.

        Raises:
            Refused: there is none.
            NotYet: a swap is under way.
        """
        with self._one_at_a_time():
            if self.previous is None:
                raise Refused("no other model has served since the start")
            served = self.previous
            self._prepare_and_switch(served)
            return served

    def _one_at_a_time(self) -> "_Try":
        return _Try(self._swapping)

    def _prepare_and_switch(self, served: ServedModel) -> None:
        try:
            self._catch_up(served)
            self.writer.submit(self._switch, served).result()
        except InputError as error:
            raise Refused(f"{served.name} cannot take an item that was added: {error}") from error

    def _switch(self, served: ServedModel) -> None:
        self._catch_up(served)  # with what was written since; nothing is written meanwhile
        served.begin()
        former, self.previous, self._current = self.previous, self._current, served
        if former is not None and former is not served:
            former.search.close()

    def _catch_up(self, served: ServedModel) -> int:
        """Put into a model what changed in the log since it was last told.

        Returns:
            How many items had to be encoded.

        Raises:
            InputError: it cannot take one.
        """
        entries = self.log.since(served.applied)
        contents = [each for each in entries if each.put > served.applied]
        cannot = served.model.encoder.cannot_add
        if contents and cannot:
            raise InputError(f"{len(contents)} items were added while the server ran, and {cannot}")
        encoded = 0
        for start in range(0, len(contents), _ENCODED):
            encoded += self._put_in(served, contents[start : start + _ENCODED])
        gone = [each.item_id for each in entries if each.withdrawn]
        known = [each for each in gone if served.model.state.find(each) is not None]
        served.model.remove_items(known)
        for each in known:
            served.search.withdraw(each)
        served.applied = max([served.applied, *(each.changed for each in entries)])
        return encoded

    def _put_in(self, served: ServedModel, entries: Sequence[LoggedItem]) -> int:
        """Put some contents in; how many had to be encoded."""
        read = [self.log.read(each.item_id) for each in entries]
        found = [each for each in read if each is not None]
        state = served.model.state
        widths = state.input_NW.shape[1], state.score_ND.shape[1]
        fits = [
            version == served.version and (len(vectors[0]), len(vectors[1])) == widths
            for _, vectors, version in found
        ]
        fresh = [item for (item, _, _), fit in zip(found, fits, strict=True) if not fit]
        made = iter(zip(*served.model.encode_items(fresh), strict=True) if fresh else ())
        rows = [each[1] if fit else next(made) for each, fit in zip(found, fits, strict=True)]
        both = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
        _add(served, [each[0] for each in found], both)
        return len(fresh)


def _unchecked(served: ServedModel) -> str:
    """Why a model cannot be checked, and what helps."""
    if is_bundle(served.place):
        return (
            f"{served.name} is a bundle without test users, by which it could be checked: export "
            "it again without --test-users 0"
        )
    return (
        f"{served.name} has no evaluated test users, by which it could be checked. "
        f"Run: {command('evaluate', served.place)}"
    )


class _Try:
    """Holds a lock, or refuses at once."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise NotYet("another model is being loaded; ask again when it serves")

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _add(served: ServedModel, items: Sequence[NewItem], vectors: Vectors) -> None:
    """Into the model and its search; pictures stay in the log, memory has none of them."""
    served.model.add_items(items, vectors, keep_pictures=False)
    state = served.model.state
    listed = []
    for each in items:
        row = state.find(each.item_id)
        assert row is not None
        listed.append(
            ListedItem(
                row=row,
                item_id=each.item_id,
                text=each.text,
                count=int(state.count_N[row]),
                categories=each.categories,
            )
        )
    served.search.add(listed)


def _vectors(served: ServedModel, item_id: str) -> tuple[Vectors, str] | None:
    """An item's vectors in a model."""
    state = served.model.state
    row = state.find(item_id)
    if row is None or row < state.trained:
        return None
    return (state.input_NW[row], state.score_ND[row]), served.version
