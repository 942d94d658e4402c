"""What the blocking and the asyncio streams do alike: ask, and decide what follows a failure."""

import asyncio
import threading
import time
from typing import Any, ClassVar, Generic, TypeVar

import grpc

from client.channels import Servers
from client.errors import CharstreamError, Unavailable, from_rpc_error
from client.retry import Task

__all__ = ["Asking"]

T = TypeVar("T")


class Asking(Generic[T]):
    """The call that runs for a task, and whether somebody cancelled it."""

    _new_event: ClassVar[type[threading.Event] | type[asyncio.Event]]

    def __init__(
        self, servers: Servers, method: str, task: Task[T], *, timeout: float | None = None, resume: bool = True
    ) -> None:
        self._servers, self._method = servers, method
        self._recovery = servers.recovery(task, timeout=timeout, resume=resume, now=time.monotonic())
        self._cancelled: Any = self._new_event()
        self._call = self._ask()

    def _ask(self) -> Any:  # gRPC's call object: an iterator of responses, or an asynchronous one, with `cancel`
        now = time.monotonic()
        method = self._servers.method(self._method, self._recovery.address)
        message, seconds = self._recovery.task.message(now), self._recovery.seconds_left(now)
        return method(message, timeout=seconds, metadata=self._servers.metadata)

    def _seconds_to_wait(self, failure: grpc.RpcError | CharstreamError | None) -> float:
        """Before the next call; None: the last one ended as if all were well. Raises CharstreamError: there is none."""
        self._check_open()
        now = time.monotonic()
        if failure is None:
            return self._recovery.ended(now)
        return self._recovery.failed(from_rpc_error(failure) if isinstance(failure, grpc.RpcError) else failure, now)

    def _check_open(self) -> None:
        if self._servers.closed:
            raise self._recovery.given_up(Unavailable("the client was closed"), time.monotonic())

    def cancel(self) -> None:
        """Ends the call; the loop over the stream ends, and what it has stays as it is. A blocking stream may be
        cancelled from any thread."""
        self._cancelled.set()
        self._call.cancel()
