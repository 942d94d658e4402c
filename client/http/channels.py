"""The calls of charstream.v1 over a server's HTTP port, in the shape of gRPC's: a module that makes channels."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from charstream.protos import charstream_pb2 as pb
from client.channels import host_and_port
from client.http.answers import error_of, to_models, to_response
from client.http.errors import HttpError

__all__ = ["insecure_channel", "secure_channel"]

# A server that is gone without a word is noticed in about 80 seconds, as over gRPC.
SILENCE_SECONDS, PROBES = 60, 2
CONNECT_SECONDS = 5.0


def insecure_channel(target: str, options: Sequence[tuple[str, int | str]]) -> "Channel":
    return Channel(target, None, "")


def secure_channel(target: str, credentials: ssl.SSLContext, options: Sequence[tuple[str, int | str]]) -> "Channel":
    return Channel(target, credentials, str(dict(options).get("grpc.ssl_target_name_override", "")))


class Channel:
    """One server. Each call has a connection of its own.

    Raises:
        ValueError: the target is no host and port.
    """

    def __init__(self, target: str, context: ssl.SSLContext | None, tls_name: str) -> None:
        place = host_and_port(target)
        if place is None:
            raise ValueError(f"the address {target!r} is none for HTTP: host:port is expected")
        self._place, self._context, self._tls_name = place, context, tls_name

    def unary_stream(self, method: str, **_: Any) -> Callable[..., "Call"]:
        def call(message: Any, *, timeout: float | None = None, metadata: Any = ()) -> Call:
            return Call(self._connect, method.rpartition("/")[2], message, timeout, metadata)

        return call

    def unary_unary(self, method: str, **_: Any) -> Callable[..., Any]:
        def call(message: Any, *, timeout: float | None = None, metadata: Any = ()) -> Any:
            (answer,) = Call(self._connect, method.rpartition("/")[2], message, timeout, metadata)
            return answer

        return call

    def close(self) -> None:
        """Nothing is open between calls."""

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        host, port = self._place
        connection = http.client.HTTPConnection(host, port)
        try:
            seconds = CONNECT_SECONDS if timeout is None else min(timeout, CONNECT_SECONDS)
            opened = socket.create_connection(self._place, seconds)
            _probe(opened)
            if self._context:
                opened = self._context.wrap_socket(opened, server_hostname=self._tls_name or host)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise HttpError(grpc.StatusCode.UNAVAILABLE, f"failed to connect to {host}:{port}: {reason}") from None
        connection.sock = opened
        return connection


def _probe(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


class Call:
    """One call: iterate over its answers. Another thread may cancel it."""

    def __init__(
        self,
        connect: Callable[[float | None], http.client.HTTPConnection],
        method: str,
        message: Any,
        timeout: float | None,
        metadata: Sequence[tuple[str, str]],
    ) -> None:
        self._connect, self._method, self._message = connect, method, message
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._headers = {"Content-Type": "application/json", **dict(metadata)}
        self._connection: http.client.HTTPConnection | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        self._is_cancelled = True
        sock = self._connection and self._connection.sock
        if sock:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[Any]:
        """Yield the answers. Raises HttpError."""
        try:
            yield from self._answers()
        except TimeoutError:
            raise HttpError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer came in time") from None
        except (OSError, http.client.HTTPException) as error:
            if self._is_cancelled:
                raise HttpError(grpc.StatusCode.CANCELLED, "the call was cancelled") from None
            raise HttpError(
                grpc.StatusCode.UNAVAILABLE, f"the connection broke: {error or type(error).__name__}"
            ) from None
        finally:
            if self._connection:
                self._connection.close()

    def _answers(self) -> Iterator[Any]:
        self._connection = connection = self._connect(self._seconds_left())
        self._wait_no_longer()
        if self._method == "Generate":
            connection.request("POST", "/v1/completions", _body(self._message), self._headers)
        else:
            name = getattr(self._message, "name", "")
            connection.request("GET", f"/v1/models/{name}" if name else "/v1/models", headers=self._headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise error_of(_json(answer.read()), answer.status, answer.headers.get("Retry-After"))
        if self._method == "Generate":
            yield from self._events(answer)
        else:
            yield to_models(_json(answer.read()))

    def _events(self, answer: http.client.HTTPResponse) -> Iterator[pb.GenerateResponse]:
        self._wait_no_longer()
        while line := answer.readline():
            data = line.strip().removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if data:
                event = _json(data)
                if "error" in event:
                    raise error_of(event, None, None)
                yield to_response(event, self._message)
            self._wait_no_longer()

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def _wait_no_longer(self) -> None:
        """Let the next wait end at the deadline."""
        if self._connection and self._connection.sock:
            self._connection.sock.settimeout(self._seconds_left())


def _body(request: pb.GenerateRequest) -> bytes:
    own = MessageToDict(request, preserving_proto_field_name=True)
    body = {"model": own.pop("model", ""), "prompt": own.pop("prompt", ""), "stream": True, "charstream": own}
    return json.dumps(body).encode()


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        beginning = re.sub(r"\s+", " ", data[:80].decode(errors="replace"))
        reason = f"the answer is no JSON ({beginning!r}): is this the port of --http-port?"
        raise HttpError(grpc.StatusCode.UNKNOWN, reason) from None
