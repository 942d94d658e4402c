"""What comes of the asyncio client's calls: the same as `client.streams`, awaited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from client.channels import Servers
from client.errors import CharstreamError, Unavailable, WrongReplica
from client.generation_task import Text
from client.results import ScoredPart, ScoreSummary
from client.score_task import Scores
from client.stream_base import Asking
from client.texts import Texts
from client.views import ScoreView, TextsView, TextView

__all__ = ["AsyncContinuations", "AsyncScoreStream", "AsyncStream", "AsyncTextStream"]

T = TypeVar("T")


class AsyncStream(Asking[T]):
    """What comes of a task, as it comes.

    Leaving the loop or the `with` block early cancels the call, which frees the server's row.
    """

    _new_event = asyncio.Event

    async def __aiter__(self) -> AsyncIterator[T]:
        """Raises:
        CharstreamError: with what came before it in `.text`, where this is one text.
        """
        try:
            again = True
            while again:
                try:
                    async for response in self._call:
                        for item in self._recovery.take(response):
                            yield item
                except (grpc.RpcError, WrongReplica) as error:
                    again = await self._ask_again(error)
                except asyncio.CancelledError:
                    if _task_is_cancelled():
                        raise
                    again = await self._ask_again(Unavailable("the call was cancelled"))
                else:
                    again = await self._ask_again(None)
        finally:
            self.cancel()

    async def _ask_again(self, failure: grpc.RpcError | CharstreamError | None) -> bool:
        """Asks for what is missing, after a while; False where there is nothing more, or somebody cancelled."""
        if self._recovery.task.done or self._cancelled.is_set():
            return False
        self._call.cancel()
        seconds = self._seconds_to_wait(failure)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), seconds)
            return False
        if self._cancelled.is_set():  # a wait of 0 seconds does not look
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


class AsyncTextStream(TextView, AsyncStream[str]):
    """A text on its way: iterate for its chunks, each of at least one character, then look at `finish`."""

    def __init__(self, servers: Servers, text: Text, *, timeout: float | None, resume: bool = True) -> None:
        self._text = text
        super().__init__(servers, "Generate", text, timeout=timeout, resume=resume)

    async def read(self) -> str:
        """Waits for the end; returns the whole text. Raises CharstreamError."""
        async for _ in self:
            pass
        return self.text


class AsyncContinuations(TextsView, AsyncStream[tuple[int, str]]):
    """Several texts on their way: iterate for (index, chunk), then look at `texts` and `finishes`."""

    def __init__(self, servers: Servers, texts: Texts, *, timeout: float | None, resume: bool) -> None:
        self._texts = texts
        super().__init__(servers, "Generate", texts, timeout=timeout, resume=resume)

    async def read(self) -> list[str]:
        """Waits for the end of all; returns the texts. Raises CharstreamError."""
        async for _ in self:
            pass
        return self.texts


class AsyncScoreStream(ScoreView, AsyncStream[ScoredPart]):
    """A score on its way: iterate for its parts, then look at `summary`."""

    def __init__(self, servers: Servers, scores: Scores, *, timeout: float | None) -> None:
        self._scores = scores
        super().__init__(servers, "Score", scores, timeout=timeout)

    async def read(self) -> ScoreSummary:
        """Waits for the end; returns the summary. Raises CharstreamError."""
        async for _ in self:
            pass
        return self._end()


def _task_is_cancelled() -> bool:
    """grpc.aio raises CancelledError for a cancelled call too: only the task knows who was meant."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
