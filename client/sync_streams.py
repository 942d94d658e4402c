"""What comes of a blocking client's calls, as it comes."""

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import grpc

from client.channels import Servers
from client.errors import WrongReplica
from client.generation_task import Text
from client.results import ScoredPart, ScoreSummary
from client.score_task import Scores
from client.stream_base import Asking
from client.texts import Texts
from client.views import ScoreView, TextsView, TextView

__all__ = ["Continuations", "ScoreStream", "Stream", "TextStream"]

T = TypeVar("T")


class Stream(Asking[T]):
    """What comes of a task, as it comes.

    Leaving the loop or the `with` block early cancels the call, which frees the server's row.
    """

    _new_event = threading.Event

    def __iter__(self) -> Iterator[T]:
        """Raises:
        CharstreamError: with what came before it in `.text`, where this is one text.
        """
        try:
            again = True
            while again:
                try:
                    for response in self._call:
                        yield from self._recovery.take(response)
                except (grpc.RpcError, WrongReplica) as error:
                    again = self._ask_again(error)
                else:
                    again = self._ask_again(None)
        finally:
            self.cancel()

    def _ask_again(self, failure: grpc.RpcError | WrongReplica | None) -> bool:
        """Asks for what is missing, after a while; False where there is nothing more, or somebody cancelled."""
        if self._recovery.task.done or self._cancelled.is_set():
            return False
        self._call.cancel()
        if self._cancelled.wait(self._seconds_to_wait(failure)):
            return False
        self._check_open()
        self._call = self._ask()
        if self._cancelled.is_set():  # since we looked: that was the call before
            self._call.cancel()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class TextStream(TextView, Stream[str]):
    """A text on its way: iterate for its chunks, each of at least one character, then look at `finish`."""

    def __init__(self, servers: Servers, text: Text, *, timeout: float | None, resume: bool = True) -> None:
        self._text = text
        super().__init__(servers, "Generate", text, timeout=timeout, resume=resume)

    def read(self) -> str:
        """Waits for the end; returns the whole text. Raises CharstreamError."""
        for _ in self:
            pass
        return self.text


class Continuations(TextsView, Stream[tuple[int, str]]):
    """Several texts on their way: iterate for (index, chunk), then look at `texts` and `finishes`."""

    def __init__(self, servers: Servers, texts: Texts, *, timeout: float | None, resume: bool) -> None:
        self._texts = texts
        super().__init__(servers, "Generate", texts, timeout=timeout, resume=resume)

    def read(self) -> list[str]:
        """Waits for the end of all; returns the texts. Raises CharstreamError."""
        for _ in self:
            pass
        return self.texts


class ScoreStream(ScoreView, Stream[ScoredPart]):
    """A score on its way: iterate for its parts, then look at `summary`."""

    def __init__(self, servers: Servers, scores: Scores, *, timeout: float | None) -> None:
        self._scores = scores
        super().__init__(servers, "Score", scores, timeout=timeout)

    def read(self) -> ScoreSummary:
        """Waits for the end; returns the summary. Raises CharstreamError."""
        for _ in self:
            pass
        return self._end()
