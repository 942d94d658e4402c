"""One text on the event loop's side: its outputs, joined and cut into messages as its reader takes them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace

from server.access.quotas import Quota
from server.engine.messages import Command, Conclude, Finish, Grant, Output, Reason, Request, Scores
from server.errors import Overloaded
from server.limits import LENT_CHARS

__all__ = ["StreamConsumer", "StreamLimits", "TextStream"]

# Far below the message size that clients accept, 4 MiB by default.
MAX_CHUNK_CHARS, MAX_SCORED_CHARS = 65_536, 16_384


@dataclass(frozen=True)
class StreamLimits:
    """Limits of each text.

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
class StreamConsumer:
    """Who takes the messages of one text, or of several by turns.

    Attributes:
        took: time.monotonic() when a message had been taken last.
    """

    took: float = 0.0


class OutputBuffer:
    """Outputs that came and were not taken yet.

    Args:
        enough_chars: with this many characters it is not worth waiting for more.

    Attributes:
        ready, enough: are set when there is something to take, and when there is enough.
    """

    def __init__(self, enough_chars: int) -> None:
        self.ready, self.enough = asyncio.Event(), asyncio.Event()
        self.finish: Finish | None = None
        self._outputs: list[Output] = []
        self._chars, self._enough_chars = 0, enough_chars

    def add(self, output: Output) -> None:
        self._outputs.append(output)
        self._chars += len(output.text)
        self.finish = output.finish
        self.ready.set()
        if self.finish or self._chars >= self._enough_chars:
            self.enough.set()

    def take(self) -> Output:
        """Return all outputs, at least one, as one with the newest snapshot."""
        self.ready.clear()
        self.enough.clear()
        outputs, self._outputs, self._chars = self._outputs, [], 0
        if len(outputs) == 1:
            return outputs[0]
        text, scores = "".join([output.text for output in outputs]), [o.scores for o in outputs if o.scores]
        snapshot = next((output.snapshot for output in reversed(outputs) if output.snapshot), None)
        return Output(outputs[0].stream, text, self.finish, Scores.join(scores), snapshot)


class Credit:
    """The characters that a text may have generated, of its window and of its identity's quota.

    Attributes:
        window: the most that may be generated before the reader takes some.
    """

    def __init__(self, window: int, quota: Quota) -> None:
        self.window = min(window, LENT_CHARS) if quota.chars_per_second else window
        self._quota = quota
        self._taken = 0  # characters that the reader took since the last grant
        self._lent = 0  # characters charged, and not handed over yet

    def borrow(self, chars: int) -> float:
        """Charges for characters that will be generated; returns the seconds until they may be."""
        self._lent += chars
        return self._quota.charge(chars)

    def hand_over(self, chars: int) -> None:
        """Counts characters as the reader's: who leaves while they are being sent may have them."""
        self._lent -= chars

    def take(self, chars: int) -> int:
        """Counts characters that the reader took; returns how many to grant: some now and then, not each message."""
        self._taken += chars
        if self._taken < self.window // 4:
            return 0
        grant, self._taken = self._taken, 0
        return grant

    def give_back(self) -> None:
        """Ends the charge for characters that were not handed over."""
        self._quota.charge(-self._lent)


class StreamTimers:
    """The timers of a text; all times are in seconds.

    Attributes:
        patience: a context manager that raises TimeoutError when the reader has taken nothing for too long.
        sending_since: time.monotonic() when the chunk was handed over that is being sent; 0 while there is none.
    """

    def __init__(self, reader_timeout: float, consumer: StreamConsumer) -> None:
        self.patience = asyncio.timeout(None)
        self.sending_since = 0.0
        self._reader_timeout, self._consumer = reader_timeout, consumer
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def call_later(self, name: str, seconds: float, callback: Callable[..., None], *arguments: object) -> None:
        """Sets the timer of that name."""
        self._handles[name] = asyncio.get_running_loop().call_later(seconds, callback, *arguments)

    def check_reader(self) -> None:
        """Looks after the reader now and then: a timer for each chunk would cost more than sending it."""
        taken = max(self.sending_since, self._consumer.took)
        if self.sending_since and time.monotonic() - taken > self._reader_timeout:
            self.patience.reschedule(asyncio.get_running_loop().time())
        else:
            self.call_later("reader", self._reader_timeout / 4, self.check_reader)

    def cancel(self) -> None:
        for handle in self._handles.values():
            handle.cancel()


