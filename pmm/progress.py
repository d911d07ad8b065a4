"""Progress of anything that lasts: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pmm.messages import is_quiet

logger = logging.getLogger(__name__)

LINE_EVERY = 10.0
"""Seconds between two plain lines where stderr is no terminal."""


class Progress:
    """A counter that shows rate, remaining time and notes on stderr."""

    def __init__(self, total: int | None, label: str, unit: str) -> None:
        self.done = 0
        self._total, self._label, self._unit = total, label, unit
        self._start = self._last = time.monotonic()
        self._notes: dict[str, object] = {}
        self._bar = None
        if sys.stderr.isatty() and not is_quiet():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True)

    def advance(self, n: int = 1, **notes: object) -> None:
        """Count n more; notes (name=value) stand behind the rate."""
        self.done += n
        self._notes.update(notes)
        if self._bar is not None:
            if notes:
                self._bar.set_postfix(notes, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            logger.info(self._line())

    def close(self) -> None:
        """End the bar; where there is none, print the last line of a job that took a while."""
        if self._bar is not None:
            self._bar.close()
        elif time.monotonic() - self._start >= LINE_EVERY:
            logger.info(self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        rate = self.done / elapsed if elapsed > 0 else 0.0
        line = f"{self._label}: {self.done:,}"
        if self._total:
            line += f" of {self._total:,}"
        line += f" {self._unit}, {rate:,.1f}/s"
        if self._total and rate > 0 and self.done < self._total:
            line += f", {(self._total - self.done) / rate:,.0f} s left"
        return line + "".join(f", {name} {value}" for name, value in self._notes.items())


@contextmanager
def progress(total: int | None, label: str, unit: str) -> Iterator[Progress]:
    """Show progress while the block runs.

    Args:
        total: how many there are, None if unknown.
        label: what is being done ("Sharding HM").
        unit: what is counted, in the plural ("pictures").
    """
    counter = Progress(total, label, unit)
    try:
        yield counter
    finally:
        counter.close()
