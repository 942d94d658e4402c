"""The event loop's side of an engine: one stream per text, and one call per tick from the engine's thread."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from server.engine import Engine
from server.errors import Overloaded, ShuttingDown
from server.values import (
    Cancel,
    Command,
    Conclude,
    Delivery,
    Finish,
    Generation,
    Grant,
    Handled,
    Reason,
    Request,
    Scores,
    Snapshot,
)

__all__ = ["Chunk", "Streams", "TextStream"]

# Far below the message size that clients accept, 4 MiB by default.
MAX_CHUNK_CHARS, MAX_SCORED_CHARS = 65_536, 16_384
# gRPC takes in a new call every few turns of the event loop, and a message takes it about 50 us.
WOKEN_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Chunk:
    """What goes into one message; the last chunk has `finish`."""

    text: str
    finish: Finish | None
    scores: Scores | None = None
    snapshot: Snapshot | None = None


class Streams:
    """The open streams of one engine.

    Args:
        limit: streams that may be open.
        window: characters that a stream may hold, generated and not yet taken by its reader.
        tick: seconds that a tick takes at most; a stream that allows a longer delay collects several.
        max_wait: seconds that the engine lets a text wait.
    """

    def __init__(self, *, limit: int, window: int, tick: float, max_wait: float) -> None:
        self._limit, self.window, self.tick, self.max_wait = limit, window, tick, max_wait
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, TextStream] = {}
        self._numbers = itertools.count()
        self._empty = asyncio.Event()
        self._empty.set()
        self._arrived: deque[Delivery] = deque()
        self._ticks = 0  # received and not handled yet
        self._sent = 0.0  # when the first of them was
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine

    def check_room(self, texts: int) -> None:
        """Raises Overloaded if so many more may not be open."""
        if len(self._open) + texts > self._limit:
            raise Overloaded.too_many(self._limit)

    def open(self, generation: Generation, since: float) -> "TextStream":
        """Submits a text that was asked for at the time.monotonic() `since`. Raises Overloaded if too many are open."""
        self.check_room(1)
        stream = TextStream(self, next(self._numbers), generation, since)
        self._open[stream.number] = stream
        self._empty.clear()
        self.submit(Request(stream.number, generation, self.window, since))
        return stream

    def submit(self, command: Command) -> None:
        assert self._engine is not None
        self._engine.submit(command)

    def close(self, stream: "TextStream") -> None:
        """The stream's reader is gone, or has all."""
        if self._open.pop(stream.number, None) and not stream.finished:
            self.submit(Cancel(stream.number))
        if not self._open:
            self._empty.set()

    async def wait_until_empty(self) -> None:
        await self._empty.wait()

    def conclude_all(self, reason: Reason) -> None:
        """Ends every open text where it is."""
        for number in self._open:
            self.submit(Conclude(number, reason))

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


class TextStream:
    """One text as it comes. What its reader has not taken is bounded by the window: then its row pauses."""

    def __init__(self, streams: Streams, number: int, generation: Generation, since: float) -> None:
        self.number = number
        self._streams = streams
        most = MAX_CHUNK_CHARS if generation.alternatives is None else MAX_SCORED_CHARS
        self._chunk_chars = min(generation.max_chunk_chars or streams.window, most)
        self._collect_seconds = max(0.0, generation.max_delay - streams.tick)
        # A full message has nothing to wait for; and a row must not pause because its reader waits for more.
        self._enough_chars = min(self._chunk_chars, streams.window // 4)
        self._parts: list[str] = []
        self._scores: list[Scores] = []
        self._snapshot: Snapshot | None = None  # the newest
        self._finish: Finish | None = None
        self._error: Exception | None = None
        self._pending_chars = 0
        self._ready = asyncio.Event()
        self._enough = asyncio.Event()
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        if generation.time_limit is not None:
            over = Conclude(number, Reason.DEADLINE)
            left = since + generation.time_limit - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(left, streams.submit, over)

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

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yields chunks until the text ends; characters that came while a chunk was being sent share the next one."""
        try:
            while True:
                taken = await self._take()
                for chunk in self._split(taken):
                    yield chunk
                    self._grant(len(chunk.text))
                if taken.finish:
                    return
        finally:
            if self._timer:
                self._timer.cancel()
            self._streams.close(self)

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
            raise Overloaded.too_long(self._streams.max_wait)
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
        if self._taken >= self._streams.window // 4 and not self.finished:
            self._streams.submit(Grant(self.number, self._taken))
            self._taken = 0