class TextStream:
    """One text as it comes. What its reader has not taken is bounded by the window: then its row pauses.

    Args:
        number: names the text in commands and outputs.
        submitted: time.monotonic() when it was asked for.
        submit: hands a command to the engine.
    """

    def __init__(
        self,
        number: int,
        request: Request,
        submitted: float,
        *,
        limits: StreamLimits,
        quota: Quota,
        consumer: StreamConsumer,
        submit: Callable[[Command], None],
    ) -> None:
        self.number, self._limits, self._quota, self._submit = number, limits, quota, submit
        self._credit = Credit(limits.window, quota)
        window = self._credit.window
        self._request = replace(request, stream=number, window=window, identity=quota.identity, submitted=submitted)
        most = MAX_CHUNK_CHARS if request.alternatives is None else MAX_SCORED_CHARS
        self._chunk_chars = min(request.chunking.max_chars or window, most)
        self._collect_seconds = max(0.0, request.chunking.max_delay - limits.tick)
        # A full message has nothing to wait for; and a row must not pause because its reader waits for more.
        self._buffer = OutputBuffer(min(self._chunk_chars, window // 4))
        self._timers = StreamTimers(limits.reader_timeout, consumer)
        self._error: Exception | None = None
        self._is_submitted = False
        self._conclusion: Reason | None = None
        self._called = asyncio.Event()  # need not wait until its characters are earned

    @property
    def is_finished(self) -> bool:
        """Whether the engine has nothing more for it."""
        return self._buffer.finish is not None

    def push(self, output: Output) -> None:
        self._buffer.add(output)

    def fail(self, error: Exception) -> None:
        self._error = error
        self._buffer.ready.set()
        self._buffer.enough.set()
        self._called.set()

    def conclude(self, reason: Reason) -> None:
        """Ends the text where it is."""
        self._conclusion = reason
        self._called.set()
        if self._is_submitted:
            self._submit(Conclude(self.number, reason))

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncGenerator[Output, None], None]:
        """Asks the engine for the text; gives its chunks to the task that sends them.

        Raises:
            Overloaded: no row was free in time, or the reader takes nothing.
        """
        try:
            async with self._timers.patience, aclosing(self._chunks()) as chunks:
                await self._begin()
                yield chunks
        except TimeoutError:
            raise Overloaded.reader_timeout(self._limits.reader_timeout) from None
        finally:
            self._timers.cancel()
            self._credit.give_back()

    async def _begin(self) -> None:
        """Submits the text when it is its identity's turn. Raises Overloaded."""
        request = self._request
        delay = self._credit.borrow(min(request.window, request.max_chars + len(request.forced) - request.silent))
        if delay > self._limits.max_wait:
            raise Overloaded.rate_limited(self._quota.identity, self._quota.chars_per_second, delay)
        self._end_after(self._limits.max_seconds, Reason.DRAINED)
        if request.time_limit is not None:
            self._end_after(request.time_limit, Reason.DEADLINE)
        self._timers.check_reader()
        if delay:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), delay)
        if self._error:
            raise self._error
        self._submit(request)
        self._is_submitted = True
        if self._conclusion:
            self.conclude(self._conclusion)

    def _end_after(self, seconds: float, reason: Reason) -> None:
        left = self._request.submitted + seconds - time.monotonic()
        self._timers.call_later(reason.name, left, self.conclude, reason)

    async def _chunks(self) -> AsyncGenerator[Output, None]:
        """Yields chunks until the text ends; characters that came while a chunk was being sent share the next one."""
        while True:
            await self._wait()
            output = self._buffer.take()
            for chunk in self._split(output):
                self._timers.sending_since = time.monotonic()
                self._credit.hand_over(len(chunk.text))
                yield chunk
                self._timers.sending_since = 0.0
                self._grant(len(chunk.text))
            if output.finish:
                return

    async def _wait(self) -> None:
        """Waits for something worth a message. Raises Overloaded, or what the text failed with."""
        await self._buffer.ready.wait()
        if self._collect_seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._buffer.enough.wait(), self._collect_seconds)
        if self._error:
            raise self._error
        finish = self._buffer.finish
        if finish and finish.reason is Reason.NOT_ADMITTED:
            raise Overloaded.queue_timeout(self._limits.max_wait)

    def _split(self, output: Output) -> Iterator[Output]:
        """Cuts it into messages that are not too long; what is not text goes with the last one."""
        text, scores, size = output.text, output.scores, self._chunk_chars
        if len(text) <= size:
            yield output
            return
        for begin in range(0, len(text) - size, size):
            part = scores and scores.part(begin, begin + size)
            yield Output(self.number, text[begin : begin + size], None, part)
        begin = (len(text) - 1) // size * size
        yield replace(output, text=text[begin:], scores=scores and scores.part(begin))

    def _grant(self, chars: int) -> None:
        """Gives credit back to the engine for what the reader took."""
        if self.is_finished or not (chars := self._credit.take(chars)):
            return
        delay, grant = self._credit.borrow(chars), Grant(self.number, chars)
        if delay:
            self._timers.call_later("grant", delay, self._submit, grant)
        else:
            self._submit(grant)
