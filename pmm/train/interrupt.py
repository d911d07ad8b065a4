"""Signals that end the program: Ctrl-C (SIGINT), and SIGTERM, which says the same from outside.

During training the step in hand is finished, and then the run is saved.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_last = signal.SIGINT


class Underway(KeyboardInterrupt):
    """Stopped where the same command would not go on, or would begin again.

    A run's folder is there already; who catches it says what goes on with it.
    """


def came(number: int) -> None:
    """Remember which signal came, for the exit status."""
    global _last
    _last = signal.Signals(number)


def exit_status() -> int:
    """Of a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + _last


@contextmanager
def terminated_as_by_ctrl_c() -> Iterator[None]:
    """In the block SIGTERM raises KeyboardInterrupt, so that all is left as after Ctrl-C.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came(signal.SIGINT)
    former = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def underway() -> Iterator[None]:
    """Tell signals that come in the block from those before it.

    Raises:
        Underway: in place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise Underway from stopped


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    came(number)
    raise KeyboardInterrupt


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
