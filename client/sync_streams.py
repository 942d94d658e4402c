"""The streams of the blocking client: texts and scores as they come."""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import grpc

from .errors import WrongReplica
from .hedging.blocking import Race
from .results import ScoredPart, ScoreSummary
from .stream_base import ContinuationsBase, ScoreStreamBase, StreamBase, TextStreamBase

__all__ = ["Continuations", "ScoreStream", "Stream", "TextStream"]

T = TypeVar("T")


class Stream(StreamBase[T]):
    """The items of a task as they come.

    Leaving the loop or the `with` block early cancels the call, which frees the server's row.
    """

    _new_event = threading.Event
    _race = Race

    def __iter__(self) -> Iterator[T]:
        """Yield the items. Raises CharstreamError, which for a single text has in `.text` what came before."""
        try:
            again = True
            while again:
                try:
                    for response in self._call:
                        yield from self._recovery.take(response, time.monotonic())
                except (grpc.RpcError, WrongReplica) as error:
                    again = self._ask_again(error)
                else:
                    again = self._ask_again(None)
        finally:
            self.cancel()

    def _ask_again(self, failure: grpc.RpcError | WrongReplica | None) -> bool:
        """Ask for the missing rest, after a wait; return False if nothing is missing, or somebody cancelled."""
        if self._recovery.task.is_done or self._cancelled.is_set():
            return False
        self._call.cancel()
        if self._cancelled.wait(self._seconds_to_wait(failure)):
            return False
        self._check_open()
        self._call = self._ask()
        if self._cancelled.is_set():  # meanwhile: `cancel` saw only the call before
            self._call.cancel()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class TextStream(TextStreamBase, Stream[str]):
    """A text on its way: iterate over its chunks, each of at least one character, then look at `finish`."""

    def read(self) -> str:
        """Wait for the end; return the whole text. Raises CharstreamError."""
        for _ in self:
            pass
        return self.text


class Continuations(ContinuationsBase, Stream[tuple[int, str]]):
    """Several texts on their way: iterate over pairs (index, chunk), then look at `texts` and `finishes`."""

    def read(self) -> list[str]:
        """Wait for the end of all; return the texts. Raises CharstreamError."""
        for _ in self:
            pass
        return self.texts


class ScoreStream(ScoreStreamBase, Stream[ScoredPart]):
    """A score on its way: iterate over its parts, then look at `summary`."""

    def read(self) -> ScoreSummary:
        """Wait for the end; return the summary. Raises CharstreamError."""
        for _ in self:
            pass
        return self._final_summary()
