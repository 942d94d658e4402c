"""The desk that every call passes, whichever door it comes through."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray

from bundle.curve import TrainingCurve
from bundle.manifest import TrainingRecord
from protos import charstream_pb2 as pb
from server.access.authentication import Authenticator
from server.access.caller import Caller
from server.access.cancel_limit import CancelLimit
from server.errors import RequestError
from server.observe.call import Call, CallHeaders, Observer, current_call

__all__ = ["Activations", "Calls", "ModelCard", "Models", "States", "Texts", "Writer", "report_fault"]

log = logging.getLogger("charstream.service")


class Writer(Protocol):
    """Takes the messages of a call, and waits while their reader is slow. A context of grpc.aio is one.

    One that takes those of several calls, whose texts have one reader, has a `reader`: a `Reader` that says when that
    took one last.
    """

    async def write(self, message: Any) -> None: ...


class Texts(Protocol):
    """The service that generates and scores, for doors other than gRPC. Both raise RequestError."""

    async def Generate(self, message: pb.GenerateRequest, context: Writer) -> None: ...

    async def Score(self, message: pb.ScoreRequest, context: Writer) -> None: ...


@dataclass(frozen=True)
class Activations:
    """What a model's hidden units are, after the last T characters of a text.

    Attributes:
        state: the name of the array, h0 being the lowest layer's; `states`: all that the model has.
        symbols: the T characters, or if `is_bytes` bytes as code points.
        values: [T, H].
        logprobs: [V], of each symbol of the vocabulary at the place after the text.
    """

    model: str
    version: str
    state: str
    states: tuple[str, ...]
    symbols: str
    is_bytes: bool
    values: NDArray[np.float32]
    logprobs: NDArray[np.float64]


class States(Protocol):
    """The service that looks inside models; see server/service/activations.py."""

    async def read(self, model: str, text: str, state: str, last: int | None) -> Activations: ...


@dataclass(frozen=True)
class ModelCard:
    """What a bundle tells of its model, beside the manifest. What it has not, or can't be read any more, is empty."""

    name: str
    version: str
    text: str
    curve: TrainingCurve | None
    training: TrainingRecord


class Models(Protocol):
    """The service that tells which models are served, for doors other than gRPC."""

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse: ...

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model: ...

    async def card(self, name: str) -> "ModelCard": ...


class Calls:
    """Finds out who calls, limits what connections give up, and tells observers."""

    def __init__(self, authenticator: Authenticator, observers: Sequence[Observer], cancel_limit: CancelLimit) -> None:
        self._authenticator, self._observers, self._cancel_limit = authenticator, observers, cancel_limit

    @asynccontextmanager
    async def receive(self, caller: Caller, host: str | None = None) -> AsyncIterator[Call]:
        """Serve the current call in the block; give its record. Raises RequestError, before the block or from it.

        Args:
            host: where connections have one call each, what they give up is counted together for their host.
        """
        call = current_call()
        call.peer, call.observers = caller.peer(), self._observers
        call.headers = CallHeaders.read(caller.invocation_metadata())
        with self._observe(call, caller):
            async with self._cancel_limit.watch(host or call.peer, caller.time_remaining()):
                call.identity = self._authenticator.identify(caller)
                yield call

    @contextmanager
    def _observe(self, call: Call, caller: Caller) -> Iterator[None]:
        for observer in self._observers:
            observer.on_begin(call)
        try:
            yield
        except BaseException as error:
            call.status = _status(error, call, caller)
            call.limit = error.limit if isinstance(error, RequestError) else ""
            raise
        finally:
            call.seconds = time.monotonic() - call.began
            for observer in self._observers:
                observer.on_end(call)


def report_fault(error: Exception) -> str:
    """Log an error that is no fault of the caller; return what the caller is told of it."""
    number = current_call().id
    log.error("internal error %s", number, exc_info=error)
    return f"internal error {number}; the server's log has the cause under this number"


def _status(error: BaseException, call: Call, caller: Caller) -> StatusCode:
    """Return the status that the caller sees."""
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, (asyncio.CancelledError, grpc.aio.InternalError)):
        left = caller.time_remaining()
        return StatusCode.CANCELLED if left is None or left > 0 else StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, grpc.aio.AbortError):
        return call.status  # whoever aborted it has noted with which
    return StatusCode.INTERNAL
