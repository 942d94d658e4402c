"""The HTTP port: opened before the models are loaded, answering from then on, closed when the server has drained."""

import asyncio
import logging

from starlette.types import ASGIApp

from server.access.certificates import https_context
from server.access.listener import describe, files_of
from server.errors import CannotStart
from server.http.connections import Limits, WebServer, listen
from server.settings import ServerSettings

__all__ = ["HttpPort"]

log = logging.getLogger("charstream.server")


class HttpPort:
    """Listens from the moment it is made, and answers from `start` to `stop`. Raises CannotStart."""

    def __init__(self, port: int, settings: ServerSettings) -> None:
        self._settings = settings
        self._ssl = None
        if settings.tls_cert and settings.tls_key:
            with files_of("TLS"):
                self._ssl = https_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        try:
            self._listening = listen(settings.host, port, silence_seconds=settings.keepalive)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "is no name that a host can have"
            raise CannotStart(f"--http-port: cannot listen on {settings.host}:{port}: {reason}") from None
        self._server: WebServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self, application: ASGIApp) -> None:
        settings = self._settings
        self._server = WebServer(application, _limits(settings), self._ssl)
        self._serving = asyncio.create_task(self._server.serve([self._listening]))
        log.info("HTTP on %s", describe(settings, self._listening.getsockname()[1]))

    async def stop(self) -> None:
        """Close the port and all connections."""
        if not self._server or not self._serving:
            self._listening.close()
            return
        self._server.should_exit = True
        await self._serving


def _limits(settings: ServerSettings) -> Limits:
    return Limits(
        connections=settings.max_connections,
        head_bytes=settings.max_header_bytes,
        head_seconds=settings.handshake_timeout,
        idle_seconds=settings.connection_idle,
        write_seconds=settings.reader_timeout,
        handshake_seconds=settings.handshake_timeout,
    )
