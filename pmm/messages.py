"""What the program says beside its results: `logging`, which only the command line sets up.

A module says what it does to `logging.getLogger(__name__)`. Whoever imports pmm hears nothing of it
unless they set up `logging` themselves.
"""

import logging
import sys
from typing import TextIO

from pmm.errors import InputError

_PACKAGE = "pmm"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at the time: `redirect_stderr` puts another in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logging(verbose: bool = False, quiet: bool = False) -> None:
    """Send the messages of pmm to stderr, as the command line does.

    Args:
        verbose: everything, with times and modules.
        quiet: warnings and errors alone, and no progress.

    Raises:
        InputError: both at once.
    """
    if verbose and quiet:
        raise InputError("--verbose and --quiet ask for opposites; give one of them")
    logger = logging.getLogger(_PACKAGE)
    for former in [each for each in logger.handlers if isinstance(each, _Stderr)]:
        logger.removeHandler(former)
    handler = _Stderr()
    with_times = "%(asctime)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(with_times if verbose else "%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Whether progress is not wanted: `--quiet`, or a level above INFO that a program has set."""
    return logging.getLogger(_PACKAGE).level > logging.INFO
