"""Training batches, in the order of `order.py`.

Training batch k of an epoch is a pure function of (training set, seed, epoch, k). Threads build the
next ones while the current one is trained on (decoding JPEG releases the interpreter's lock).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from pmm.arrays import Int64s
from pmm.data.batch import Batch
from pmm.data.training_set import TrainingSet
from pmm.data.windows import MAX_LENGTH
from pmm.errors import InputError


def steps_per_epoch(n_users: int, batch_users: int) -> int:
    """Batches an epoch: the last may be smaller, but a single user left over joins the one before.

    >>> [steps_per_epoch(n, 4) for n in (3, 4, 5, 6, 8, 9)]
    [1, 1, 1, 2, 2, 2]
    """
    # A batch of one user has no other user's items, hence no negatives and no loss to learn from.
    whole, rest = divmod(n_users, batch_users)
    return max(1, whole + (rest > 1))


def batch_positions(n_users: int, batch_users: int, step: int) -> Int64s:
    """Which positions of the epoch's order a step takes.

    >>> [batch_positions(5, 2, step).tolist() for step in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    last = step == steps_per_epoch(n_users, batch_users) - 1
    return np.arange(step * batch_users, n_users if last else (step + 1) * batch_users)


def train_batches(
    data: TrainingSet,
    *,
    seed: int,
    epoch: int,
    batch_users: int,
    max_length: int = MAX_LENGTH,
    start_step: int = 0,
    ahead: int = 2,
) -> "BatchLoader":
    """The batches of one epoch from `start_step` on; every position is in exactly one.

    A row holds `max_length + 1` consecutive items of a user's training part, by the training set's
    rule the most recent ones (`pmm.data.windows`).

    Args:
        data: what to train on.
        seed: of the order.
        epoch: each has its own order.
        batch_users: users a batch, at least 2: the other users' items are the negatives.
        max_length: input positions L; rows have L + 1 slots.
        start_step: where to go on in the epoch.
        ahead: batches (and threads) that are made ahead; each may hold 150 kB a distinct item.

    Raises:
        InputError: `batch_users` is below 2.
    """
    if batch_users < 2:
        raise InputError(
            f"training on {data.target} needs at least 2 users a batch, for each other's "
            f"negatives: found {batch_users}"
        )

    def make(step: int) -> Batch:
        positions = batch_positions(len(data), batch_users, step)
        return data.collate(data.rows(positions, seed=seed, epoch=epoch, length=max_length + 1))

    return BatchLoader(make, start_step, steps_per_epoch(len(data), batch_users), ahead)


class BatchLoader:
    """Batches made ahead by threads, in order. Close it, or use it in a `with` block.

    An error while a batch is made is raised where that batch would have come.
    """

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int, ahead: int) -> None:
        self.waited = 0.0
        """Seconds that the consumer has waited for batches."""
        self._make = make
        self._next, self._stop = start, stop
        self._ahead = max(1, ahead)
        # Threads, not processes: decoding JPEG releases the interpreter's lock, and a batch, 150
        # kB an item, need not be sent.
        self._pool = ThreadPoolExecutor(self._ahead, thread_name_prefix="pmm-batches")
        self._coming: deque[Future[Batch]] = deque()

    def __len__(self) -> int:
        """Batches that are still to come."""
        return max(0, self._stop - self._next) + len(self._coming)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while self._next < self._stop and len(self._coming) < self._ahead:
            self._coming.append(self._pool.submit(self._make, self._next))
            self._next += 1
        if not self._coming:
            self.close()
            raise StopIteration
        # The oldest, though a later one may be ready: the order of batches is part of a run's
        # result.
        start = time.perf_counter()
        try:
            batch = self._coming[0].result()
        except BaseException:
            self.close()
            raise
        self.waited += time.perf_counter() - start
        # The next one is begun before this one is trained on, not when it is asked for.
        self._coming.popleft()
        if self._next < self._stop:
            self._coming.append(self._pool.submit(self._make, self._next))
            self._next += 1
        return batch

    def close(self) -> None:
        """Drop what is not taken yet and end the threads."""
        self._next = self._stop
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
