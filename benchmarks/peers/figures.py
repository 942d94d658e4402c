"""The figures of a run: medians with their spread over the rounds, and ratios within a round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.table import Load, Peer

__all__ = ["Figures", "Spread"]

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Figures:
    """All results, by peer and round."""

    results: Mapping[str, Sequence[Result]]

    def error(self, peer: Peer) -> str | None:
        """Return why a peer has no figures at all; None if it has some."""
        errors = [result["error"] for result in self.results[peer.name] if "error" in result]
        return errors[-1] if errors and len(errors) == len(self.results[peer.name]) else None

    def load_error(self, peer: Peer, load: Load) -> str | None:
        found = [result["loads"][load.key] for result in self._measured(peer)]
        errors = [each["error"] for each in found if "error" in each]
        return errors[-1] if errors and len(errors) == len(found) else None

    def speed(self, peer: Peer, load: Load) -> Spread | None:
        return self._spread(peer, load, lambda found: found["speed"])

    def percentiles(self, peer: Peer, load: Load, name: str) -> tuple[Spread, Spread] | None:
        """Return the 50th and the 99th percentile of `first_ms` or `gaps_ms`, each over the rounds."""
        pairs = [
            self._spread(peer, load, lambda found, i=i: found[name][i] if found.get(name) else None) for i in (0, 1)
        ]  # type: ignore[misc]
        return (pairs[0], pairs[1]) if pairs[0] and pairs[1] else None

    def value(self, peer: Peer, load: Load, name: str) -> Spread | None:
        return self._spread(peer, load, lambda found: found.get(name))

    def ratio(self, peer: Peer, load: Load, other: Peer, other_load: Load, name: str = "speed") -> Spread | None:
        """Return the ratio of two peers' speeds, or of their 99th percentiles, within the rounds that have both."""
        ratios = []
        for one, two in zip(self.results[peer.name], self.results[other.name], strict=True):
            a, b = (_value(result, each, name) for result, each in ((one, load), (two, other_load)))
            if a and b:
                ratios.append(a / b)
        return Spread.of(ratios)

    def others(self) -> float:
        """Return the mean of the cores that other processes used meanwhile."""
        loads = [
            found
            for results in self.results.values()
            for result in results
            for found in result.get("loads", {}).values()
        ]
        return statistics.fmean(found["others"] for found in loads) if loads else 0.0

    def failures(self, peer: Peer) -> tuple[int, int, str]:
        """Return how many texts were wrong, how many ended with an error, and one of these."""
        found = [each for result in self._measured(peer) for each in result["loads"].values() if "error" not in each]
        messages = [message for each in found for message in each.get("failed", ())]
        return sum(each["wrong"] for each in found), sum(each["failures"] for each in found), "".join(messages[:1])

    def greedy(self, peer: Peer) -> list[str]:
        return [text for result in self._measured(peer) for text in result["greedy"].values()]

    def samples(self, peer: Peer) -> list[str]:
        found = [each for result in self._measured(peer) for each in result["loads"].values()]
        return [text for each in found for text in each.get("samples", ())]

    def _measured(self, peer: Peer) -> list[Result]:
        return [result for result in self.results[peer.name] if "error" not in result]

    def _spread(self, peer: Peer, load: Load, take: Callable[[Result], float | None]) -> Spread | None:
        found = [result["loads"].get(load.key) for result in self._measured(peer)]
        values = [take(each) for each in found if each and "error" not in each]
        return Spread.of([value for value in values if value is not None])


def _value(result: Result, load: Load, name: str) -> float | None:
    found = result.get("loads", {}).get(load.key, {})
    if name == "speed":
        return found.get("speed")  # type: ignore[no-any-return]
    return found[name][1] if found.get(name) else None
