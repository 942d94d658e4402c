"""HTTP connections as uvicorn serves them, with limits of number, size and time."""

import asyncio
import functools
import math
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["TRANSPORT", "Limits", "WebServer", "listen"]

# The key of the request's state under which applications find its connection.
TRANSPORT = "transport"
LAST_SECONDS = 1
SEND_BYTES = 16 << 10


@dataclass(frozen=True)
class Limits:
    """Limits of the connections of one port; times are in seconds.

    Attributes:
        connections: at a time; others are closed at once.
        head_bytes: of a request line with its headers.
        head_seconds: from the connection, or the first byte of a request, to the end of its headers.
        idle_seconds: between two requests.
        write_seconds: for which a client may take nothing of what was sent to it.
        handshake_seconds: for TLS.
    """

    connections: int
    head_bytes: int
    head_seconds: float
    idle_seconds: float
    write_seconds: float
    handshake_seconds: float


class Connection(H11Protocol):
    """One connection. What goes beyond a limit is cut, without an answer."""

    def __init__(self, limits: Limits, **rest: Any) -> None:
        super().__init__(**rest)
        self._limits = limits
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if len(self.connections) >= self._limits.connections:
            self._cut()
            return
        super().connection_made(transport)
        # What the system does not take has to wait: of a text it would be generated for nobody.
        transport.set_write_buffer_limits(high=1)  # with 0, asyncio's TLS would wait for ever
        self.app_state = {**self.app_state, TRANSPORT: transport}
        self._head = self.loop.call_later(self._limits.head_seconds, self._cut)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_timers()
        elif self._head is None and before.response_complete:  # the next request has begun
            self._head = self.loop.call_later(self._limits.head_seconds, self._cut)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:  # within a request, whose answer may have begun
            self._cut()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def _watch_reader(self, before: float = math.inf) -> None:
        """Cut the connection if its client takes nothing for the limit's time; `before`: bytes that waited last."""
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._stall = self.loop.call_later(self._limits.write_seconds, self._watch_reader, left)
        else:
            self._cut()

    def resume_writing(self) -> None:
        self._stop_timers()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _stop_timers(self) -> None:
        for timer in filter(None, (self._head, self._stall)):
            timer.cancel()
        self._head = self._stall = None

    def _cut(self) -> None:
        """Close at once. The end comes before a reset, so that the client sees that and no error."""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self.transport.abort()


class WebServer(Server):
    """Serves an ASGI application on a socket that listens already, until `should_exit` is set.

    It leaves signals to others.
    """

    def __init__(self, application: Callable[..., Any], limits: Limits, ssl: Any = None) -> None:
        config = Config(
            application,
            loop="none",
            http=functools.partial(Connection, limits),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # what clients do wrong is no news
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
            timeout_graceful_shutdown=LAST_SECONDS,
            h11_max_incomplete_event_size=limits.head_bytes,
        )
        super().__init__(config)
        self._limits, self._ssl = limits, ssl

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; unlike uvicorn's own, with a limit for the time of a handshake."""
        config, state = self.config, self.server_state

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

        handshake = self._limits.handshake_seconds if self._ssl else None
        self.servers = [
            await asyncio.get_running_loop().create_server(
                connection, sock=listening, ssl=self._ssl, ssl_handshake_timeout=handshake, backlog=config.backlog
            )
            for listening in sockets or ()
        ]
        self.started = True

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


def listen(host: str, port: int, *, silence_seconds: float = 0) -> socket.socket:
    """Return a socket that listens at the first address of a name. Raises OSError, or UnicodeError for no name.

    Args:
        silence_seconds: connections that are silent for as long are probed; those that answer no probe break. 0: never.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The system would take megabytes for a reader who stopped, and the text's row would go on for nobody.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if silence_seconds:
            _probe(listening, max(1, int(silence_seconds)))
        listening.bind(address)
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _probe(listening: socket.socket, seconds: int) -> None:
    """Have the system notice clients that are gone without a word; what it accepts has these options, too."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 3))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
