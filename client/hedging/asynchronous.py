"""The same for asyncio as `client.hedging.blocking`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from .policy import Hedging

__all__ = ["AsyncRace"]


class AsyncRace:
    """See `Race`."""

    def __init__(self, ask: Callable[[bool], Any], hedging: Hedging, note_winner: Callable[[bool], None]) -> None:
        self._ask, self._hedging, self._note_winner = ask, hedging, note_winner
        self._began, self._is_cancelled = time.monotonic(), False
        self._calls = [ask(False)]

    def cancel(self) -> None:
        self._is_cancelled = True
        for call in self._calls:
            call.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        responses = [aiter(self._calls[0])]
        reading = [_read(responses[0])]
        number = await self._first_answer(responses, reading)
        try:
            first = reading[number].result()
        except StopAsyncIteration:
            return
        self._hedging.note_first(time.monotonic() - self._began)
        yield first
        async for response in responses[number]:
            yield response

    async def _first_answer(self, responses: list[Any], reading: list[asyncio.Future[Any]]) -> int:
        """Return the number of the call that goes on, whose reading is done."""
        delay = self._hedging.delay
        left = None if delay is None else max(0.0, self._began + delay - time.monotonic())
        done, _ = await asyncio.wait(reading, timeout=left)
        if done or self._is_cancelled or not self._hedging.spend():
            await asyncio.wait(reading)
            return 0
        self._calls.append(self._ask(True))
        responses.append(aiter(self._calls[1]))
        reading.append(_read(responses[1]))
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        if not any(map(_has_answered, reading)):  # the other one may still answer
            await asyncio.wait(reading)
        number = next((number for number, each in enumerate(reading) if _has_answered(each)), None)
        if number is None:
            return 0
        self._note_winner(number == 1)
        self._calls[1 - number].cancel()
        return number


async def _next(responses: AsyncIterator[Any]) -> Any:
    return await anext(responses)


def _read(responses: AsyncIterator[Any]) -> asyncio.Future[Any]:
    task = asyncio.ensure_future(_next(responses))
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # the loser's is nobody's to see
    return task


def _has_answered(reading: asyncio.Future[Any]) -> bool:
    return reading.done() and not reading.cancelled() and reading.exception() is None
