"""When a second server is asked for the same text, and how often that may be."""

import re
import threading
from collections import deque

__all__ = ["Hedging"]

SAMPLES, ENOUGH = 1000, 20  # first characters that are remembered, and from how many on there is a percentile
EVERY = 20  # texts after which the percentile is taken again
# More load is never made by hedges: where all servers are slow, asking twice makes them slower. A hedge costs what
# COST texts earn; FIRST hedges may be sent before the first text, and at most MOST in a row.
COST, FIRST, MOST = 25, 10, 100


class Hedging:
    """Knows after which time without a first character another server is asked; may be used by several threads.

    Args:
        after: seconds; or "p95", "p99.5": a percentile of the times that this client's texts took, once there are 20.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, after: float | str) -> None:
        found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", after) if isinstance(after, str) else None
        self._percentile = float(found[1]) if found else None
        if found is None and (isinstance(after, str) or not after > 0):
            raise ValueError(f"hedge_after: {after!r} is neither seconds above 0 nor a percentile such as 'p95'")
        self._delay = None if isinstance(after, str) else float(after)
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._unread = 0  # times that the percentile does not know
        self._earned = FIRST * COST  # texts for which no hedge was sent yet
        self._lock = threading.Lock()

    @property
    def delay(self) -> float | None:
        """The seconds after which the first character is late; None while that is not known."""
        return self._delay

    def note_first(self, seconds: float) -> None:
        """Remember how long a first character took, from the first time that it was asked for."""
        with self._lock:
            self._earned = min(MOST * COST, self._earned + 1)
            if self._percentile is None:
                return
            self._seconds.append(seconds)
            self._unread += 1
            if len(self._seconds) >= ENOUGH and (self._unread >= EVERY or self._delay is None):
                ordered, self._unread = sorted(self._seconds), 0
                self._delay = ordered[min(len(ordered) - 1, int(len(ordered) * self._percentile / 100))]

    def spend(self) -> bool:
        """Return whether a hedge may be sent, and count it."""
        with self._lock:
            may = self._earned >= COST
            self._earned -= COST * may
            return may
