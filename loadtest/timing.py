"""The measures of one stream. Uses no locust, no grpc and no clock."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StreamTiming", "bucket", "percentile"]


@dataclass(frozen=True)
class StreamTiming:
    """The times when a request was made and when its chunks came, in seconds of one clock."""

    started: float
    arrivals: Sequence[float]

    @property
    def first_char_ms(self) -> float | None:
        """Time to the first character; None if none came."""
        return (self.arrivals[0] - self.started) * 1000 if self.arrivals else None

    @property
    def gaps_ms(self) -> list[float]:
        """Times between one chunk and the next: empty for a text of one chunk."""
        return [(b - a) * 1000 for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def gap_median_ms(self) -> float | None:
        return statistics.median(gaps) if (gaps := self.gaps_ms) else None

    @property
    def gap_p99_ms(self) -> float | None:
        return percentile(gaps, 0.99) if (gaps := self.gaps_ms) else None


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
