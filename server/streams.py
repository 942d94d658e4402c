"""The event loop's side of an engine: one stream per text, and one call per tick from the engine's thread."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from server.engine import Engine
from server.errors import Overloaded, ShuttingDown
from server.values import Cancel, Command, Delivery, Finish, Generation, Grant, Handled, Request

__all__ = ["Chunk", "Streams", "TextStream"]

# Far below the message size that clients accept, 4 MiB by default.
MAX_CHUNK_CHARS = 65_536
# gRPC takes in a new call every few turns of the event loop, and a message takes it about 50 us.
WOKEN_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Chunk:
    """Characters that go into one message; the last chunk has `finish`."""

    text: str
    finish: Finish | None


class Streams:
    """The open streams of one engine.

    Args:
        limit: streams that may be open.
        window: characters that a stream may hold, generated and not yet taken by its reader.
        tick: seconds that a tick takes at most; a stream that allows a longer delay collects several.
    """

    def __init__(self, *, limit: int, window: int, tick: float) -> None:
        self._limit, self.window, self.tick = limit, window, tick
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

    def open(self, generation: Generation) -> "TextStream":
        """Submits a text. Raises Overloaded if too many are open."""
        if len(self._open) >= self._limit:
            raise Overloaded(self._limit)
        stream = TextStream(self, next(self._numbers), generation)
        self._open[stream.number] = stream
        self._empty.clear()
        self.submit(Request(stream.number, generation, self.window, time.monotonic()))
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

    def __init__(self, streams: Streams, number: int, generation: Generation) -> None:
        self.number = number
        self._streams = streams
        self._chunk_chars = min(generation.max_chunk_chars or streams.window, MAX_CHUNK_CHARS)
        self._collect_seconds = max(0.0, generation.max_delay - streams.tick)
        # A full message has nothing to wait for; and a row must not pause because its reader waits for more.
        self._enough_chars = min(self._chunk_chars, streams.window // 4)
        self._parts: list[str] = []
        self._finish: Finish | None = None
        self._error: Exception | None = None
        self._pending_chars = 0
        self._ready = asyncio.Event()
        self._enough = asyncio.Event()
        self._taken = 0

    @property
    def finished(self) -> bool:
        """Whether the engine has nothing more for it."""
        return self._finish is not None

    def push(self, delivery: Delivery) -> None:
        self._parts.append(delivery.text)
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
                text, finish = await self._take()
                for begin in range(0, max(1, len(text)), self._chunk_chars):
                    end = begin + self._chunk_chars
                    yield Chunk(text[begin:end], finish if end >= len(text) else None)
                    self._grant(len(text[begin:end]))
                if finish:
                    return
        finally:
            self._streams.close(self)

    async def _take(self) -> tuple[str, Finish | None]:
        await self._ready.wait()
        if self._collect_seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self._collect_seconds)
        if self._error:
            raise self._error
        self._ready.clear()
        self._enough.clear()
        text = "".join(self._parts)
        self._parts.clear()
        self._pending_chars = 0
        return text, self._finish

    def _grant(self, chars: int) -> None:
        """Tells the engine now and then, not for every message."""
        self._taken += chars
        if self._taken >= self._streams.window // 4 and not self.finished:
            self._streams.submit(Grant(self.number, self._taken))
            self._taken = 0
