"""How often a measure had which value: a histogram of three digits that merges exactly and goes through JSON."""

import math
from collections.abc import Iterator
from typing import Any, Self

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

__all__ = ["DIGITS", "RESOLUTION", "Distribution"]

RESOLUTION = 0.01  # the least difference that is kept: of milliseconds, or of whatever the values are in
DIGITS = 3
LARGEST = 3_600_000  # an hour in milliseconds; what is beyond counts as this


class Distribution:
    """Values from 0, each kept to `RESOLUTION` and to its first digits, whichever is coarser.

    Args:
        digits: significant digits that are kept, 1 to 5.
    """

    def __init__(self, digits: int = DIGITS) -> None:
        self._histogram = HdrHistogram(1, round(LARGEST / RESOLUTION), digits)
        self._digits = digits
        self.count = 0
        self.sum = 0.0
        self.least, self.most = math.inf, 0.0

    def add(self, value: float, times: int = 1) -> None:
        value = min(max(value, 0.0), LARGEST)
        self._histogram.record_value(round(value / RESOLUTION), times)
        self.count += times
        self.sum += value * times
        self.least, self.most = min(self.least, value), max(self.most, value)

    def merge(self, other: "Distribution") -> None:
        """Add the values of another distribution, as if they had been added one by one."""
        if other.count:
            self._histogram.add(other._histogram)
            self.count += other.count
            self.sum += other.sum
            self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def percentile(self, percent: float) -> float:
        """Return the smallest value that at least this share of all does not exceed (nearest rank); nan if empty."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100 - 1e-9))
        if rank == self.count:
            return self.most
        found = self._histogram.get_value_at_percentile(100 * rank / self.count) * RESOLUTION
        return float(min(max(found, self.least), self.most))

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.nan

    def above(self, limit: float) -> int:
        """Return how many values are greater than `limit`, as far as the digits tell."""
        last = self._histogram.get_counts_array_index(min(round(limit / RESOLUTION), round(LARGEST / RESOLUTION)))
        return self.count - int(sum(self._histogram.counts[: last + 1]))

    def steps(self) -> Iterator[tuple[float, int]]:
        """Yield each value that occurs, upwards, with how many are not greater."""
        below = 0
        for item in self._histogram.get_recorded_iterator():
            below += item.count_added_in_this_iter_step
            yield item.value_iterated_to * RESOLUTION, below

    def to_json(self) -> dict[str, Any]:
        """Return all of it; the histogram is in HdrHistogram's own V2 encoding, which tools of other languages read."""
        return {
            "digits": self._digits,
            "count": self.count,
            "sum": self.sum,
            "least": self.least if self.count else None,
            "most": self.most,
            "histogram": self._histogram.encode().decode() if self.count else "",
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        found = cls(content["digits"])
        if content["count"]:
            found._histogram.decode_and_add(content["histogram"].encode())
            found.count, found.sum = content["count"], content["sum"]
            found.least, found.most = content["least"], content["most"]
        return found
