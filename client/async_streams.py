"""The streams of the asyncio client: the same as `client.sync_streams`, awaited."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from .errors import CharstreamError, Unavailable, WrongReplica
from .hedging.asynchronous import AsyncRace
from .results import ScoredPart, ScoreSummary
from .stream_base import ContinuationsBase, ScoreStreamBase, StreamBase, TextStreamBase

__all__ = ["AsyncContinuations", "AsyncScoreStream", "AsyncStream", "AsyncTextStream"]

T = TypeVar("T")


class AsyncStream(StreamBase[T]):
    """The items of a task as they come.

    Leaving the loop or the `with` block early cancels the call, which frees the server's row.
    """

    _new_event = asyncio.Event
    _race = AsyncRace

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield the items. Raises CharstreamError, which for a single text has in `.text` what came before."""
        try:
            again = True
            while again:
                try:
                    async for response in self._call:
                        for item in self._recovery.take(response, time.monotonic()):
                            yield item
                except (grpc.RpcError, WrongReplica) as error:
                    again = await self._ask_again(error)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task and task.cancelling():  # else grpc.aio raised it, for a cancelled call
                        raise
                    again = await self._ask_again(Unavailable("the call was cancelled"))
                else:
                    again = await self._ask_again(None)
        finally:
            self.cancel()

    async def _ask_again(self, failure: grpc.RpcError | CharstreamError | None) -> bool:
        """Ask for the missing rest, after a wait; return False if nothing is missing, or somebody cancelled."""
        if self._recovery.task.is_done or self._cancelled.is_set():
            return False
        self._call.cancel()
        seconds = self._seconds_to_wait(failure)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), seconds)
            return False
        if self._cancelled.is_set():  # a wait of 0 seconds does not check
            return False
        self._check_open()
        self._call = self._ask()
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncTextStream(TextStreamBase, AsyncStream[str]):
    """A text on its way: iterate over its chunks, each of at least one character, then look at `finish`."""

    async def read(self) -> str:
        """Wait for the end; return the whole text. Raises CharstreamError."""
        async for _ in self:
            pass
        return self.text


class AsyncContinuations(ContinuationsBase, AsyncStream[tuple[int, str]]):
    """Several texts on their way: iterate over pairs (index, chunk), then look at `texts` and `finishes`."""

    async def read(self) -> list[str]:
        """Wait for the end of all; return the texts. Raises CharstreamError."""
        async for _ in self:
            pass
        return self.texts


class AsyncScoreStream(ScoreStreamBase, AsyncStream[ScoredPart]):
    """A score on its way: iterate over its parts, then look at `summary`."""

    async def read(self) -> ScoreSummary:
        """Wait for the end; return the summary. Raises CharstreamError."""
        async for _ in self:
            pass
        return self._final_summary()
