"""Seconds and peak memory by stage of a running process."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


class Stopwatch:
    """Seconds by stage of the functions that it was put around, and the most memory seen in each.

    A function inside another one counts for its own stage only. Memory is the resident set,
    looked at fifty times a second.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self._stack = ["rest"]
        self._since = time.perf_counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._look, daemon=True).start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What the block does belongs to a stage."""
        self._count()
        self._stack.append(name)
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def wrap(self, module: Any, name: str, stage: str) -> None:
        """Replace a function of a module or class by itself under the watch."""
        inner = getattr(module, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return inner(*args, **kwargs)

        setattr(module, name, timed)

    def pull(self, pieces: Iterator[Any], stage: str) -> Iterator[Any]:
        """The pieces of an iterator, with the time to make each under a stage."""
        while True:
            with self.stage(stage):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def finish(self) -> dict[str, dict[str, float]]:
        """Stage -> seconds, and peak bytes."""
        self._count()
        return {"seconds": dict(self.seconds), "peak": {k: float(v) for k, v in self.peak.items()}}

    def _count(self) -> None:
        with self._lock:
            now = time.perf_counter()
            stage = self._stack[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
            self._since = now

    def _look(self) -> None:
        while True:
            with open("/proc/self/statm") as file:  # noqa: PTH123
                resident = int(file.read().split()[1]) * PAGE
            stage = self._stack[-1]
            self.peak[stage] = max(self.peak.get(stage, 0), resident)
            time.sleep(0.02)
