"""The memory that loaded models may take together, and which of them makes room."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from server.catalog.versions import Version
from server.errors import Overloaded
from server.settings import ServerSettings

__all__ = ["STAYS_SECONDS", "Room"]

# A model that was just loaded stays so long, idle or not: several times what a load takes. Else models that are asked
# for in turn, and have no room together, would be loaded for every call.
STAYS_SECONDS = 5.0
MEGABYTE = 1e6


class Room:
    """Memory by version, in bytes. To be used in the event loop.

    Args:
        unload: ends an idle version, and releases its memory.
    """

    def __init__(self, settings: ServerSettings, unload: Callable[[Version], Awaitable[None]]) -> None:
        self._limit, self._max_wait, self._unload = (
            settings.model_memory * MEGABYTE or math.inf,
            settings.max_wait,
            unload,
        )
        self._taken: dict[Version, int] = {}
        self._changed = asyncio.Event()

    @property
    def is_limited(self) -> bool:
        return not math.isinf(self._limit)

    def too_large(self, needed: int) -> str:
        """Why so much can never be had; empty if it can."""
        if needed <= self._limit:
            return ""
        return f"it may take {needed / MEGABYTE:.0f} MB, more than --model-memory, {self._limit / MEGABYTE:g} MB"

    def fits(self, needed: int) -> bool:
        """Whether there is room without unloading anything."""
        return sum(self._taken.values()) + needed <= self._limit

    async def take(self, version: Version, needed: int) -> None:
        """Unloads idle versions, the least recently used first, until there is room; or waits for one to be idle.

        Nothing is unloaded for what nobody asked for.

        Raises:
            Overloaded: there is none, and nobody waits for it, or not any more.
            ModelUnusable: the version was retired meanwhile.
        """
        while version in self._taken:  # it is being unloaded
            await self.wait_for_change()
        while not self.fits(needed):
            version.check_not_retired()
            if not version.users:
                raise Overloaded.not_loaded(str(version), self._max_wait, limited=True)
            removable = self._removable()
            if self.fits(needed - sum(self._taken[other] for other in removable)):
                await self._unload(removable[0])
            else:
                await self.wait_for_change(self._seconds_until_removable())
        self._taken[version] = needed

    def correct(self, version: Version, taken: int) -> None:
        """What it does take."""
        self._taken[version] = taken

    def release(self, version: Version) -> None:
        del self._taken[version]
        self.changed()

    def changed(self) -> None:
        """A version is idle now, or nobody waits for it any more, or it is loaded, retired, or gone."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, seconds: float | None = None) -> None:
        """Returns after so many seconds in any case."""
        waiting = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            waiting.cancel()

    def _removable(self) -> list[Version]:
        """Idle and not just loaded, the least recently used first."""
        before = time.monotonic() - STAYS_SECONDS
        found = [version for version in self._taken if version.idle and version.loaded <= before]
        return sorted(found, key=lambda version: version.used)

    def _seconds_until_removable(self) -> float | None:
        """Of the next idle one; None if none is on its way."""
        now = time.monotonic()
        left = [version.loaded + STAYS_SECONDS - now for version in self._taken if version.idle]
        return min((seconds for seconds in left if seconds > 0), default=None)
