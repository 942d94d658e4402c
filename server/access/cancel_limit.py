"""Limits the calls that a connection may give up: HTTP/2 lets clients begin and cancel calls as fast as they send."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from server.access.quotas import Quotas
from server.errors import Overloaded

__all__ = ["CancelLimit"]

# A caller who closes a window with many texts cancels them all at once.
BURST_SECONDS = 10.0
# A call that is refused at once would soon be made again, and refusing costs about as much as beginning a text.
PATIENCE_SECONDS = 1.0


class CancelLimit:
    """Slows down connections, over HTTP the hosts, that give up too many calls.

    Args:
        per_second: calls a second that one of them may give up, or let run into their deadlines; it may give up
            ten seconds' worth at once. 0 for no limit.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second, self._connections = per_second, Quotas(0, per_second, BURST_SECONDS)

    @asynccontextmanager
    async def watch(self, peer: str, remaining: float | None) -> AsyncIterator[None]:
        """Count the block's call if its connection or host, `peer`, gives it up. Raises Overloaded.

        `remaining`: seconds to the call's deadline; None if it has none.
        """
        with self._connections.of(peer) as quota:
            try:
                delay = quota.charge(0)
                if delay:
                    # The refusal comes before the deadline, which would count as given up.
                    patience = PATIENCE_SECONDS if remaining is None else min(PATIENCE_SECONDS, remaining / 2)
                    await asyncio.sleep(min(delay, patience))
                    delay = quota.charge(0)
                if delay:
                    raise Overloaded.too_many_cancels(self._per_second, delay)
                yield
            except (asyncio.CancelledError, grpc.aio.InternalError):
                # The debt stays small: a caller who stops giving up is served again after BURST_SECONDS.
                if quota.charge(0) < BURST_SECONDS:
                    quota.charge(1)
                raise
