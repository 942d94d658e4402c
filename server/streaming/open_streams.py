"""The event loop's side of an engine: one stream per text, and one call per tick from the engine's thread."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from server.access.quotas import Quota
from server.engine.messages import Cancel, Command, Handled, Output, Reason, Request
from server.errors import Overloaded, ShuttingDown
from server.streaming.text_stream import Reader, StreamLimits, TextStream

__all__ = ["Streams"]

# gRPC takes in a new call every four turns of the event loop, and a message takes it about 50 us. For CALL_TURNS turns
# after a call came, others are expected, and few streams are woken in one.
WOKEN_AT_ONCE, WOKEN_BESIDE_CALLS, CALL_TURNS = 32, 4, 8


class Streams:
    """The open streams of one engine.

    Args:
        most: streams that may be open.
        limits: of each of them.

    Attributes:
        submit: hands a command to the engine; is set before the first stream is opened.
    """

    submit: Callable[[Command], None]

    def __init__(self, most: int, limits: StreamLimits) -> None:
        self._most, self._limits = most, limits
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, TextStream] = {}
        self._numbers = itertools.count()
        self._conclusion: Reason | None = None
        self._arrived: deque[Output] = deque()
        self._turns = 0  # in which streams were woken, since the last call came
        # By the engine that they came from: ticks received and not handled yet, and when the first was posted.
        self._unhandled: dict[Callable[[Command], None], tuple[int, float]] = {}

    @property
    def texts(self) -> int:
        """How many are open, running and waiting."""
        return len(self._open)

    def check_capacity(self, texts: int) -> None:
        """Raise Overloaded if `texts` more may not be open."""
        if len(self._open) + texts > self._most:
            raise Overloaded.too_many(self._most)

    @asynccontextmanager
    async def open(
        self, request: Request, submitted: float, quota: Quota, reader: Reader
    ) -> AsyncGenerator[AsyncGenerator[Output, None], None]:
        """Open a text that was asked for at the time.monotonic() `submitted`; give its chunks, one a message.

        However the caller leaves, the text ends: that is what frees the row of a reader who is gone.

        Raises:
            Overloaded: too many are open, no row was free in time, or the reader takes nothing.
        """
        self.check_capacity(1)
        self._turns = 0
        number = next(self._numbers)
        stream = TextStream(
            number, request, submitted, limits=self._limits, quota=quota, reader=reader, submit=self.submit
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

    def _close(self, stream: TextStream) -> None:
        """Forget a stream whose reader is gone, or has all."""
        del self._open[stream.number]
        if not stream.is_finished:
            self.submit(Cancel(stream.number))

    def conclude_all(self, reason: Reason) -> None:
        """End every text where it is: those that are open, and those that their calls open later."""
        self._conclusion = reason
        for stream in self._open.values():
            stream.conclude(reason)

    def fail_all(self) -> None:
        """End every open stream with ShuttingDown."""
        for number in self._open:
            self.fail(number, ShuttingDown())

    def fail(self, number: int, error: Exception) -> None:
        """End an open stream with this error."""
        self._open[number].fail(error)

    def deliver(self, outputs: list[Output]) -> None:
        """Take the outputs of a tick from an engine in this process; called by the engine's thread."""
        self._loop.call_soon_threadsafe(self.receive, outputs, time.monotonic(), self.submit)

    def receive(self, outputs: list[Output], posted: float, submit: Callable[[Command], None]) -> None:
        """Take the outputs of a tick, posted at that time.monotonic() by the engine to which `submit` sends."""
        self._arrived.extend(outputs)
        is_first = not self._unhandled
        ticks, first_posted = self._unhandled.get(submit, (0, posted))
        self._unhandled[submit] = ticks + 1, first_posted
        if is_first:
            self._hand_out()

    def _hand_out(self) -> None:
        """Wake some streams, and the others in the loop's next turns: so new calls are taken in between."""
        self._turns += 1
        most = WOKEN_AT_ONCE if self._turns > CALL_TURNS else WOKEN_BESIDE_CALLS
        for _ in range(min(most, len(self._arrived))):
            output = self._arrived.popleft()
            stream = self._open.get(output.stream)
            if stream:
                stream.push(output)
        self._loop.call_soon(self._hand_out if self._arrived else self._end_turn)

    def _end_turn(self) -> None:
        """Tell the engines when those that were woken last have had their turn."""
        if self._arrived:
            self._hand_out()
            return
        unhandled, self._unhandled = self._unhandled, {}
        for submit, (ticks, posted) in unhandled.items():
            submit(Handled(ticks, time.monotonic() - posted))
