"""The processes that write shards of items, whole shards each.

A shard is the unit of work: one process writes it from start to end, so its bytes cannot depend on
how many there are, and after a kill it is there or it is not.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TypeAlias

from pmm.errors import PmmError
from pmm.shards.item_shards import Item, write_item_shard
from pmm.shards.jpeg import PictureFormat
from pmm.shards.tokens import TokenEncoder, Tokenizer

Task: TypeAlias = tuple[int, list[Item]]
"""A shard's number and its items."""


@dataclass(frozen=True)
class Setting:
    """What every process needs, once."""

    folder: Path
    pictures: Path | None
    picture_format: PictureFormat
    tokenizer: Tokenizer | None
    """None: neither texts nor pictures are read."""
    max_tokens: int
    text_prefix: str = ""


def in_process(tasks: Iterable[Task], setting: Setting) -> Iterator[int]:
    """Write shards in this process; yields the number of items of each."""
    encoder = _encoder(setting)
    for shard, rows in tasks:
        yield _write_one(shard, rows, setting, encoder)


def _encoder(setting: Setting) -> TokenEncoder | None:
    if setting.tokenizer is None:
        return None
    return TokenEncoder(setting.tokenizer, setting.max_tokens, setting.text_prefix)


def _write_one(shard: int, rows: list[Item], setting: Setting, encoder: TokenEncoder | None) -> int:
    write_item_shard(
        setting.folder,
        shard,
        rows,
        pictures=setting.pictures,
        picture_format=setting.picture_format,
        encoder=encoder,
    )
    return len(rows)


def pooled(tasks: Iterable[Task], setting: Setting, workers: int) -> Iterator[int]:
    """Write shards in several processes; yields the number of items of each, as they are finished.

    Few are handed out ahead, so memory stays bounded.

    Raises:
        PmmError: a process was ended from outside.
    """
    with _pool(setting, workers) as pool:
        # In the order in which they are finished: a shard's number is in its name, and one slow
        # shard holds nothing up.
        running: set[Future[int]] = set()
        for shard, rows in tasks:
            running.add(pool.submit(_work, shard, rows))
            if len(running) > workers:  # one waits, so that none is idle
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)


@contextmanager
def _pool(setting: Setting, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share one import of torch where the system can; never forks of this one."""
    # A fork would copy the locks of torch's and Arrow's threads in whatever state they are in, and
    # may never get on; "spawn" imports torch in every process. The fork server imports it once.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(setting,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise PmmError(
            "a process that wrote shards was ended from outside (most often: out of memory). "
            "Finished shards are kept: run the same command again, with fewer --workers"
        ) from error
    finally:
        # Shards that are under way are finished, so that they need not be made again.
        pool.shutdown(wait=True, cancel_futures=True)


# A process has one, made at its start: a tokenizer with each task would be pickled for every shard.
_worker: tuple[Setting, TokenEncoder | None] | None = None


def _start(setting: Setting) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker = (setting, _encoder(setting))


def _follow_parent() -> None:
    """End with the parent, however it ends: a killed one leaves no message in the pool's queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _work(shard: int, rows: list[Item]) -> int:
    if _worker is None:
        raise RuntimeError("a worker must be started by _start")
    return _write_one(shard, rows, *_worker)
