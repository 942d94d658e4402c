"""How many processor cores this process may use."""

import math
import os
from pathlib import Path

__all__ = ["engines_for", "usable_cores"]

# More engines than this are for those who ask for them: one event loop has to carry all their messages.
MOST_BY_DEFAULT = 8
CGROUP_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return the cores that this process may run on, or the share that its control group may take, rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_MAX.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def engines_for(cores: int) -> int:
    """Return how many engines suit that number of cores: of more than two, one is left for the event loop."""
    return min(cores if cores <= 2 else cores - 1, MOST_BY_DEFAULT)
