"""Which address is fetched next: items, their addresses in order, and limits a host.

One lock, that of `pmm.ingest.download.polite_http.Hosts`, guards all of it; nothing waits while it
is held.
"""

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pmm.ingest.download.picture_fetch import Crashed, Failed, Judged, Moved, Reply
from pmm.ingest.download.picture_store import Journal, PictureStore, Result
from pmm.ingest.download.polite_http import PASSING, Hosts, WebError, WebOptions, host_of

_ASKED_AGAIN = PASSING | {"refused address"}
"""Outcomes of an earlier run that may be others now: an address may be allowed by then."""


@dataclass(kw_only=True)
class WantedItem:
    """An item, and which of its addresses comes next."""

    item_id: str
    urls: tuple[str, ...]
    at: int = 0


@dataclass(kw_only=True)
class Fetch:
    """An address that is being fetched, and the items that wait for it."""

    url: str
    now: str
    """The address after redirects."""
    host: str
    items: list[WantedItem] = field(default_factory=list)
    tries: int = 0
    hops: int = 0


@dataclass(kw_only=True)
class _Errors:
    """Connection errors of a host since it last answered."""

    since: float
    count: int = 0


class PictureSchedule:
    """Which address is fetched next; every method may be called from any thread."""

    def __init__(
        self,
        store: PictureStore,
        journal: Journal,
        web: WebOptions,
        *,
        give_up_errors: int,
        give_up_s: float,
    ) -> None:
        self.hosts = Hosts(web.connections_per_host, web.longest_pause_s)
        self.pending = self.done = self.addresses_done = self.hosts_seen = 0
        self.given_up: set[str] = set()
        """Hosts that are not asked any more in this run."""
        self._store, self._journal, self._web = store, journal, web
        self._give_up_errors, self._give_up_s = give_up_errors, give_up_s
        # The hosts' own lock: "a place at a host is free" and "an address waits for it" must be
        # seen together, or a thread could sleep on one while the other changes.
        self._changed = self.hosts.changed
        # One fetch an address, however many items name it, as variants of a product do.
        self._asked: dict[str, Fetch] = {}
        # One queue a host, not one for all: a paused host at its head would hold up every other.
        self._queues: dict[str, deque[Fetch]] = {}
        # A heap by time; the number decides between equal times, for a Fetch cannot be compared.
        self._later: list[tuple[float, int, Fetch]] = []
        self._number = itertools.count()
        self._errors: dict[str, _Errors] = {}
        self._known_hosts: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._bytes, self._began = 0, time.monotonic()
        self._closed = self.stopped = self._ended = False
        self._error: BaseException | None = None

    def submit(self, item: WantedItem) -> None:
        """Add an item."""
        with self._changed:
            self.pending += 1
            self._advance(item)

    def next(self) -> Fetch | None:
        """The next address to ask for, when its host may be asked; None when all is done."""
        with self._changed:
            while not self.stopped and (self.pending or not self._closed):
                # By pulling: a thread takes a host's place when it is about to ask. Handing
                # addresses out ahead would tie threads to a host that then asks for a pause.
                self._wake()
                for host, queue in self._queues.items():
                    if self.hosts.try_take(host):
                        fetch = queue.popleft()
                        if not queue:
                            del self._queues[host]
                        return fetch
                # Until notified, or until a pause or a delay is over: time passes without a notice.
                self._changed.wait(self._idle_s())
            return None

    def _conclude(self, fetch: Fetch, result: Result) -> None:
        """Record the last answer of this run for an address, and move its items on."""
        if self._ended:  # the table is being written from the journal, which is closed after it
            return
        if result.tries:  # else its host was given up, which holds for this run only
            self.addresses_done += 1
            self._journal.add(result)
        self._bytes += result.bytes or 0
        # Any answer, a 404 too, shows that the host is alive: only unbroken failures give it up.
        if result.outcome not in ("connection", "timeout"):
            self._errors.pop(fetch.host, None)
        del self._asked[fetch.url]
        for item in fetch.items:
            if result.outcome == "ok":
                self._finish(result.outcome)
            else:
                item.at += 1
                self._advance(item)

    def reply(self, fetch: Fetch, reply: Reply) -> None:
        """Take the outcome of a request, whose place at the host has been given back.

        Raises:
            OSError: a picture could not be written.
        """
        match reply:
            case Judged():
                result = Result(
                    url=fetch.url,
                    outcome=reply.fault or "ok",
                    status=200,
                    bytes=reply.bytes,
                    width=reply.width,
                    height=reply.height,
                    path=reply.path,
                    tries=fetch.tries + 1,
                )
                with self._changed:
                    self._conclude(fetch, result)
            case Moved():
                self._redirected(fetch, reply.target)
            case Failed():
                self._failed(fetch, reply)
            case Crashed():
                raise OSError(reply.errno, reply.message, reply.file)

    def _failed(self, fetch: Fetch, error: Failed) -> None:
        """A request failed: the address is tried again later, or concluded."""
        with self._changed:
            fetch.tries += 1
            self._count_error(fetch.host, error)
            last = error.over or fetch.tries >= self._web.tries
            if error.trouble not in PASSING or last or fetch.host in self.given_up:
                result = Result(
                    url=fetch.url, outcome=error.trouble, status=error.status, tries=fetch.tries
                )
                self._conclude(fetch, result)
                return
            delay = self._web.delay_s(fetch.tries)
            # "Too many requests" is about the host, so all its addresses wait, this one among them;
            # any other failure is about the address, and it alone waits.
            if error.pause_s is not None or error.status in (429, 503):
                self.hosts.pause(fetch.host, error.pause_s or delay)
                self._queue(fetch)
            else:
                heapq.heappush(self._later, (time.monotonic() + delay, next(self._number), fetch))
            self._changed.notify()

    def _redirected(self, fetch: Fetch, target: str) -> None:
        """The address redirects to another one, of the same or another host."""
        with self._changed:
            fetch.hops += 1
            # Queued under the host that it leads to, whose limits count; `url` stays, since the
            # journal is asked by the address that the item names.
            fetch.now, fetch.host = target, host_of(target)
            if fetch.hops > self._web.redirects:
                self._failed(fetch, Failed(trouble="redirects"))
            else:
                self._queue(fetch)

    def close(self) -> None:
        """There are no more items."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Start no further request."""
        with self._changed:
            self.stopped = True
            self._error = self._error or error
            self._changed.notify_all()

    def end(self) -> None:
        """Ignore the answers that still come."""
        with self._changed:
            self._ended = True

    def check(self) -> None:
        """Raise the error that a thread has met."""
        if self._error is not None:
            raise self._error

    def result_of(self, urls: Sequence[str]) -> Result | None:
        """The outcome of an item: its first picture, else its last failure; None: not known yet."""
        if not urls:
            return Result(url="", outcome="no url")
        failure: Result | None = None
        complete = True
        for url in urls:
            found = self._journal.find(url)
            if found is not None and self._store.holds(found[0]):
                return found[0]
            if found is not None and found[0].outcome != "ok":
                failure = found[0]
            elif found is None and host_of(url) in self.given_up:
                failure = Result(url=url, outcome="connection")
            else:  # not asked, or its picture has gone
                complete = False
        return failure if complete else None

    def notes(self) -> dict[str, str]:
        """For the progress bar: outcomes, and bytes a second."""
        with self._changed:
            found = {name: f"{count:,}" for name, count in self._counts.most_common()}
            rate = self._bytes / 2**20 / max(1e-9, time.monotonic() - self._began)
        return {**found, "MiB/s": f"{rate:.1f}"}

    def _done(self, urls: Sequence[str]) -> bool:
        """Whether a picture is there and all better addresses have failed."""
        for url in urls:
            found = self._journal.find(url)
            if found is None or found[0].outcome == "ok":
                return found is not None and self._store.holds(found[0])
        return False

    def _advance(self, item: WantedItem) -> None:
        """Find the item's next address to ask for, or finish it."""
        # A later run: an item that got its second picture because the first address failed is done.
        # Without this look, each run would ask again for the first where its failure may have
        # passed.
        if item.at == 0 and self._done(item.urls):
            self._finish("ok")
            return
        while item.at < len(item.urls):
            url = item.urls[item.at]
            if url in self._asked:
                self._asked[url].items.append(item)
                return
            if self._has(url):
                self._finish("ok")
                return
            if not self._exhausted(url):
                self._begin(url, item)
                return
            item.at += 1
        result = self.result_of(item.urls)
        self._finish(result.outcome if result else "connection")

    def _has(self, url: str) -> bool:
        found = self._journal.find(url)
        return found is not None and self._store.holds(found[0])

    def _exhausted(self, url: str) -> bool:
        """Whether an address is not worth a request in this run."""
        found = self._journal.find(url)
        if found is not None and found[0].outcome != "ok":  # a picture that has gone is fetched
            result, of_this_run = found
            if of_this_run or result.outcome not in _ASKED_AGAIN:
                return True
        try:
            return host_of(url) in self.given_up
        except WebError:
            self._journal.add(Result(url=url, outcome="bad url"))
            return True

    def _begin(self, url: str, item: WantedItem) -> None:
        fetch = Fetch(url=url, now=url, host=host_of(url), items=[item])
        self._asked[url] = fetch
        self._queue(fetch)

    def _queue(self, fetch: Fetch) -> None:
        if fetch.host not in self._known_hosts:
            self._known_hosts.add(fetch.host)
            self.hosts_seen += 1
        self._queues.setdefault(fetch.host, deque()).append(fetch)
        self._changed.notify()

    def _finish(self, outcome: str) -> None:
        self.pending -= 1
        self.done += 1
        self._counts[outcome] += 1
        if not self.pending:
            self._changed.notify_all()

    def _wake(self) -> None:
        """Queue the addresses whose time has come."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._queue(heapq.heappop(self._later)[2])

    def _idle_s(self) -> float | None:
        """Until something may be ready without anything else happening; None = never."""
        times = [self.hosts.pause_left_s(host) for host in self._queues]
        times = [each for each in times if each > 0]
        if self._later:
            times.append(max(0.0, self._later[0][0] - time.monotonic()))
        return min(times, default=None)

    def _count_error(self, host: str, error: Failed) -> None:
        """Give up a host that has only failed, often enough and for long enough."""
        if error.status is not None or error.trouble not in ("connection", "timeout"):
            self._errors.pop(host, None)
            return
        found = self._errors.setdefault(host, _Errors(since=time.monotonic()))
        found.count += 1
        # Many errors in a second may be one short failure of the network, and few in a minute a
        # slow host: both numbers must be passed.
        long_enough = time.monotonic() - found.since >= self._give_up_s
        if found.count < self._give_up_errors or not long_enough or host in self.given_up:
            return
        self.given_up.add(host)
        # What waits for the host is concluded at once, or its items would wait for ever.
        waiting = list(self._queues.pop(host, ()))
        waiting += [fetch for _, _, fetch in self._later if fetch.host == host]
        self._later = [each for each in self._later if each[2].host != host]
        heapq.heapify(self._later)
        for fetch in waiting:
            self._conclude(fetch, Result(url=fetch.url, outcome="connection", tries=fetch.tries))
