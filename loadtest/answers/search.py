"""The search for the largest load within objectives, over a function that measures a load. No network, no clock."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtest.measures.document import merge_distributions

__all__ = ["Judgement", "Objective", "Search", "judge"]

Verdict = Literal["kept", "missed", "open"]
PRECISION = 0.03  # 5 % is what is promised, and chance wants its part
Z = 1.96  # of a 95 % interval
FAR_BELOW, FEW = 0.5, 30  # of the limit; streams that are enough if none comes near it
FEWEST = 3  # streams beyond the limit: one slow one of a few is chance


@dataclass(frozen=True)
class Objective:
    """At least `percent` of the streams have at most `limit` milliseconds in a measure; failed ones do not."""

    measure: str
    percent: float
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} p{self.percent:g} below {self.limit:g} ms"


@dataclass(frozen=True)
class Judgement:
    """Whether an objective is kept; "open": it takes more streams to tell. `estimate` is the percentile so far."""

    verdict: Verdict
    estimate: float
    streams: int

    @property
    def is_kept(self) -> bool:
        """The best guess."""
        return self.verdict == "kept"


def judge(runs: Sequence[Mapping[str, Any]], objective: Objective, needed: int) -> Judgement:
    """Judge the runs of one load together, by the share of streams beyond the limit and its 95 % interval (Wilson).

    Args:
        needed: streams from which on the estimate decides what the interval leaves open.
    """
    found = merge_distributions(list(map(dict, runs)), objective.measure)
    failed = int(sum(run["figures"]["failed"] for run in runs))
    streams, beyond = found.count + failed, found.above(objective.limit) + failed
    estimate = found.percentile(objective.percent) if not failed else math.inf
    if not streams:
        return Judgement("missed" if failed else "open", estimate, 0)
    allowed = 1 - objective.percent / 100
    low, high = _wilson(beyond, streams)
    if high <= allowed or (streams >= FEW and not failed and found.most <= FAR_BELOW * objective.limit):
        return Judgement("kept", estimate, streams)
    if low > allowed and beyond >= FEWEST:
        return Judgement("missed", estimate, streams)
    if streams >= needed:
        return Judgement("kept" if beyond <= allowed * streams else "missed", estimate, streams)
    return Judgement("open", estimate, streams)


def _wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the interval of a share. E. B. Wilson, 1927."""
    share, z2 = successes / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return middle - half, middle + half


@dataclass
class Search:
    """Doubles the load until it is too much, closes in on the largest that is kept to 5 %, and measures it once more.

    Args:
        is_kept: measures a load and says whether its objectives are kept; where the second argument is True, it
            measures it once more, whatever is known of it.
        whole: loads are whole numbers.
    """

    is_kept: Callable[[float, bool], bool]
    first: float = 1.0
    most: float = 4096.0
    whole: bool = True
    kept: list[float] = field(default_factory=list)

    def run(self) -> float:
        """Return the largest load that is kept, 0 if none is; the largest allowed one if all are."""
        low, high = self._double()
        while high is not None and low and high / low > 1 + PRECISION and (middle := self._between(low, high)):
            low, high = (middle, high) if self._try(middle) else (low, middle)
        return self._confirm(low)

    def _double(self) -> tuple[float, float | None]:
        load = self.first
        if not self._try(load):
            return self._halve(load)
        while load < self.most:
            following = min(2 * load, self.most)
            if not self._try(following):
                return load, following
            load = following
        return load, None

    def _halve(self, load: float) -> tuple[float, float]:
        """Look below the first load, which is too much."""
        while load > (1 if self.whole else self.first / 64):
            lower = max(1.0, load // 2) if self.whole else load / 2
            if self._try(lower):
                return lower, load
            load = lower
        return 0.0, load

    def _between(self, low: float, high: float) -> float | None:
        middle = math.sqrt(low * high)
        if not self.whole:
            return middle
        middle = round(middle)
        return middle if low < middle < high else None

    def _try(self, load: float) -> bool:
        found = self.is_kept(load, False)
        if found:
            self.kept.append(load)
        return found

    def _confirm(self, load: float) -> float:
        """Measure the load once more; if that says otherwise, look below in steps that grow, and close in again."""
        missed, step = 0.0, PRECISION / 2
        while load and not self.is_kept(load, True):
            missed, load, step = load, self._below(load, step), 2 * step
        while load and missed / load > 1 + PRECISION and (middle := self._between(load, missed)):
            load, missed = (middle, missed) if self.is_kept(middle, True) else (load, middle)
        return load

    def _below(self, load: float, step: float) -> float:
        lower = load / (1 + step)
        if self.whole:
            return math.floor(min(lower, load - 1))
        return lower if lower > self.first / 64 else 0.0
