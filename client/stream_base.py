"""The parts that blocking and asyncio streams share: asking, the decision after a failure, and what has come so far."""

import asyncio
import threading
import time
from typing import Any, ClassVar, Generic, TypeVar

import grpc

from .channels import Servers
from .errors import CharstreamError, Unavailable, from_rpc_error
from .generation_task import ContinuationsTask, TextTask
from .hedging.asynchronous import AsyncRace
from .hedging.blocking import Race
from .results import Finish, ScoredPart, ScoreSummary, Started
from .retry import Recovery, Task
from .score_task import ScoreTask

__all__ = ["ContinuationsBase", "ScoreStreamBase", "StreamBase", "TextStreamBase", "start_recovery"]

T = TypeVar("T")

ATTEMPT = "charstream-attempt"  # the header that tells a server why it is asked


def start_recovery(servers: Servers, task: Task[T], *, timeout: float | None, resume: bool = True) -> Recovery[T]:
    """Return the recovery of a task that begins now, at the next address."""
    return Recovery(
        task,
        servers.count,
        servers.next_address(),
        patience=servers.patience,
        deadline=None if timeout is None else time.monotonic() + timeout,
        resume=resume,
    )


class StreamBase(Generic[T]):
    """A task, the call that runs for it, and whether somebody cancelled it."""

    _new_event: ClassVar[type[threading.Event] | type[asyncio.Event]]
    _race: ClassVar[type[Race] | type[AsyncRace]]

    def __init__(
        self, servers: Servers, method: str, task: Task[T], *, timeout: float | None, resume: bool = True
    ) -> None:
        self._servers, self._method = servers, method
        self._recovery = start_recovery(servers, task, timeout=timeout, resume=resume)
        self._cancelled: Any = self._new_event()
        self._call = self._ask()

    def _ask(self) -> Any:  # gRPC's call object: an iterator of responses, or an asynchronous one, with `cancel`
        task, hedging = self._recovery.task, self._servers.hedging
        before = task.replayed_chars
        message = task.message(time.monotonic())
        replayed, is_text = task.replayed_chars - before, self._method == "Generate"
        if hedging is None or task.has_begun or not is_text:
            return self._send(message, self._recovery.address, task.attempt, replayed)
        first, second = self._recovery.address, (self._recovery.address + 1) % self._servers.count

        def ask(again: bool) -> Any:
            return self._send(message, second if again else first, "hedge" if again else task.attempt, replayed)

        def note_winner(is_second: bool) -> None:
            if is_second:
                self._recovery.address = second
                self._servers.counters.count_hedge_won()

        return self._race(ask, hedging, note_winner)

    def _send(self, message: Any, address: int, attempt: str, replayed_chars: int) -> Any:
        self._servers.counters.count_call(attempt, replayed_chars)
        metadata = (*self._servers.metadata, (ATTEMPT, attempt)) if attempt else self._servers.metadata
        method = self._servers.method(self._method, address)
        return method(message, timeout=self._recovery.seconds_left(time.monotonic()), metadata=metadata)

    def _seconds_to_wait(self, failure: grpc.RpcError | CharstreamError | None) -> float:
        """Return the wait before the next call; `failure` is None after a call with status OK.

        Raises:
            CharstreamError: there is no next call.
        """
        self._check_open()
        now = time.monotonic()
        if failure is None:
            return self._recovery.handle_end(now)
        error = from_rpc_error(failure) if isinstance(failure, grpc.RpcError) else failure
        if not self._recovery.task.is_answered:
            self._servers.counters.count_failure(error)
        return self._recovery.handle_failure(error, now)

    def _check_open(self) -> None:
        if self._servers.closed:
            raise self._recovery.task.attach_progress(Unavailable("the client was closed"), time.monotonic())

    def cancel(self) -> None:
        """End the call: the loop over the stream ends, and what has come stays. A blocking stream may be cancelled from
        any thread."""
        self._cancelled.set()
        self._call.cancel()


class TextStreamBase(StreamBase[str]):
    """The state of one text."""

    def __init__(self, servers: Servers, text: TextTask, *, timeout: float | None, resume: bool = True) -> None:
        self._text = text
        super().__init__(servers, "Generate", text, timeout=timeout, resume=resume)

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def raw(self) -> bytes:
        """All bytes that a model of bytes wrote, also those of no complete character; b"" from other models."""
        return self._text.raw

    @property
    def finish(self) -> Finish | None:
        """How the text ended; None until it did, and for ever if it was cancelled."""
        return self._text.finish

    @property
    def started(self) -> Started | None:
        """The values that the server chose; None until the first characters came."""
        return self._text.started

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of each character of `text`, or byte of `raw`, if asked for."""
        return self._text.logprobs

    @property
    def alternatives(self) -> list[list[tuple[str, float]]]:
        """The most probable characters at the place of each one of `text`, or bytes of `raw`, if asked for."""
        return self._text.alternatives

    @property
    def resumes(self) -> int:
        """How often the rest of the text was asked for again."""
        return self._text.resumes

    @property
    def replayed_chars(self) -> int:
        """How many characters were sent back for that."""
        return self._text.replayed_chars


class ContinuationsBase(StreamBase[tuple[int, str]]):
    """The state of several texts, by index."""

    def __init__(self, servers: Servers, texts: ContinuationsTask, *, timeout: float | None, resume: bool) -> None:
        self._texts = texts
        super().__init__(servers, "Generate", texts, timeout=timeout, resume=resume)

    @property
    def texts(self) -> list[str]:
        return [text.text for text in self._texts.each]

    @property
    def raws(self) -> list[bytes]:
        """All bytes of each text of a model of bytes."""
        return [text.raw for text in self._texts.each]

    @property
    def started(self) -> list[Started | None]:
        """The values that the server chose for each text; None until its first characters came."""
        return [text.started for text in self._texts.each]

    @property
    def finishes(self) -> list[Finish | None]:
        """How each text ended; None until it did."""
        return [text.finish for text in self._texts.each]

    @property
    def logprobs(self) -> list[list[float]]:
        """The log-probabilities of each text's characters, if asked for."""
        return [text.logprobs for text in self._texts.each]

    @property
    def alternatives(self) -> list[list[list[tuple[str, float]]]]:
        """The most probable characters at each place of each text, if asked for."""
        return [text.alternatives for text in self._texts.each]

    @property
    def resumes(self) -> int:
        return sum(text.resumes for text in self._texts.each)

    @property
    def replayed_chars(self) -> int:
        return sum(text.replayed_chars for text in self._texts.each)


class ScoreStreamBase(StreamBase[ScoredPart]):
    """The state of a score."""

    def __init__(self, servers: Servers, scores: ScoreTask, *, timeout: float | None) -> None:
        self._scores = scores
        super().__init__(servers, "Score", scores, timeout=timeout)

    @property
    def summary(self) -> ScoreSummary | None:
        """The figures of the whole text; None before its end."""
        return self._scores.summary

    def _final_summary(self) -> ScoreSummary:
        """Return the summary. Raises CharstreamError: the score was cancelled before its end."""
        if self.summary is None:
            raise CharstreamError("the score was cancelled before its end")
        return self.summary
