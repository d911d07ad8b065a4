"""Downloading the pictures that items name by address: many at once, politely, resumable.

A few threads share a schedule that says what comes next. A thread waits for its own answer only: a
host that asked for a pause, or an address that is to be tried again later, waits in the schedule.
Fetching and decoding happen in the thread itself at first; once there is a lot to do, each thread
hands them to a helper process.
"""

import itertools
import json
import logging
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import IO, Any

from pmm.errors import InputError
from pmm.ingest.download.picture_fetch import Failed, FetchProcesses, Limits, PictureFetcher, Reply
from pmm.ingest.download.picture_schedule import Fetch, PictureSchedule, WantedItem
from pmm.ingest.download.picture_store import Journal, PictureStore
from pmm.ingest.download.polite_http import WebOptions
from pmm.machine import cores
from pmm.progress import Progress, progress
from pmm.storage.artefact import exclusive, storage_errors

logger = logging.getLogger(__name__)

__all__ = ["DownloadOptions", "PictureStore", "download_pictures"]

_MOST_PENDING = 5_000
_CHUNK = 10_000
_STEP_S = 0.05
_LEAVE_S = 3.0
_WORTH_HELPERS = 200
"""Addresses that are done before helper processes are started: starting them takes a while."""


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """How pictures are fetched."""

    connections_per_host: int = 8
    connections: int = 32
    """To all hosts together."""
    timeout_s: float = 30.0
    """Without a single byte."""
    longest_s: float = 120.0
    """For one picture, from the moment of connecting to its last byte."""
    tries: int = 5
    """Requests for an address in one run."""
    first_delay_s: float = 1.0
    """Before the second try; doubled before each further one."""
    longest_pause_s: float = 300.0
    """The longest pause that a host is given where it asks for one."""
    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    give_up_errors: int = 20
    """A host is given up for this run after this number of connection errors in a row ..."""
    give_up_s: float = 10.0
    """... if they span this many seconds at least."""
    allow_private_addresses: bool = False
    """Ask addresses of this machine and its network too; without it they are refused."""
    processes: int | None = None
    """Helper processes for large downloads; None = as many as there are cores, 0 = none."""

    def web(self) -> WebOptions:
        """The part for `polite_http`."""
        return WebOptions(
            connections_per_host=self.connections_per_host,
            timeout_s=self.timeout_s,
            tries=self.tries,
            longest_s=self.longest_s,
            allow_private=self.allow_private_addresses,
            first_delay_s=self.first_delay_s,
            longest_pause_s=self.longest_pause_s,
        )

    def limits(self) -> Limits:
        """The limits of a single picture."""
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)


def download_pictures(
    store: PictureStore, wanted: Iterable[tuple[str, Sequence[str]]], options: DownloadOptions
) -> dict[str, int]:
    """Fetch a picture for every item and write the store's outcomes; returns outcome -> items.

    An address that an earlier run got an answer for is not asked again, except after timeouts,
    connection and server errors.
    An address that several items name is fetched once. Wanted items are read as they are needed,
    and kept on disk until the end: memory grows by some 50 bytes an item.

    Args:
        store: where pictures go; other items that it has stay.
        wanted: item id and its addresses, the best first; the next one is asked for where one
            fails. Only http and https.
        options: limits and patience.

    Raises:
        StorageError: the folder cannot be written, the disk is full, or another process downloads.
    """
    if min(options.connections_per_host, options.connections, options.tries) < 1:
        raise InputError(
            f"{options.connections_per_host} connections a host, {options.connections} in all and "
            f"{options.tries} tries: each must be 1 or more (--connections)"
        )
    taken = f"another process downloads to {store.folder}; wait for it, or end it"
    with storage_errors(store.folder / "pictures"):
        store.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(store.folder / ".lock", taken):
            store.clear_drafts()
            return _download(store, wanted, options)


def _download(
    store: PictureStore, wanted: Iterable[tuple[str, Sequence[str]]], options: DownloadOptions
) -> dict[str, int]:
    journal = Journal(store.journal)
    schedule = PictureSchedule(
        store,
        journal,
        options.web(),
        give_up_errors=options.give_up_errors,
        give_up_s=options.give_up_s,
    )
    total = len(wanted) if isinstance(wanted, Sized) else None
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=store.folder / "incoming") as spool:
        try:
            # Threads share the filter, so it is set here: Pillow warns about odd metadata.
            with warnings.catch_warnings(), progress(total, "Pictures", "items") as counter:
                warnings.simplefilter("ignore")
                threads = _FetchThreads(store, schedule, options)
                _run(schedule, _spooled(wanted, spool), threads, counter)
        finally:  # Ctrl-C too
            schedule.end()
            counts = store.write_outcomes(_chunks(_rows(spool, schedule)))
            journal.close()
    for host in sorted(schedule.given_up):
        told = f"{host} was given up after {options.give_up_errors} connection errors in a row"
        logger.warning("%s; run the same command again to ask for the rest", told)
    if counts["refused address"]:
        logger.warning(
            "%s pictures were not asked for: their addresses are of this machine or of its "
            "network. If they are meant, run the same command with --allow-private-addresses",
            f"{counts['refused address']:,}",
        )
    return dict(sorted(counts.items()))


