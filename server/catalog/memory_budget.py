"""The memory that loaded models may take together, and which of them is unloaded for another."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from server.catalog.versions import Version
from server.errors import Overloaded
from server.settings import ServerSettings

__all__ = ["STAYS_SECONDS", "MemoryBudget"]

# How long a model stays after its load, idle or not: several times what a load takes. Otherwise models that are asked
# for in turn, and do not fit together, would be loaded for every call.
STAYS_SECONDS = 5.0
MEGABYTE = 1e6


class MemoryBudget:
    """The bytes that each version takes. To be used in the event loop.

    Args:
        unload: ends an idle version, and releases its memory.
    """

    def __init__(self, settings: ServerSettings, unload: Callable[[Version], Awaitable[None]]) -> None:
        self._limit, self._max_wait = settings.model_memory * MEGABYTE or math.inf, settings.max_wait
        self._unload = unload
        self._taken: dict[Version, int] = {}
        self._changed = asyncio.Event()

    def timeout(self, version: Version) -> Overloaded:
        """Return the error for callers of a version that was not loaded in time."""
        return Overloaded.load_timeout(str(version), self._max_wait, limited=not math.isinf(self._limit))

    def why_too_large(self, needed: int) -> str:
        """Return why the budget can never have `needed` bytes; "" if it can."""
        if needed <= self._limit:
            return ""
        return f"it may take {needed / MEGABYTE:.0f} MB, more than --model-memory, {self._limit / MEGABYTE:g} MB"

    def fits(self, needed: int) -> bool:
        """Return whether `needed` bytes are free without unloading anything."""
        return sum(self._taken.values()) + needed <= self._limit

    async def take(self, version: Version, needed: int) -> None:
        """Take `needed` bytes for a version that will be loaded.

        Idle versions are unloaded, the least recently used first, until there is memory; or one is waited for that may
        become idle. Nothing is unloaded for a version that nobody asked for.

        Raises:
            Overloaded: there is not enough, and nobody waits for the version, or not any more.
            ModelUnusable: the version was retired meanwhile.
        """
        while version in self._taken:  # it is being unloaded
            await self.wait_for_change()
        while not self.fits(needed):
            version.check_not_retired()
            if not version.users:
                raise self.timeout(version)
            removable = self._removable_versions()
            if self.fits(needed - sum(self._taken[other] for other in removable)):
                await self._unload(removable[0])
            else:
                await self.wait_for_change(self._seconds_until_removable())
        self._taken[version] = needed

    def correct(self, version: Version, taken: int) -> None:
        """Replace the estimate of `take` by the bytes that the loaded version takes."""
        self._taken[version] = taken

    def release(self, version: Version) -> None:
        del self._taken[version]
        self.notify()

    def notify(self) -> None:
        """Wake those who wait: a version is idle, loaded, retired or gone, or a caller waits for it no more."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, seconds: float | None = None) -> None:
        """Return after the next change, or after `seconds`."""
        waiting = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            waiting.cancel()

    def _removable_versions(self) -> list[Version]:
        """Return the versions that are idle and not just loaded, the least recently used first."""
        before = time.monotonic() - STAYS_SECONDS
        found = [version for version in self._taken if version.is_idle and version.loaded <= before]
        return sorted(found, key=lambda version: version.used)

    def _seconds_until_removable(self) -> float | None:
        """Return when the next idle version becomes removable; None if no idle one is too new for it."""
        now = time.monotonic()
        left = [version.loaded + STAYS_SECONDS - now for version in self._taken if version.is_idle]
        return min((seconds for seconds in left if seconds > 0), default=None)
