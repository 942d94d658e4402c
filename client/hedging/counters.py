"""Counts of what a client had to do so that its texts came."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Counters", "Counts"]


@dataclass(frozen=True)
class Counts:
    """How often a client asked again, from its beginning on.

    Attributes:
        calls: all that were sent, those below included.
        resumes: calls for the rest of a text, by kind: "checkpoint" (from one, with what came after it), "replay" (with
            all that came), "remake" (all is made again: servers are lost before they have read what came).
        retries: calls for a text of which nothing had come.
        replayed_chars: characters that were sent back.
        failures: calls that ended before their texts, by error: "Unavailable", "Overloaded", "WrongReplica", ...
        hedges: calls to a second server, as the first character was late.
        hedges_won: those among them that answered first.
    """

    calls: int = 0
    resumes: Mapping[str, int] = field(default_factory=dict)
    retries: int = 0
    replayed_chars: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    hedges: int = 0
    hedges_won: int = 0


class Counters:
    """The running counts; may be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resumes, self._failures, self._others = Counter[str](), Counter[str](), Counter[str]()

    def count_call(self, attempt: str, replayed_chars: int) -> None:
        """Count a call; `attempt` is that of its task."""
        with self._lock:
            self._others["calls"] += 1
            self._others["replayed_chars"] += replayed_chars
            if attempt == "retry":
                self._others["retries"] += 1
            elif attempt == "hedge":
                self._others["hedges"] += 1
            elif attempt:
                self._resumes[attempt] += 1

    def count_failure(self, error: Exception) -> None:
        with self._lock:
            self._failures[type(error).__name__] += 1

    def count_hedge_won(self) -> None:
        with self._lock:
            self._others["hedges_won"] += 1

    def counts(self) -> Counts:
        with self._lock:
            return Counts(resumes=dict(self._resumes), failures=dict(self._failures), **self._others)
