"""Quotas of identities: texts at a time, and characters a second."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Overloaded
from server.limits import BURST_SECONDS

__all__ = ["Quota", "Quotas"]

LEAST_SWEEP = 1024


class Quota:
    """The quota of one identity, and its use.

    Args:
        most_texts: texts that may be open at a time; 0 for no limit.
        chars_per_second: characters a second of all its texts together; 0 for no limit.
        burst: seconds' worth of characters that may be had at once after a pause.
    """

    def __init__(self, identity: str, most_texts: int, chars_per_second: float, burst: float) -> None:
        self.identity, self.most_texts, self.chars_per_second = identity, most_texts, chars_per_second
        self._burst = burst
        self.texts = self.calls = 0
        self._paid_until = 0.0  # time.monotonic() when all that was taken will be earned

    @property
    def is_idle(self) -> bool:
        """Whether a new quota would be the same."""
        return not self.calls and self._paid_until <= time.monotonic() - self._burst

    def check_capacity(self, texts: int) -> None:
        """Raise Overloaded if `texts` more may not be open."""
        if self.most_texts and self.texts + texts > self.most_texts:
            raise Overloaded.too_many_of(self.identity, self.most_texts)

    @contextmanager
    def text(self) -> Iterator[None]:
        """Count a text as open during the block. Raises Overloaded."""
        self.check_capacity(1)
        self.texts += 1
        try:
            yield
        finally:
            self.texts -= 1

    def charge(self, chars: int) -> float:
        """Take characters, or give back a negative number; return the seconds until they may be generated."""
        if not self.chars_per_second:
            return 0.0
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - self._burst) + chars / self.chars_per_second
        return max(0.0, self._paid_until - now)

    async def earn(self, chars: int, max_wait: float) -> None:
        """Take characters, and wait until they may be had. Raises Overloaded if that would be after `max_wait` s."""
        delay = self.charge(chars)
        if delay > max_wait:
            self.charge(-chars)
            raise Overloaded.rate_limited(self.identity, self.chars_per_second, delay)
        if delay:
            await asyncio.sleep(delay)


class Quotas:
    """The quotas of all identities that have calls, or were charged lately, and some more."""

    def __init__(self, most_texts: int, chars_per_second: float, burst: float = BURST_SECONDS) -> None:
        self._limits = most_texts, chars_per_second, burst
        self._quotas: dict[str, Quota] = {}
        self._sweep_at = LEAST_SWEEP

    @contextmanager
    def of(self, identity: str) -> Iterator[Quota]:
        """Give the quota that all calls of an identity share."""
        quota = self._quotas.get(identity) or self._new(identity)
        quota.calls += 1
        try:
            yield quota
        finally:
            quota.calls -= 1

    def _new(self, identity: str) -> Quota:
        """Make a quota; forget the idle ones when there are twice as many as after the last sweep."""
        if len(self._quotas) >= self._sweep_at:
            self._quotas = {name: quota for name, quota in self._quotas.items() if not quota.is_idle}
            self._sweep_at = max(LEAST_SWEEP, 2 * len(self._quotas))
        quota = self._quotas[identity] = Quota(identity, *self._limits)
        return quota
