"""Signals that end the program: Ctrl-C (SIGINT) and SIGTERM, which says the same from outside."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

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
