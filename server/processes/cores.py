"""How many processor cores this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["engines_for", "most_engines", "usable_cores"]

# More engines than this are for those who ask for them: one event loop has to carry all their messages.
MOST_BY_DEFAULT = 8
# May be asked for on any machine; beyond it, one for each core.
MOST_ANYWHERE = 16
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the cores that this process may run on, or the share that its control groups may take, rounded up."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield how many cores this process's control group may take, and those above it (cgroups of version 2)."""
    try:
        own = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = CGROUPS / own.lstrip("/")
    for folder in (group, *group.parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            yield int(quota) / int(period)


def engines_for(cores: int) -> int:
    """Return how many engines suit that number of cores: of more than two, one is left for the event loop."""
    return min(cores if cores <= 2 else cores - 1, MOST_BY_DEFAULT)


def most_engines(cores: int) -> int:
    """Return how many engines of a model may be asked for: more would only take memory, and time from each other."""
    return max(cores, MOST_ANYWHERE)
