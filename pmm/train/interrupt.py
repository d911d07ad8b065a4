"""Ctrl-C (and SIGTERM) during training: the step in hand is finished, and then the run is saved."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from pmm.stopping import came

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While the block runs, a first signal only sets `asked`; a second one ends the program.

    Outside the main thread, where Python allows no handlers, `asked` stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._former: dict[signal.Signals, Any] = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt: for work that changes nothing."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        came(number)
        if self.asked or self._at_once:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("\nstopping after this step; again to stop at once, unsaved")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {each: signal.signal(each, self._handle) for each in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._former.items():
            signal.signal(each, handler)
