"""Streams: each kind of call, made and recorded. asyncio."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from client.channels import Servers
from client.errors import CharstreamError, Overloaded, ServerError, from_rpc_error
from client.options import generate_request
from client.score_task import score_request
from loadtest.measures.measures import Measures
from loadtest.measures.record import StreamRecord
from loadtest.scenarios.calls import Call
from protos import charstream_pb2 as pb

__all__ = ["Caller", "Outcome"]

clock = time.perf_counter

Texts = dict[int, str]  # by continuation


@dataclass
class Outcome:
    """The texts that a call gave; whether each is known to be whole; and what failed."""

    texts: Texts = field(default_factory=dict)
    is_whole: bool = False
    error: CharstreamError | None = None

    @property
    def retry_after(self) -> float | None:
        return self.error.retry_after if isinstance(self.error, Overloaded) else None


class Caller:
    """Makes calls over connections of its own, and adds their records to the measures.

    Args:
        measures: gives those that count now.
        on_record: is told of each record when its stream is over.
    """

    def __init__(
        self, servers: Servers, model: str, measures: Callable[[], Measures], on_record: Callable[[StreamRecord], None]
    ) -> None:
        self._servers, self._model = servers, model
        self._measures, self._on_record = measures, on_record

    async def make(self, call: Call, intended: float) -> Outcome:
        """Make the call and read what comes. Raises CancelledError: the run is over; the record is added before."""
        actions: dict[str, Callable[[Call, float], Awaitable[Outcome]]] = {"resume": self._resume, "score": self._score}
        return await actions.get(call.action, self._generate)(call, intended)

    async def _generate(self, call: Call, intended: float) -> Outcome:
        record = self._record(call, intended, is_single=call.n == 1, is_paced=call.pause > 0)
        give_up_at = max(1, int(call.place * call.max_chars)) if call.action == "cancel" else None
        outcome, _ = await self._read(record, self._request(call), pause=call.pause, give_up_at=give_up_at)
        return outcome

    async def _resume(self, call: Call, intended: float) -> Outcome:
        """Ask for the first part and a token, and for the rest from there: two streams."""
        first_chars = max(1, int(call.place * call.max_chars))
        request = self._request(call)
        request.max_chars, request.return_token = first_chars, True
        first, finish = await self._read(self._record(call, intended), request)
        if not first.is_whole or finish is None or first_chars >= call.max_chars:
            return first
        rest_request = pb.GenerateRequest(
            model=self._model, resume_token=finish.resume_token, max_chars=call.max_chars - first_chars
        )
        rest, _ = await self._read(self._record(call, clock()), rest_request)
        text = first.texts.get(0, "") + rest.texts.get(0, "")
        return Outcome({0: text}, rest.is_whole, rest.error)

    async def _score(self, call: Call, intended: float) -> Outcome:
        record = self._record(call, intended, is_text=False)
        request = score_request({"model": self._model})
        request.text = call.prompt
        outcome, parts = Outcome(), 0
        async with self._watch(record, outcome):
            async for response in self._call("Score", request):
                record.arrivals.append(clock())
                parts += len(response.logprobs.chosen)
                if response.HasField("summary"):
                    record.queue_seconds = response.summary.timings.queue_seconds
                    outcome.texts[0] = f"{response.summary.nats!r} nats, {response.summary.chars} characters"
            if not outcome.texts or not parts:
                raise ServerError("the score ended without its summary")
            outcome.is_whole = True
        return outcome

    async def _read(
        self, record: StreamRecord, request: pb.GenerateRequest, *, pause: float = 0.0, give_up_at: int | None = None
    ) -> tuple[Outcome, pb.Finish | None]:
        """Read the stream of a text, or of several; return also the last finish."""
        outcome, texts = Outcome(), dict[int, list[str]]()
        finishes: list[pb.Finish] = []
        call = self._call("Generate", request)
        try:
            async with self._watch(record, outcome):
                async for response in call:
                    chars = len(response.raw or response.text)
                    if chars:
                        now = clock()
                        record.arrivals.append(now)
                        record.chars += chars
                        self._measures().add_message(now, chars)
                        texts.setdefault(response.index, []).append(response.text)
                    if response.HasField("finish"):
                        finishes.append(response.finish)
                    if give_up_at is not None and record.chars >= give_up_at and not finishes:
                        call.cancel()
                        record.end = "abandoned"
                        break
                    if pause:
                        await asyncio.sleep(pause)
                if record.end != "abandoned":
                    _check_length(record.chars, finishes, expected=request.n or 1)
                    record.queue_seconds = finishes[0].timings.queue_seconds
                    outcome.is_whole = True
        finally:
            outcome.texts = {index: "".join(pieces) for index, pieces in texts.items()}
        return outcome, finishes[-1] if finishes else None

    def _watch(self, record: StreamRecord, outcome: Outcome) -> "_Watch":
        self._measures().timeline.begin_stream(record.started)
        return _Watch(record, outcome, self._end)

    def _end(self, record: StreamRecord) -> None:
        record.ended = clock()
        self._measures().add(record)
        self._on_record(record)

    def _call(self, name: str, request: Any) -> Any:  # gRPC's call object: an asynchronous iterator with `cancel`
        method = self._servers.method(name, self._servers.next_address())
        return method(request, metadata=self._servers.metadata)

    def _request(self, call: Call) -> pb.GenerateRequest:
        request = generate_request(
            call.prompt,
            {
                "model": self._model,
                "max_chars": call.max_chars,
                "temperature": call.temperature,
                "seed": call.seed,
                "continuation": call.continuation or None,
            },
            checkpoints=False,  # failures are to be counted, not repaired
        )
        if call.n > 1:
            request.n = call.n
        return request

    def _record(self, call: Call, intended: float, **facts: Any) -> StreamRecord:
        return StreamRecord(call.kind, intended, clock(), **facts)


class _Watch:
    """Notes how a stream ends: finished unless something is raised, or the record says something else already."""

    def __init__(self, record: StreamRecord, outcome: Outcome, on_end: Callable[[StreamRecord], None]) -> None:
        self._record, self._outcome, self._on_end = record, outcome, on_end

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        record = self._record
        if error is None:
            record.end = record.end if record.end == "abandoned" else "finished"
        elif isinstance(error, asyncio.CancelledError):
            record.end = "cut off"
        elif isinstance(error, grpc.RpcError | CharstreamError):
            found = from_rpc_error(error) if isinstance(error, grpc.RpcError) else error
            record.status = error.code().name if isinstance(error, grpc.RpcError) else "WRONG_ANSWER"
            record.reason = " ".join(str(found).split())
            self._outcome.error = found
        else:
            return False
        self._on_end(record)
        return error is not None and not isinstance(error, asyncio.CancelledError)


def _check_length(received: int, finishes: list[pb.Finish], expected: int) -> None:
    said = sum(finish.generated_chars for finish in finishes)
    if len(finishes) != expected or said != received:
        ends = f"{len(finishes)} of {expected} texts ended"
        raise ServerError(f"{received} characters came, the server says {said}; {ends}")
