"""All measures of a run, of one process or merged from several."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from loadtest.measures.distribution import Distribution
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import MEASURES, StreamRecord
from loadtest.measures.timeline import Timeline

__all__ = ["Measures"]


class Measures:
    """Sums over streams. Those that should have begun before `begin` have no times here, nor have those that the end of
    the run cut off; characters count by the time at which they came, failures always.

    Args:
        begin: the end of the warm-up, in seconds of the records' clock.
        timeline: the intervals, which include the warm-up.
    """

    def __init__(self, objectives: Objectives, begin: float = 0.0, timeline: Timeline | None = None) -> None:
        self.objectives, self.begin = objectives, begin
        self.timeline = timeline or Timeline()
        self.seconds = 0.0  # measured, without the warm-up
        self.counts: Counter[str] = (
            Counter()
        )  # finished, failed, abandoned, cut off, good, judged, chars, messages, ...
        self.errors: Counter[tuple[str, str]] = Counter()  # status, reason
        self.distributions: defaultdict[str, Distribution] = defaultdict(Distribution)
        self.kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.kind_times: defaultdict[str, Distribution] = defaultdict(Distribution)

    def add_message(self, now: float, chars: int) -> None:
        self.timeline.add_message(now, chars)
        if now >= self.begin:
            self.counts["messages"] += 1
            self.counts["chars"] += chars

    def add(self, record: StreamRecord) -> None:
        is_good = bool(self.objectives) and self.objectives.are_met(record)
        self.timeline.end_stream(record, is_good=is_good)
        if record.intended < self.begin and record.end in ("finished", "abandoned"):
            self.counts["warm-up"] += 1
            return
        self.counts[record.end] += 1
        self.kinds[record.kind][record.end] += 1
        self.kinds[record.kind]["chars"] += record.chars
        if record.end == "failed":
            self.errors[record.status, record.reason] += 1
        if record.end in ("finished", "failed"):
            self.counts["judged"] += 1
            self.counts["good"] += is_good
        if record.end != "cut off":
            self._add_times(record)

    def _add_times(self, record: StreamRecord) -> None:
        self.distributions["lag"].add(record.lag)
        if record.end == "failed":
            return
        if record.whole is not None:
            self.kind_times[record.kind].add(record.whole)
        if not record.is_text:
            return
        for name, measure in MEASURES.items():
            value = measure.of(record)
            if value is not None and name != "lag":
                self.distributions[name].add(value)
        for gap in record.gaps:
            self.distributions["gap"].add(gap)

    def merge(self, other: "Measures") -> None:
        """Add what another process measured at the same time, or this one later."""
        self.seconds = max(self.seconds, other.seconds)
        self.counts.update(other.counts)
        self.errors.update(other.errors)
        for name, counts in other.kinds.items():
            self.kinds[name].update(counts)
        _merge(self.distributions, other.distributions)
        _merge(self.kind_times, other.kind_times)
        self.timeline.merge(other.timeline)

    def to_json(self) -> dict[str, Any]:
        return {
            "objectives": str(self.objectives),
            "seconds": self.seconds,
            "counts": dict(self.counts),
            "errors": [[*error, count] for error, count in self.errors.items()],
            "kinds": {name: dict(counts) for name, counts in self.kinds.items()},
            "distributions": {name: found.to_json() for name, found in self.distributions.items()},
            "kind_times": {name: found.to_json() for name, found in self.kind_times.items()},
            "timeline": self.timeline.to_json(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Measures":
        found = cls(Objectives.parse(content["objectives"]), timeline=Timeline.from_json(content["timeline"]))
        found.seconds = content["seconds"]
        found.counts.update(content["counts"])
        found.errors.update({(status, reason): count for status, reason, count in content["errors"]})
        for name, counts in content["kinds"].items():
            found.kinds[name].update(counts)
        _read(found.distributions, content["distributions"])
        _read(found.kind_times, content["kind_times"])
        return found

    def per_second(self, name: str) -> float:
        return self.counts[name] / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float | None:
        """The share of streams that met every objective; those that failed have not. None without objectives."""
        judged = self.counts["judged"]
        return self.counts["good"] / judged if self.objectives and judged else None


def _merge(own: defaultdict[str, Distribution], others: defaultdict[str, Distribution]) -> None:
    for name, found in others.items():
        own[name].merge(found)


def _read(own: defaultdict[str, Distribution], content: dict[str, Any]) -> None:
    read: Callable[[dict[str, Any]], Distribution] = Distribution.from_json
    own.update({name: read(found) for name, found in content.items()})
