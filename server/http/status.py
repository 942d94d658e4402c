"""The metrics port: /metrics for Prometheus, /healthz and /readyz for whoever starts and stops servers, over HTTP.

It has a thread and an event loop of its own, so that it answers even when the server's event loop does not.
"""

import asyncio
import gzip
import logging
from http import HTTPStatus
from threading import Thread

from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from server.errors import CannotStart
from server.http.connections import Limits, WebServer, listen
from server.observe.metrics import Metrics, Stage

__all__ = ["start_status_port"]

# Few connections, each for one request and a short time.
LIMITS = Limits(connections=16, head_bytes=16_384, head_seconds=5, idle_seconds=5, write_seconds=5, handshake_seconds=5)
LOOP_SECONDS = 1.0
METHODS = ("GET", "HEAD")
CLOSE = {"Connection": "close"}

log = logging.getLogger("charstream.server")


def start_status_port(host: str, port: int, metrics: Metrics) -> None:
    """Answer from now on until the process ends. To be called in the event loop that it is to watch.

    Args:
        port: 0 takes any free one; the log says which.

    Raises:
        CannotStart: it cannot listen there.
    """
    try:
        listening = listen(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is no name that a host can have"
        raise CannotStart(f"--metrics-port: cannot listen on {host}:{port}: {reason}") from None
    status = _Status(metrics, asyncio.get_running_loop())
    log.info("metrics on %s:%d", f"[{host}]" if ":" in host else host, listening.getsockname()[1])
    server = WebServer(status, LIMITS)
    Thread(target=lambda: asyncio.run(server.serve([listening])), name="metrics port", daemon=True).start()


class _Status:
    """The answers, by the server's stage and whether its event loop runs."""

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics, self._loop = metrics, loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._answer(Request(scope)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in METHODS:
            return _text(HTTPStatus.NOT_IMPLEMENTED, f"there are {' and '.join(METHODS)}")
        match request.url.path:
            case "/metrics":
                return self._samples(request)
            case "/healthz":
                return _text(*await self._health())
            case "/readyz":
                ready = self._metrics.stage is Stage.READY
                return _text(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, self._metrics.stage.value)
        return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _samples(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body, headers = encode(self._metrics.registry), dict(CLOSE)
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        return Response(body, HTTPStatus.OK, headers | {"Content-Type": content_type})

    async def _health(self) -> tuple[HTTPStatus, str]:
        """Return whether the process should go on living, and why."""
        if self._metrics.stage is Stage.BROKEN:
            return HTTPStatus.SERVICE_UNAVAILABLE, self._metrics.stage.value
        if not await self._loop_answers():
            return HTTPStatus.SERVICE_UNAVAILABLE, "the event loop does not answer"
        return HTTPStatus.OK, "ok"

    async def _loop_answers(self) -> bool:
        here, answered = asyncio.get_running_loop(), asyncio.Event()
        try:
            self._loop.call_soon_threadsafe(here.call_soon_threadsafe, answered.set)
            await asyncio.wait_for(answered.wait(), LOOP_SECONDS)
        except (RuntimeError, TimeoutError):  # it is closed, or late
            return False
        return True


def _text(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, CLOSE)
