"""What one identity may have: texts at a time, and characters a second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from server.engine.stop_strings import LONGEST_STOP
from server.errors import Overloaded

__all__ = ["BURST_SECONDS", "LENT_CHARS", "Quota", "Quotas"]

# Where characters have to be earned, so many are lent to a text; a stop string may hold back half of them.
LENT_CHARS = 2 * LONGEST_STOP
# So much may be had at once after a pause.
BURST_SECONDS = 1.0
LEAST_SWEEP = 1024


class Quota:
    """One identity's.

    Args:
        most_texts: open at a time; 0 for no limit.
        chars_per_second: of all its texts together; 0 for no limit.
        burst: seconds' worth that may be had at once after a pause.
    """

    def __init__(self, identity: str, most_texts: int, chars_per_second: float, burst: float) -> None:
        self.identity, self.most_texts, self.chars_per_second = identity, most_texts, chars_per_second
        self._burst = burst
        self.texts = self.calls = 0
        self._paid_until = 0.0  # when what was taken will have been earned, by time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether a new one would be the same."""
        return not self.calls and self._paid_until <= time.monotonic() - self._burst

    def check_room(self, texts: int) -> None:
        """Raises Overloaded if so many more may not be open."""
        if self.most_texts and self.texts + texts > self.most_texts:
            raise Overloaded.too_many_of(self.identity, self.most_texts)

    @contextmanager
    def text(self) -> Iterator[None]:
        """Counts a text as open. Raises Overloaded."""
        self.check_room(1)
        self.texts += 1
        try:
            yield
        finally:
            self.texts -= 1

    def charge(self, chars: int) -> float:
        """Takes characters, or gives back with a negative number; returns the seconds until they may be generated."""
        if not self.chars_per_second:
            return 0.0
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - self._burst) + chars / self.chars_per_second
        return max(0.0, self._paid_until - now)


class Quotas:
    """Those of all identities that have something open, or were charged lately, and some more."""

    def __init__(self, most_texts: int, chars_per_second: float, burst: float = BURST_SECONDS) -> None:
        self._limits = most_texts, chars_per_second, burst
        self._quotas: dict[str, Quota] = {}
        self._sweep_at = LEAST_SWEEP

    @contextmanager
    def of(self, identity: str) -> Iterator[Quota]:
        """One and the same for all calls of an identity."""
        quota = self._quotas.get(identity) or self._new(identity)
        quota.calls += 1
        try:
            yield quota
        finally:
            quota.calls -= 1

    def _new(self, identity: str) -> Quota:
        """Forgets the idle ones when there are twice as many as after the last time."""
        if len(self._quotas) >= self._sweep_at:
            self._quotas = {name: quota for name, quota in self._quotas.items() if not quota.idle}
            self._sweep_at = max(LEAST_SWEEP, 2 * len(self._quotas))
        quota = self._quotas[identity] = Quota(identity, *self._limits)
        return quota
