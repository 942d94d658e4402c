"""ModelStreamInfer: requests that come on one stream and are served side by side."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc.aio import ServicerContext

from protos import inference_pb2 as oip
from server.errors import CallTooLong, Overloaded, RequestError
from server.observe.call import begin_call, current_call
from server.oip.responses import FINAL
from server.service.calls import Calls, report_fault
from server.settings import ServerSettings
from server.streaming.text_stream import Reader

__all__ = ["Out", "RequestStreams"]

Context = ServicerContext[Any, Any]


class Out:
    """Writes the messages of all requests of a stream, one at a time. A reader who takes nothing ends the stream.

    Attributes:
        reader: of all texts of the stream.
        is_stuck: whether a write runs, or was broken off: then gRPC takes no other one, and the stream has to end.
    """

    def __init__(self, context: Context, reader_timeout: float) -> None:
        self._context, self._reader_timeout = context, reader_timeout
        self._turn, self.reader = asyncio.Lock(), Reader()
        self.is_stuck = False

    async def write(self, message: oip.ModelStreamInferResponse) -> None:
        """Write a message. Raises Overloaded if it is not taken in time."""
        async with self._turn:
            if self.is_stuck:
                raise Overloaded.reader_timeout(self._reader_timeout)
            self.is_stuck = True
            try:
                async with asyncio.timeout(self._reader_timeout):
                    await self._context.write(message)
            except TimeoutError:
                raise Overloaded.reader_timeout(self._reader_timeout) from None
            self.is_stuck = False
            self.reader.took = time.monotonic()


Serve = Callable[[oip.ModelInferRequest, Out], Awaitable[None]]


class RequestStreams:
    """Serves the requests of streams. Each has a record of its own and passes the desk of all calls, as a call does.

    Args:
        serve: answers one request.
    """

    def __init__(self, settings: ServerSettings, calls: Calls, serve: Serve) -> None:
        self._settings, self._calls, self._serve = settings, calls, serve

    async def run(self, requests: AsyncIterator[oip.ModelInferRequest], context: Context) -> None:
        """Serve the requests until the last one has its answer. Raises CallTooLong."""
        out = Out(context, self._settings.reader_timeout)
        # As many as there may be calls on a connection. Further requests wait at the client.
        room = asyncio.Semaphore(self._settings.connection_streams)
        try:
            async with asyncio.timeout(self._settings.max_seconds), asyncio.TaskGroup() as tasks:
                await room.acquire()
                async for request in requests:
                    task = tasks.create_task(self._answer(request, out, context))
                    task.add_done_callback(lambda _: room.release())
                    await room.acquire()
        except TimeoutError:
            raise CallTooLong(self._settings.max_seconds) from None
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _answer(self, request: oip.ModelInferRequest, out: Out, context: Context) -> None:
        """Serve one request; its error is for the caller, and the stream goes on."""
        begin_call(current_call().method, rpc_type="")
        try:
            async with self._calls.receive(context):
                await self._serve(request, out)
        except grpc.aio.InternalError:
            raise  # the caller is gone
        except RequestError as error:
            await out.write(_failure(request, str(error)))
        except Exception as error:
            await out.write(_failure(request, report_fault(error)))


def _failure(request: oip.ModelInferRequest, message: str) -> oip.ModelStreamInferResponse:
    about = oip.ModelInferResponse(model_name=request.model_name, id=request.id)
    about.parameters[FINAL].bool_param = True
    return oip.ModelStreamInferResponse(error_message=message, infer_response=about)
