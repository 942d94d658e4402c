"""What connections cost whose callers leave: HTTP/2 lets one begin and give up calls as fast as it can send."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from server.access.quotas import Quota, Quotas
from server.errors import Overloaded

__all__ = ["Leavers"]

# Who closes a window with many texts leaves them all at once.
BURST_SECONDS = 10.0
# A call that were refused at once would soon be made again, and refusing costs about as much as beginning a text.
PATIENCE_SECONDS = 1.0


class Leavers:
    """Slows connections down that give up too many calls.

    Args:
        per_second: calls that one connection may give up, or let run into their deadlines; ten seconds' worth at once.
            0 for no limit.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second, self._connections = per_second, Quotas(0, per_second, BURST_SECONDS)

    @asynccontextmanager
    async def watched(self, peer: str, remaining: float | None) -> AsyncIterator[None]:
        """A call of the connection from `peer`, with so many seconds to its deadline. Raises Overloaded."""
        with self._connections.of(peer) as quota:
            try:
                delay = quota.charge(0)
                if delay:
                    await self._let_wait(quota, delay, remaining)
                yield
            except (asyncio.CancelledError, grpc.aio.InternalError):
                # What is owed stays small: who stops giving up is served again after as long as the burst lasts.
                if quota.charge(0) < BURST_SECONDS:
                    quota.charge(1)
                raise

    async def _let_wait(self, quota: Quota, delay: float, remaining: float | None) -> None:
        # Told before its deadline, which would count as given up.
        patience = PATIENCE_SECONDS if remaining is None else min(PATIENCE_SECONDS, remaining / 2)
        await asyncio.sleep(min(delay, patience))
        delay = quota.charge(0)
        if delay:
            raise Overloaded.given_up(self._per_second, delay)
