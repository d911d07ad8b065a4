"""How many processor cores this process may use."""

import os


def cores() -> int:
    """A container or a batch system may grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
