"""One text on the event loop's side: what came of it, cut into messages as its reader takes them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from server.access.quotas import Quota
from server.engine.messages import (
    Command,
    Conclude,
    Delivery,
    Finish,
    Generation,
    Grant,
    Reason,
    Request,
    Scores,
    Snapshot,
)
from server.errors import Overloaded
from server.limits import LENT_CHARS

__all__ = ["Chunk", "Reader", "StreamLimits", "TextStream"]

# Far below the message size that clients accept, 4 MiB by default.
MAX_CHUNK_CHARS, MAX_SCORED_CHARS = 65_536, 16_384


@dataclass(frozen=True, slots=True)
class Chunk:
    """What goes into one message; the last chunk has `finish`."""

    text: str
    finish: Finish | None
    scores: Scores | None = None
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class StreamLimits:
    """Of each text.

    Attributes:
        window: characters that it may hold, generated and not yet taken by its reader.
        tick: seconds that a tick takes at most; a text that allows a longer delay collects several.
        max_wait: seconds that it may wait for its first row.
        max_seconds: seconds after which it has to go on in another call.
        reader_timeout: seconds that its reader may take nothing.
    """

    window: int
    tick: float
    max_wait: float
    max_seconds: float
    reader_timeout: float


@dataclass
class Reader:
    """Who takes one text, or several by turns. `took`: time.monotonic() when a message had been taken last."""

    took: float = 0.0


class TextStream:
    """One text as it comes. What its reader has not taken is bounded by the window: then its row pauses.

    Args:
        since: time.monotonic() when it was asked for.
        submit: hands a command to the engine.
    """

    def __init__(
        self,
        number: int,
        generation: Generation,
        since: float,
        *,
        limits: StreamLimits,
        quota: Quota,
        reader: Reader,
        submit: Callable[[Command], None],
    ) -> None:
        self.number = number
        self._generation, self._since = generation, since
        self._limits, self._quota, self._reader, self._submit = limits, quota, reader, submit
        self._window = min(limits.window, LENT_CHARS) if quota.chars_per_second else limits.window
        most = MAX_CHUNK_CHARS if generation.alternatives is None else MAX_SCORED_CHARS
        self._chunk_chars = min(generation.max_chunk_chars or self._window, most)
        self._collect_seconds = max(0.0, generation.max_delay - limits.tick)
        # A full message has nothing to wait for; and a row must not pause because its reader waits for more.
        self._enough_chars = min(self._chunk_chars, self._window // 4)
        self._parts: list[str] = []
        self._scores: list[Scores] = []
        self._snapshot: Snapshot | None = None  # the newest
        self._finish: Finish | None = None
        self._error: Exception | None = None
        self._pending_chars = 0
        self._ready = asyncio.Event()
        self._enough = asyncio.Event()
        self._taken = 0
        self._lent = 0  # characters charged, and not handed over yet
        self._handed = 0.0  # time.monotonic() when the chunk that is being sent was; 0 while there is none
        self._asked = False  # the engine knows it
        self._conclusion: Reason | None = None
        self._called = asyncio.Event()  # need not wait until its characters are earned
        self._patience = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def finished(self) -> bool:
        """Whether the engine has nothing more for it."""
        return self._finish is not None

    def push(self, delivery: Delivery) -> None:
        self._parts.append(delivery.text)
        if delivery.scores:
            self._scores.append(delivery.scores)
        self._snapshot = delivery.snapshot or self._snapshot
        self._pending_chars += len(delivery.text)
        self._finish = delivery.finish
        self._ready.set()
        if self.finished or self._pending_chars >= self._enough_chars:
            self._enough.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._ready.set()
        self._enough.set()
        self._called.set()

    def conclude(self, reason: Reason) -> None:
        """Ends the text where it is."""
        self._conclusion = reason
        self._called.set()
        if self._asked:
            self._submit(Conclude(self.number, reason))

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncGenerator[Chunk, None], None]:
        """Asks the engine for the text; gives its chunks to the task that sends them.

        Raises:
            Overloaded: no row was free in time, or the reader takes nothing.
        """
        try:
            async with self._patience, aclosing(self._chunks()) as chunks:
                await self._begin()
                yield chunks
        except TimeoutError:
            raise Overloaded.reader_timeout(self._limits.reader_timeout) from None
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._quota.charge(-self._lent)

    async def _begin(self) -> None:
        """Submits the text when it is its identity's turn. Raises Overloaded."""
        wanted = self._generation
        self._lent = min(self._window, wanted.max_chars + len(wanted.forced) - wanted.silent)
        delay = self._quota.charge(self._lent)
        if delay > self._limits.max_wait:
            raise Overloaded.rate_limited(self._quota.identity, self._quota.chars_per_second, delay)
        self._end_after(self._limits.max_seconds, Reason.DRAINED)
        if wanted.time_limit is not None:
            self._end_after(wanted.time_limit, Reason.DEADLINE)
        self._check_reader()
        if delay:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), delay)
        if self._error:
            raise self._error
        self._submit(Request(self.number, wanted, self._window, self._since, self._quota.identity))
        self._asked = True
        if self._conclusion:
            self.conclude(self._conclusion)

    def _end_after(self, seconds: float, reason: Reason) -> None:
        left = self._since + seconds - time.monotonic()
        self._timers[reason.name] = self._loop.call_later(left, self.conclude, reason)

    def _check_reader(self) -> None:
        """Now and then: a timer for each chunk would cost more than sending it."""
        timeout = self._limits.reader_timeout
        if self._handed and time.monotonic() - max(self._handed, self._reader.took) > timeout:
            self._patience.reschedule(self._loop.time())
        else:
            self._timers["reader"] = self._loop.call_later(timeout / 4, self._check_reader)

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yields chunks until the text ends; characters that came while a chunk was being sent share the next one."""
        while True:
            taken = await self._take()
            for chunk in self._split(taken):
                self._handed = time.monotonic()
                # Who leaves while it is being sent may have it.
                self._lent -= len(chunk.text)
                yield chunk
                self._handed = 0.0
                self._grant(len(chunk.text))
            if taken.finish:
                return

    def _split(self, taken: Chunk) -> Iterator[Chunk]:
        """Into messages that are not too long; what is not text goes with the last one."""
        text, scores, size = taken.text, taken.scores, self._chunk_chars
        for begin in range(0, len(text) - size, size):
            yield Chunk(text[begin : begin + size], None, scores and scores.part(begin, begin + size))
        begin = (max(1, len(text)) - 1) // size * size
        yield Chunk(text[begin:], taken.finish, scores and scores.part(begin), taken.snapshot)

    async def _take(self) -> Chunk:
        await self._ready.wait()
        if self._collect_seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self._collect_seconds)
        if self._error:
            raise self._error
        if self._finish and self._finish.reason is Reason.NOT_ADMITTED:
            raise Overloaded.queue_timeout(self._limits.max_wait)
        self._ready.clear()
        self._enough.clear()
        scores = Scores.join(self._scores) if self._scores else None
        chunk = Chunk("".join(self._parts), self._finish, scores, self._snapshot)
        self._parts.clear()
        self._scores.clear()
        self._pending_chars, self._snapshot = 0, None
        return chunk

    def _grant(self, chars: int) -> None:
        """Tells the engine now and then, not for every message."""
        self._taken += chars
        if self._taken >= self._window // 4 and not self.finished:
            delay = self._quota.charge(self._taken)
            self._lent += self._taken
            grant = Grant(self.number, self._taken)
            if delay:
                self._timers["grant"] = self._loop.call_later(delay, self._submit, grant)
            else:
                self._submit(grant)
            self._taken = 0