def _run(
    schedule: PictureSchedule,
    wanted: Iterator[tuple[str, tuple[str, ...]]],
    threads: "_FetchThreads",
    counter: Progress,
) -> None:
    """Feed the schedule and show progress until all items are done."""

    def step() -> None:
        time.sleep(_STEP_S)
        schedule.check()
        threads.grow()
        counter.advance(schedule.done - counter.done, **schedule.notes())

    try:
        for item_id, urls in wanted:
            schedule.submit(WantedItem(item_id=item_id, urls=urls))
            if not threads.threads:
                threads.grow()
            while schedule.pending >= _MOST_PENDING:
                step()
        schedule.close()
        while schedule.pending:
            step()
        step()
    finally:
        schedule.stop()
        threads.leave()


class _FetchThreads:
    """The threads that ask for addresses, and their helper processes."""

    def __init__(
        self, store: PictureStore, schedule: PictureSchedule, options: DownloadOptions
    ) -> None:
        self.threads: list[threading.Thread] = []
        self._store, self._schedule, self._options = store, schedule, options
        self._fetcher = PictureFetcher(store.folder, options.web(), options.limits(), cores())
        self._helpers: FetchProcesses | None = None
        self._helped: set[int] = set()
        self._closed_idle = False
        self._processes = cores() if options.processes is None else options.processes

    def grow(self) -> None:
        """Start more threads as more hosts are met, and helpers once there is a lot to do."""
        schedule, options = self._schedule, self._options
        places = min(options.connections, options.connections_per_host * schedule.hosts_seen)
        while schedule.hosts_seen and len(self.threads) < places + cores():
            number = len(self.threads)
            self.threads.append(threading.Thread(target=self._work, args=(number,), daemon=True))
            self.threads[-1].start()
        if self._helpers is None and self._processes and schedule.addresses_done >= _WORTH_HELPERS:
            most = options.connections + cores()
            try:
                self._helpers = FetchProcesses(
                    self._store.folder, options.web(), options.limits(), self._processes, most
                )
            except OSError:  # no more processes or files: the threads fetch themselves
                self._processes = 0
        if not self._closed_idle and len(self._helped) == len(self.threads) > 0:
            self._fetcher.close_idle()
            self._closed_idle = True

    def leave(self) -> None:
        """End the threads and the helpers; no thread is waited for longer than `_LEAVE_S`."""
        deadline = time.monotonic() + _LEAVE_S
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._helpers is not None:
            self._helpers.close()

    def _work(self, number: int) -> None:
        """One thread: fetch addresses until the schedule has none."""
        schedule = self._schedule
        try:
            while (fetch := schedule.next()) is not None:
                schedule.reply(fetch, self._get(number, fetch))
        except BaseException as error:  # the main thread raises it
            schedule.stop(error)

    def _get(self, number: int, fetch: Fetch) -> Reply:
        """One request, by a helper if there is one."""
        held = True

        def free() -> None:
            nonlocal held
            if held:
                held = False
                self._schedule.hosts.free(fetch.host)

        try:
            if self._helpers is not None:
                reply = self._helpers.get(number, fetch.now, free)
                if reply is not None:
                    self._helped.add(number)
                    return reply
            if self._schedule.stopped:
                return Failed(trouble="connection")
            return self._fetcher.get(fetch.now, free)
        finally:
            free()


def _rows(spool: IO[str], schedule: PictureSchedule) -> Iterator[dict[str, Any]]:
    """A row for every wanted item whose outcome is known."""
    spool.seek(0)
    for line in spool:
        item_id, urls = json.loads(line)
        result = schedule.result_of(urls)
        if result is not None:
            url = result.url.encode("utf-8", "replace").decode()
            yield {"item_id": item_id, **vars(result), "url": url or None}


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk


def _spooled(
    wanted: Iterable[tuple[str, Sequence[str]]], spool: IO[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pass the wanted items on, and note them on disk for the table at the end."""
    for item_id, urls in wanted:
        asked = tuple(dict.fromkeys(url.strip() for url in urls))
        json.dump([item_id, asked], spool)
        spool.write("\n")
        yield item_id, asked
