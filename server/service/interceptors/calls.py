"""Each RPC as one record, from its headers to its status: what logs, metrics and traces are made of."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from grpc import StatusCode
from grpc.aio import ServerInterceptor, ServicerContext

from server.access.authentication import Access
from server.access.cancel_limit import Leavers
from server.engine.messages import Finish
from server.errors import RequestError

__all__ = ["Call", "CallInterceptor", "Observer", "current_call"]

Context = ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
EXEMPT = "/grpc.health.v1.Health/"


@dataclass(slots=True)
class Call:
    """One RPC. What is unknown yet, or makes no sense for its method, is empty or None.

    Attributes:
        id: for people; of an internal error, the client is told.
        method: "package.Service/Method".
        model: "NAME VERSION".
        traceparent: the header of that name, the W3C's.
        reason: how the text ended.
        resumed: it went on from a token, or a text received.
        limit: the setting that it was refused for.
        generated_chars: sent in this call, an echo included.
        forced_chars: given, by the prompt or what was received.
        queue_seconds, first_char_seconds: since it began; of several texts, the first one's.
        prompt, text: what came and what was sent, where logs shall have it.
    """

    method: str
    peer: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    began: float = field(default_factory=time.monotonic)
    identity: str = ""
    traceparent: str = ""
    model: str = ""
    reason: str = ""
    resumed: bool = False
    limit: str = ""
    status: StatusCode = StatusCode.OK
    generated_chars: int = 0
    forced_chars: int = 0
    queue_seconds: float | None = None
    first_char_seconds: float | None = None
    seconds: float = 0.0
    prompt: str = ""
    text: str = ""
    observers: "Sequence[Observer]" = ()

    def sent(self, chars: int, seconds: float | None) -> None:
        """A message of a text was sent, so many seconds after the one before."""
        self.generated_chars += chars
        for observer in self.observers:
            observer.sent(self, chars, seconds)

    def finished(self, finish: Finish) -> None:
        """A text has ended."""
        self.reason = finish.reason.value
        if self.queue_seconds is None:
            self.queue_seconds, self.first_char_seconds = finish.queue_seconds, finish.first_char_seconds


class Observer(Protocol):
    """Is told of every call, from the event loop; must not block."""

    def began(self, call: Call) -> None: ...

    def sent(self, call: Call, chars: int, seconds: float | None) -> None:
        """A message of a text, so many seconds after the one before; None for the first."""

    def ended(self, call: Call) -> None: ...


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that this task serves."""
    return _current.get()


class CallInterceptor(ServerInterceptor):
    """Finds out who calls, and tells observers. Health checks are for everybody, and nobody is told of them."""

    def __init__(self, access: Access, observers: Sequence[Observer], leavers: Leavers) -> None:
        self._access, self._observers, self._leavers = access, observers, leavers

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        _current.set(Call(method.lstrip("/")))
        if handler is None or method.startswith(EXEMPT):
            return handler
        if handler.unary_unary:
            make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        elif handler.unary_stream:
            make, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        else:
            make, behaviour = grpc.stream_stream_rpc_method_handler, _written(handler.stream_stream)
        return make(self._watched(behaviour), handler.request_deserializer, handler.response_serializer)

    def _watched(self, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Behaviour:
        async def watched(request: Any, context: Context) -> Any:
            call = current_call()
            call.peer, call.observers = context.peer(), self._observers
            call.traceparent = _header(context, "traceparent")
            with self._observed(call, context):
                async with self._leavers.watched(call.peer, context.time_remaining()):
                    call.identity = self._access.identify(context)
                    return await behaviour(request, context)

        return watched

    @contextmanager
    def _observed(self, call: Call, context: Context) -> Iterator[None]:
        for observer in self._observers:
            observer.began(call)
        try:
            yield
        except BaseException as error:
            call.status = _status(error, context)
            call.limit = error.limit if isinstance(error, RequestError) else ""
            raise
        finally:
            call.seconds = time.monotonic() - call.began
            for observer in self._observers:
                observer.ended(call)


def _status(error: BaseException, context: Context) -> StatusCode:
    """What the caller sees."""
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, (asyncio.CancelledError, grpc.aio.InternalError)):
        left = context.time_remaining()
        return StatusCode.CANCELLED if left is None or left > 0 else StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, grpc.aio.AbortError):
        code: StatusCode = context.code()
        return code
    return StatusCode.INTERNAL


def _header(context: Context, name: str) -> str:
    found = (value for key, value in context.invocation_metadata() or () if key == name)
    return str(next(found, ""))


def _written(behaviour: Behaviour) -> Callable[[Any, Context], Awaitable[None]]:
    """A handler that yields its messages as one that writes them."""

    async def written(requests: Any, context: Context) -> None:
        async for message in behaviour(requests, context):
            await context.write(message)

    return written
