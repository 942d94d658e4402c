"""One HTTP request and its answer, served as a call like those that come over gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from server.errors import RequestError
from server.http.bodies import to_event, to_json
from server.http.connections import TRANSPORT
from server.http.errors import BodyTooLarge, BodyTooSlow, error_body, error_headers, http_status
from server.observe.call import begin_call
from server.service.calls import Calls, report_fault

__all__ = ["METHODS", "Door", "Endpoint", "Exchange"]

ENDPOINTS = ("completions", "models", "score", "generate", "generate_stream", "activations", "card", "load")
# As a service's name in logs and metrics.
SERVICE = "charstream.http"
KIND = "http"
# The type of each endpoint, as that of an RPC, by "SERVICE/NAME".
METHODS = dict.fromkeys((f"{SERVICE}/{name}" for name in ENDPOINTS), KIND)
# A client that has begun a request has this many seconds for its body.
BODY_SECONDS = 10.0
# An error within a stream is for clients that read.
ERROR_SECONDS = 1.0
JSON = {"Content-Type": "application/json"}
# The last one keeps nginx from collecting events.
EVENTS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True)
class Door:
    """All that serves the requests of the HTTP port.

    Attributes:
        calls: the desk that every call passes.
        body_bytes: the most that a request's body may have.
    """

    calls: Calls
    body_bytes: int


class Endpoint:
    """An ASGI application that serves requests of one kind.

    Args:
        name: is the method's name in logs and metrics.
        error: makes the body of an error from it and its message; OpenAI's form by default.
    """

    def __init__(
        self,
        door: Door,
        name: str,
        serve: "Callable[[Exchange], Awaitable[None]]",
        error: Callable[[Exception, str], Any] = error_body,
    ) -> None:
        self._door, self._name, self._serve, self._error = door, name, serve, error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin_call(f"{SERVICE}/{self._name}", KIND)
        exchange = Exchange(scope, receive, send, self._door.body_bytes)
        try:
            async with self._door.calls.receive(exchange, exchange.host):
                await self._serve(exchange)
        except asyncio.CancelledError:
            if not exchange.is_gone:
                raise
        except RequestError as error:
            await self._fail(exchange, error, str(error))
        except Exception as error:
            await self._fail(exchange, error, report_fault(error))
        finally:
            exchange.close()

    async def _fail(self, exchange: "Exchange", error: Exception, message: str) -> None:
        exchange.close()  # a client that leaves now is no news
        body = self._error(error, message)
        if exchange.is_begun:
            await exchange.break_off(body)
        else:
            await exchange.answer(body, http_status(error), error_headers(error))


class Exchange:
    """One request and its answer: a `Caller`, too.

    Attributes:
        headers: of the request.
        parameters: the parts of its path that its route names; `query`: what follows the path.
        is_begun: whether the answer has begun.
        is_gone: whether the client has gone before the end of the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_bytes: int) -> None:
        self.headers = Headers(scope=scope)
        self.parameters: Mapping[str, str] = scope.get("path_params", {})
        self.query = QueryParams(scope.get("query_string", b""))
        self.is_begun = self.is_gone = False
        self._scope, self._receive, self._send, self._body_bytes = scope, receive, send, body_bytes
        self._is_complete = False  # the last bytes were handed over
        self._watcher: asyncio.Task[None] | None = None

    @property
    def host(self) -> str:
        """The address of the client, or of the proxy before it."""
        return str((self._scope["client"] or ("unknown", 0))[0])

    def peer(self) -> str:
        host, port = self.host, (self._scope["client"] or ("unknown", 0))[1]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        return self.headers.items()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        found = self._transport.get_extra_info("peercert") or {}
        subject = dict(pair for part in found.get("subject", ()) for pair in part)
        names = [name.encode() for _, name in found.get("subjectAltName", ())]
        common = [subject["commonName"].encode()] if "commonName" in subject else []
        return {"x509_common_name": common, "x509_subject_alternative_name": names}

    def time_remaining(self) -> float | None:
        return None

    @property
    def _transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self._scope["state"][TRANSPORT]
        return transport

    async def body(self) -> bytes:
        """Return the request's body. From then on a client that goes away ends the task.

        Raises:
            BodyTooLarge, BodyTooSlow: it is.
        """
        parts, size, more = list[bytes](), 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.is_gone = True
                        raise asyncio.CancelledError
                    parts.append(message["body"])
                    size, more = size + len(parts[-1]), message["more_body"]
                    if size > self._body_bytes:
                        raise BodyTooLarge(self._body_bytes)
        except TimeoutError:
            raise BodyTooSlow(BODY_SECONDS) from None
        self._watch()
        return b"".join(parts)

    def _watch(self) -> None:
        task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._wait_until_gone())

        def leave(watcher: asyncio.Task[None]) -> None:
            if not watcher.cancelled() and not self._is_complete and task:
                self.is_gone = True
                task.cancel()

        self._watcher.add_done_callback(leave)

    async def _wait_until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        if self._watcher:
            self._watcher.cancel()

    async def answer(self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send the whole answer, as JSON."""
        data = to_json(body)
        await self._begin(status, {**JSON, "Content-Length": str(len(data)), **(headers or {})})
        await self._write(data, more=False)

    async def event(self, data: bytes) -> None:
        """Send bytes that are whole server-sent events; the first begin the answer."""
        if not self.is_begun:
            await self._begin(200, EVENTS)
        await self._write(data, more=True)

    async def end_events(self) -> None:
        await self._write(b"", more=False)

    async def break_off(self, body: Any) -> None:
        """End a stream of events with an error; of a client that does not read, end the connection."""
        try:
            async with asyncio.timeout(ERROR_SECONDS):
                await self._write(to_event(body), more=True)
                await self.end_events()
        except TimeoutError:
            self._is_complete = True
            self._transport.abort()
            await self._wait_until_gone()

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.is_begun = True
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _write(self, data: bytes, *, more: bool) -> None:
        self._is_complete = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
