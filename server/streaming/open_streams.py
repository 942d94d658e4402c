"""The event loop's side of an engine: one stream per text, and one call per tick from the engine's thread."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from server.access.quotas import Quota
from server.engine.engine import Engine
from server.engine.messages import Cancel, Command, Delivery, Generation, Handled, Reason
from server.errors import Overloaded, ShuttingDown
from server.streaming.text_stream import Chunk, Reader, StreamLimits, TextStream

__all__ = ["Streams"]

# gRPC takes in a new call every few turns of the event loop, and a message takes it about 50 us.
WOKEN_AT_ONCE = 32


class Streams:
    """The open streams of one engine.

    Args:
        most: streams that may be open.
        limits: of each.
    """

    def __init__(self, most: int, limits: StreamLimits) -> None:
        self._most, self._limits = most, limits
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, TextStream] = {}
        self._numbers = itertools.count()
        self._conclusion: Reason | None = None
        self._arrived: deque[Delivery] = deque()
        self._ticks = 0  # received and not handled yet
        self._sent = 0.0  # when the first of them was
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def texts(self) -> int:
        """That are open, running and waiting."""
        return len(self._open)

    def check_capacity(self, texts: int) -> None:
        """Raises Overloaded if so many more may not be open."""
        if len(self._open) + texts > self._most:
            raise Overloaded.too_many(self._most)

    @asynccontextmanager
    async def open(
        self, generation: Generation, since: float, quota: Quota, reader: Reader
    ) -> AsyncGenerator[AsyncGenerator[Chunk, None], None]:
        """The chunks of a text that was asked for at the time.monotonic() `since`.

        However the caller leaves, the text ends: that is what frees the row of a reader who is gone.

        Raises:
            Overloaded: too many are open, no row was free in time, or the reader takes nothing.
        """
        self.check_capacity(1)
        number = next(self._numbers)
        stream = TextStream(
            number, generation, since, limits=self._limits, quota=quota, reader=reader, submit=self.submit
        )
        if self._conclusion:
            stream.conclude(self._conclusion)
        with quota.text():
            self._open[number] = stream
            try:
                async with stream.read() as chunks:
                    yield chunks
            finally:
                self._close(stream)

    def submit(self, command: Command) -> None:
        assert self._engine is not None
        self._engine.submit(command)

    def _close(self, stream: TextStream) -> None:
        """The stream's reader is gone, or has all."""
        del self._open[stream.number]
        if not stream.finished:
            self.submit(Cancel(stream.number))

    def conclude_all(self, reason: Reason) -> None:
        """Ends every text where it is: those that are open, and those that their calls open later."""
        self._conclusion = reason
        for stream in self._open.values():
            stream.conclude(reason)

    def fail_all(self) -> None:
        """Ends every open stream with ShuttingDown."""
        for stream in self._open.values():
            stream.fail(ShuttingDown())

    def deliver(self, deliveries: list[Delivery]) -> None:
        """Called by the engine's thread, once a tick."""
        self._loop.call_soon_threadsafe(self._receive, deliveries, time.monotonic())

    def _receive(self, deliveries: list[Delivery], sent: float) -> None:
        self._arrived.extend(deliveries)
        self._ticks += 1
        if self._ticks == 1:
            self._sent = sent
            self._hand_out()

    def _hand_out(self) -> None:
        """Wakes some streams, and the others in the loop's next turns: so new calls are taken in between."""
        for _ in range(min(WOKEN_AT_ONCE, len(self._arrived))):
            delivery = self._arrived.popleft()
            stream = self._open.get(delivery.stream)
            if stream:
                stream.push(delivery)
        self._loop.call_soon(self._hand_out if self._arrived else self._handled)

    def _handled(self) -> None:
        """Those that were woken last have had their turn."""
        if self._arrived:
            self._hand_out()
        else:
            self.submit(Handled(self._ticks, time.monotonic() - self._sent))
            self._ticks = 0
