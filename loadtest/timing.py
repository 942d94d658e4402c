"""Percentiles of a few values, and Locust's rounding."""

import math
from collections.abc import Sequence

__all__ = ["bucket", "percentile"]


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the smallest of `values` that at least this fraction of them doesn't exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def bucket(response_time: float) -> float:
    """Round milliseconds down to three significant digits: Locust keeps whole ones, but gaps take only a few.

    Down, because Locust keeps the longest time as it is: rounded up, a percentile could be beyond it.
    """
    nearest = float(f"{response_time:.3g}")
    if nearest <= response_time:
        return nearest
    digits = 2 - math.floor(math.log10(response_time))
    return round(nearest - 10.0**-digits, digits)
