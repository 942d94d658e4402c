"""The metrics port: /metrics for Prometheus, /healthz and /readyz for whoever starts and stops servers, over HTTP.

It has threads of its own, so that it answers even when the event loop does not.
"""

import asyncio
import gzip
import logging
import socket
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import Event, Thread
from typing import Any

from prometheus_client.exposition import choose_encoder, gzip_accepted

from server.observe.metrics import Metrics, Stage

__all__ = ["StatusPort"]

# The most connections at a time; others are closed at once.
CONNECTIONS = 16
# The time that a connection has for its request and its answer.
CONNECTION_SECONDS = 5.0
LOOP_SECONDS, WAIT_SECONDS = 1.0, 0.1

log = logging.getLogger("charstream.server")


class StatusPort:
    """Answers from the moment it is made until the process ends. To be made in the event loop that it is to watch.

    Args:
        port: 0 takes any free one; the log says which.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, host: str, port: int, metrics: Metrics) -> None:
        server = _HttpServer(host, port, _Status(metrics, asyncio.get_running_loop()))
        log.info("metrics on %s:%d", f"[{host}]" if ":" in host else host, server.server_address[1])
        Thread(target=server.serve_forever, name="metrics port", daemon=True).start()


class _Status:
    """The answers, by the server's stage and whether its event loop runs."""

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.metrics, self._loop = metrics, loop

    @property
    def health(self) -> tuple[HTTPStatus, str]:
        """Whether the process should go on living: the status, and why."""
        if self.metrics.stage is Stage.BROKEN:
            return HTTPStatus.SERVICE_UNAVAILABLE, self.metrics.stage.value
        if not self._loop_answers():
            return HTTPStatus.SERVICE_UNAVAILABLE, "the event loop does not answer"
        return HTTPStatus.OK, "ok"

    @property
    def readiness(self) -> tuple[HTTPStatus, str]:
        """Whether the server should get calls: the status, and its stage."""
        ready = self.metrics.stage is Stage.READY
        return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, self.metrics.stage.value

    def _loop_answers(self) -> bool:
        answered = Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:
            return False  # it is closed
        return answered.wait(LOOP_SECONDS)


class _HttpServer(ThreadingMixIn, TCPServer):
    """Has a thread for each of few connections, each for a short time."""

    daemon_threads = allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, status: _Status) -> None:
        self.status = status
        self._open: dict[socket.socket, float] = {}
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            time.sleep(WAIT_SECONDS)  # no file is left: the next try would fail at once, too
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self._open) < CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections that take too long: reading them then ends. Called twice a second."""
        over = time.monotonic() - CONNECTION_SECONDS
        for connection, since in list(self._open.items()):
            if since < over:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics port: %s is gone, or its time was over", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    timeout = CONNECTION_SECONDS

    def do_GET(self) -> None:
        status = self.server.status
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer_metrics(status.metrics)
            case "/healthz":
                self._answer_text(*status.health)
            case "/readyz":
                self._answer_text(*status.readiness)
            case _:
                self._answer_text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(f"metrics port: {format}", *args)

    def _answer_metrics(self, metrics: Metrics) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body, zipped = encode(metrics.registry), gzip_accepted(self.headers.get("Accept-Encoding", ""))
        self._answer(HTTPStatus.OK, content_type, gzip.compress(body) if zipped else body, "gzip" if zipped else "")

    def _answer_text(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes, encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
