"""The record of one stream: when it should have begun, when it did, when its messages came, how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from loadtest.timing import percentile

__all__ = ["MEASURES", "End", "Measure", "StreamRecord"]

# "abandoned": the caller gave it up on purpose. "cut off": the run was over.
End = Literal["finished", "failed", "abandoned", "cut off"]


@dataclass(slots=True)
class StreamRecord:
    """One stream; times are in seconds of one clock, and counted from the intended start.

    A slow reader (`is_paced`) and a call of several texts (`is_single` is False) have no gaps worth measuring: they are
    the reader's own, or of several texts together.
    """

    kind: str
    intended: float
    started: float
    arrivals: list[float] = field(default_factory=list)  # of the messages that had characters
    chars: int = 0
    ended: float = 0.0
    end: End = "failed"
    status: str = "OK"
    reason: str = ""
    queue_seconds: float | None = None
    is_paced: bool = False
    is_single: bool = True
    is_text: bool = True

    @property
    def lag(self) -> float:
        return (self.started - self.intended) * 1000

    @property
    def first(self) -> float | None:
        return (self.arrivals[0] - self.intended) * 1000 if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """The milliseconds between one message and the next; empty where they say nothing of the server."""
        if self.is_paced or not self.is_single:
            return []
        return [(b - a) * 1000 for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def gap_median(self) -> float | None:
        return median(gaps) if (gaps := self.gaps) else None

    @property
    def gap_p99(self) -> float | None:
        return percentile(gaps, 0.99) if (gaps := self.gaps) else None

    @property
    def stall(self) -> float | None:
        return max(self.gaps, default=None)

    @property
    def per_char(self) -> float | None:
        if self.chars < 2 or self.is_paced or not self.is_single or self.end != "finished":
            return None
        return (self.ended - self.arrivals[0]) * 1000 / (self.chars - 1)

    @property
    def stream_rate(self) -> float | None:
        seconds = self.ended - self.intended
        return None if self.is_paced or self.end != "finished" or seconds <= 0 else self.chars / seconds

    @property
    def whole(self) -> float | None:
        return None if self.is_paced or self.end != "finished" else (self.ended - self.intended) * 1000

    @property
    def queue(self) -> float | None:
        return None if self.queue_seconds is None else self.queue_seconds * 1000


@dataclass(frozen=True)
class Measure:
    """One measure of a stream: its title, its unit, its formula in words, and how a record gives it."""

    title: str
    unit: str
    formula: str
    of: Callable[[StreamRecord], float | None]
    is_better_low: bool = True


# By the name that `--require`, `--goodput`, `compare` and the documents use. "gap" pools the gaps of all streams.
MEASURES: dict[str, Measure] = {
    "first": Measure(
        "time to first character", "ms", "arrival of the first message - intended start", lambda record: record.first
    ),
    "gap": Measure(
        "gap between messages", "ms", "arrival of a message - arrival of the one before; all streams pooled",
        lambda record: None,
    ),
    "gap-median": Measure("gap, median of a stream", "ms", "median of a stream's gaps", lambda each: each.gap_median),
    "gap-p99": Measure(
        "gap, p99 of a stream", "ms", "99th percentile (nearest rank) of a stream's gaps", lambda record: record.gap_p99
    ),
    "stall": Measure("longest stall", "ms", "largest of a stream's gaps", lambda record: record.stall),
    "per-char": Measure(
        "time per character", "ms", "(end - arrival of the first message) / (characters - 1)",
        lambda record: record.per_char,
    ),
    "whole": Measure("whole call", "ms", "end - intended start", lambda record: record.whole),
    "stream-rate": Measure(
        "characters a second of a stream", "chars/s", "characters / (end - intended start)",
        lambda record: record.stream_rate, is_better_low=False,
    ),
    "queue": Measure(
        "queue time", "ms", "time until a row of the batch was free, as the server says", lambda record: record.queue
    ),
    "lag": Measure("dispatcher's lag", "ms", "actual start - intended start", lambda record: record.lag),
}  # fmt: skip
