"""What of the machine this process may use: cores, and memory."""

import ctypes
import os
import sys


def cores() -> int:
    """How many processor cores this process may use.

    A container or a batch system may grant fewer than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes() -> int:
    """Memory that can be had without pushing other programs out, in bytes.

    Linux counts the file cache as free; elsewhere half of the machine's memory is assumed.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            found = dict(line.split(":", 1) for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees, for what it allocates next.

    glibc gives large blocks back to the system at once, and a training step that allocates the same
    again has the system clear every page of them anew. Elsewhere this does nothing.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h."""
