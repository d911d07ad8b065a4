"""How much memory is free."""

import os


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
