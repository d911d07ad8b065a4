"""What is printed: in any encoding that the terminal has, and to an output that may be full."""

import errno
import io
import os
import sys
from typing import NoReturn

OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
"""What writing to an output fails with: a full disk, a terminal that is gone, a closed pipe."""


def printable_output() -> None:
    """Print signs that the output's encoding lacks as `?`, in place of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def flush_output() -> None:
    """Write out what was printed while an error can still be told.

    Raises:
        SystemExit: with status 1, where it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno not in OUTPUT_LOST:
            raise
        refuse_output(error)


def refuse_output(error: OSError) -> NoReturn:
    """Say that the output cannot be written, and end; of a reader that has enough, in silence.

    Raises:
        SystemExit: with status 1.
    """
    # Python would try again at its end, and print a traceback of its own.
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = None
    finally:
        os.close(null)
    if error.errno != errno.EPIPE:
        print(
            f"Error: the output cannot be written ({error.strerror}). The work itself is done up "
            "to here; give the output another place",
            file=sys.stderr,
        )
    raise SystemExit(1) from None
