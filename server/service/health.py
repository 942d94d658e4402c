"""grpc.health.v1: whether the server takes calls.

The service that comes with gRPC holds a lock while it writes to a watcher: a watcher that does not read would keep the
server from draining. This one keeps little for each watcher, and few watchers, as anybody may ask.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from grpc import StatusCode
from grpc.aio import ServicerContext
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

__all__ = ["Health"]

WATCHERS = 1000

Context = ServicerContext[Any, Any]


class Health(HealthServicer):
    """Answers SERVING until `stop_serving`. Names of services other than `services` are NOT_FOUND."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._status: Any = HealthCheckResponse.SERVING
        self._changed = asyncio.Event()
        self._watchers = 0

    def stop_serving(self) -> None:
        self._status = HealthCheckResponse.NOT_SERVING
        self._changed.set()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._services:
            await _refuse_name(context)
        return HealthCheckResponse(status=self._status)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        if request.service not in self._services:
            await _refuse_name(context)
        if self._watchers >= WATCHERS:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, f"{WATCHERS} watch already: ask with Check")
        self._watchers += 1
        try:
            # Until the caller, or the server, ends it: gRPC would log that as an error.
            with suppress(asyncio.CancelledError):
                await context.write(HealthCheckResponse(status=self._status))
                await self._changed.wait()
                await context.write(HealthCheckResponse(status=self._status))
                await asyncio.Event().wait()
        finally:
            self._watchers -= 1


async def _refuse_name(context: Context) -> NoReturn:
    await context.abort(StatusCode.NOT_FOUND, "service: no such service is here")
    raise AssertionError("abort raises")
