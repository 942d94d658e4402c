"""What happened when: counts and times by intervals of equal length, from the beginning of the run."""

from collections import Counter, defaultdict
from typing import Any

from loadtest.measures.distribution import Distribution
from loadtest.measures.record import StreamRecord

__all__ = ["Interval", "Timeline"]

DIGITS = 2  # for plots


class Interval:
    """One interval: counts of started, ended, failed, good, chars and messages; times of first characters and gaps."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first, self.gap = Distribution(DIGITS), Distribution(DIGITS)

    def merge(self, other: "Interval") -> None:
        self.counts.update(other.counts)
        self.first.merge(other.first)
        self.gap.merge(other.gap)


class Timeline:
    """The intervals of a run, by number.

    Args:
        begin: when the run began, in seconds of the clock of all that is added.
        seconds: length of an interval.
    """

    def __init__(self, begin: float = 0.0, seconds: float = 1.0) -> None:
        self.begin, self.seconds = begin, seconds
        self.intervals: defaultdict[int, Interval] = defaultdict(Interval)

    def at(self, now: float) -> Interval:
        return self.intervals[max(0, int((now - self.begin) / self.seconds))]

    def begin_stream(self, now: float) -> None:
        self.at(now).counts["started"] += 1

    def add_message(self, now: float, chars: int) -> None:
        counts = self.at(now).counts
        counts["messages"] += 1
        counts["chars"] += chars

    def end_stream(self, record: StreamRecord, *, is_good: bool) -> None:
        last = self.at(record.ended)
        last.counts["ended"] += 1
        last.counts["failed"] += record.end == "failed"
        last.counts["finished"] += record.end == "finished"
        last.counts["good"] += is_good
        if record.end != "cut off" and record.first is not None:
            self.at(record.arrivals[0]).first.add(record.first)
        for arrival, gap in zip(record.arrivals[1:], record.gaps, strict=False):
            self.at(arrival).gap.add(gap)

    def merge(self, other: "Timeline") -> None:
        self.seconds = other.seconds
        for number, interval in other.intervals.items():
            self.intervals[number].merge(interval)

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "intervals": {
                str(number): [dict(each.counts), each.first.to_json(), each.gap.to_json()]
                for number, each in self.intervals.items()
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Timeline":
        found = cls(seconds=content["seconds"])
        for number, (counts, first, gap) in content["intervals"].items():
            each = found.intervals[int(number)]
            each.counts.update(counts)
            each.first, each.gap = Distribution.from_json(first), Distribution.from_json(gap)
        return found

    def last_rate(self, name: str) -> float:
        """Return a count a second in the last whole interval, 0 before there is one."""
        whole = self.intervals.get(max(self.intervals, default=0) - 1)
        return whole.counts[name] / self.seconds if whole else 0.0

    def series(self) -> list[dict[str, Any]]:
        """Return a row for each interval: its end in seconds, rates a second, times in milliseconds or None.

        `streams` are those in flight at its end.
        """
        rows, streams = [], 0
        for number in range(max(self.intervals, default=-1) + 1):
            each = self.intervals.get(number) or Interval()
            streams += each.counts["started"] - each.counts["ended"]
            rows.append(
                {
                    "at": round((number + 1) * self.seconds, 6),
                    "streams": streams,
                    **{f"{name}_per_second": each.counts[name] / self.seconds for name in RATES},
                    **_times("first", each.first),
                    **_times("gap", each.gap),
                }
            )
        return rows


RATES = ("started", "finished", "failed", "good", "chars", "messages")


def _times(name: str, found: Distribution) -> dict[str, float | None]:
    return {f"{name}_p{p}": round(found.percentile(p), 3) if found.count else None for p in (50, 99)}
