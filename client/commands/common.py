"""Shared by the client's commands: the flags for servers and model, and how an error ends the process."""

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import unquote

import grpc
from pydantic import AfterValidator, Field, model_validator

from charstream.settings import Settings, fail
from client.channels import DEFAULT_ADDRESS, host_and_port, to_target
from client.commands.files import read_bytes, read_text
from client.errors import OTHER_NAME, CharstreamError, InvalidRequest, ModelNotFound, NotAllowed, Unavailable
from client.sync_client import Client

__all__ = [
    "TOKEN",
    "Address",
    "Connection",
    "Hosts",
    "ModelChoice",
    "Tls",
    "addresses",
    "connect",
    "hint",
    "one_line",
    "one_line_errors",
]

MODEL, TOKEN = "CHARSTREAM_MODEL", "CHARSTREAM_TOKEN"
PROBE_SECONDS = 2.0

# What grpcio 1.85 says of a server that it does not reach, and of a name that nobody has.
_NO_CONNECTION = re.compile(
    r"failed to connect to all addresses; last error: \w+: ipv[46]:(\S+): (?:Failed to connect to remote host: )?"
)
_NO_NAME = re.compile(r"errors resolving (\S+): \[.*: ([^:\]]+)\]")


def addresses() -> tuple[str, ...]:
    """Return the addresses in the variable CHARSTREAM_ADDRESS, or the one where a server listens by default."""
    given = os.environ.get("CHARSTREAM_ADDRESS", "").split(",")
    return tuple(address.strip() for address in given if address.strip()) or (DEFAULT_ADDRESS,)


def _check_address(address: str) -> str:
    """Return the address. Raises ValueError: it is none."""
    to_target(address)
    return address


Address = Annotated[str, AfterValidator(_check_address)]


class ModelChoice(Settings):
    """The flag that chooses a model."""

    model: str = Field(
        default_factory=lambda: os.environ.get(MODEL, ""),
        description="NAME or NAME@VERSION of the model, one that `charstream models` lists; without it the server "
        f"chooses, where it can. The variable {MODEL} changes the default",
    )


class Tls(Settings):
    """The flags for TLS: how a server proves who it is, and the client too if the server wants its certificate."""

    tls: bool = Field(False, description="TLS, with the certificate authorities that come with gRPC")
    tls_ca: Path | None = Field(None, description="TLS, with the certificate authorities in this PEM file")
    # Not --tls-cert and --tls-key, which Locust has.
    tls_client_cert: Path | None = Field(
        None,
        description="PEM file with the certificate to show to a server that wants one; with it the connection has TLS",
    )
    tls_client_key: Path | None = Field(None, description="PEM file with its private key")
    tls_name: str = Field(
        "", description="the name that the server's certificate has to have, where it is not the one in --host"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "Tls":
        if (self.tls_client_cert is None) != (self.tls_client_key is None):
            raise ValueError("--tls-client-cert and --tls-client-key belong together: give both, or neither")
        return self

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return None without TLS. Raises ValueError: a file can't be read, or holds something else."""
        if not self.tls and self.tls_ca is None and self.tls_client_cert is None:
            return None
        key, chain = self._own_pair()
        return grpc.ssl_channel_credentials(self._authorities(), key, chain)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the same for HTTPS, with the system's authorities where no file names others."""
        if self.credentials() is None:
            return None
        context = ssl.create_default_context(cafile=None if self.tls_ca is None else str(self.tls_ca))
        context.set_alpn_protocols(["http/1.1"])
        if self.tls_client_cert and self.tls_client_key:
            context.load_cert_chain(self.tls_client_cert, self.tls_client_key, password="")
        return context

    def _authorities(self) -> bytes | None:
        if self.tls_ca is None:
            return None
        pem = read_bytes(self.tls_ca, "--tls-ca")
        try:  # gRPC would complain only in the first call, and blame the server
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise ValueError(f"--tls-ca: {self.tls_ca}: has no certificate in PEM") from None
        return pem

    def _own_pair(self) -> tuple[bytes | None, bytes | None]:
        """Return the client's private key and certificate."""
        if self.tls_client_cert is None or self.tls_client_key is None:
            return None, None
        pair = (
            read_bytes(self.tls_client_key, "--tls-client-key"),
            read_bytes(self.tls_client_cert, "--tls-client-cert"),
        )
        try:  # an empty passphrase: OpenSSL would ask for one at the terminal
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                self.tls_client_cert, self.tls_client_key, password=""
            )
        except ssl.SSLError:
            raise ValueError(
                f"--tls-client-key: {self.tls_client_key}: is not the key, in PEM and without a passphrase, of the "
                f"certificate in {self.tls_client_cert}"
            ) from None
        return pair


class Hosts(Tls):
    """The flags that tell where the servers are."""

    stray_word: ClassVar = "a server's address is --host HOST:PORT"

    host: tuple[Address, ...] = Field(
        default_factory=addresses,
        description="a server's host:port, or host for port 50051; given several times, a text that loses its server "
        "goes on at another one. "
        "The variable CHARSTREAM_ADDRESS changes the default; it may name several, with commas between",
    )


class Connection(Hosts):
    """The flags that also tell what proves the caller's identity to the servers."""

    # No flag takes the token itself: everybody on the machine can read the arguments of a process.
    token_file: Path | None = Field(
        None, description="file with the token that the server wants; or the variable CHARSTREAM_TOKEN has it"
    )

    def token(self) -> str | None:
        """Return the token of the file or the variable. Raises ValueError: the file can't be read."""
        if self.token_file is None:
            return os.environ.get(TOKEN) or None
        return read_text(self.token_file, "--token-file").strip()


def connect(settings: Connection, *, hedge_after: float | None = None) -> Client:
    """Return a client of the servers.

    Raises:
        ValueError: a file can't be used; or the token can't be sent at all, or not without TLS.
    """
    return Client(
        settings.host,
        credentials=settings.credentials(),
        token=settings.token(),
        tls_name=settings.tls_name,
        hedge_after=hedge_after,
    )


@contextmanager
def one_line_errors(command: str, settings: Hosts) -> Iterator[None]:
    """End the process with one line on stderr after an error: code 2 if the request has to change, otherwise 1."""
    try:
        yield
    except (InvalidRequest, ModelNotFound, ValueError) as error:
        fail(command, one_line(error) + hint(error, settings))
    except CharstreamError as error:
        fail(command, one_line(error) + hint(error, settings), code=1)


def hint(error: Exception, settings: Hosts) -> str:
    """Return the end of a line that names the flag by which the error may go away, or ""."""
    found = ""
    match error:
        case InvalidRequest(field="prompt") | ValueError() if "is not in the vocabulary" in str(error):
            if "unknown" in type(settings).model_fields:
                found = "--unknown skip leaves out what the model does not know, --unknown replace puts another"
        case InvalidRequest(field="model") if "empty" in str(error):
            found = f"choose one with --model NAME or the variable {MODEL}"
        case NotAllowed() if isinstance(settings, Connection):
            found = _token_hint(settings)
        case Unavailable():
            found = _connection_hint(str(error), settings)
    return found and f": {found}"


def _token_hint(settings: Connection) -> str:
    if settings.token() is None:
        return f"--token-file FILE or the variable {TOKEN} gives it the token"
    source = TOKEN if settings.token_file is None else f"--token-file {settings.token_file}"
    return f"the token that was sent is that of {source}"


def _connection_hint(message: str, settings: Hosts) -> str:
    if "WRONG_VERSION_NUMBER" in message:
        return "it speaks no TLS: leave out --tls and the flags that begin with it"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return "its certificate is from nobody known here: --tls-ca FILE names the authority, or the certificate itself"
    if "Hostname Verification" in message or OTHER_NAME in message:
        return "its certificate has another name than --host: --tls-name NAME says which"
    if "failed to connect" not in message:
        return ""
    if settings.credentials() is None and any(map(_speaks_tls, settings.host)):
        return "it speaks TLS: give --tls-ca FILE with its authority, or --tls"
    if "Socket closed" in message and settings.credentials() and not settings.tls_client_cert:
        return "a server that wants to see a certificate closes like this: --tls-client-cert and --tls-client-key"
    if "refused" in message:
        return "nobody listens there; `charstream serve` starts a server, --host says where one is"
    return ""


def _speaks_tls(address: str) -> bool:
    """Return whether somebody at the address answers a TLS handshake, whatever the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    place = host_and_port(address)
    try:
        with (
            socket.create_connection(place or ("", 0), timeout=PROBE_SECONDS) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except (OSError, ValueError):
        return False


def one_line(error: Exception) -> str:
    """Return the error's message in one line, and what gRPC says of a connection in fewer words."""
    line = " ".join(str(error).split())
    line = _NO_CONNECTION.sub(lambda found: f"cannot connect to {unquote(found[1])}: ", line)
    line = _NO_NAME.sub(r"cannot find \1: \2", line)
    received = len(error.text) if isinstance(error, CharstreamError) else 0
    return f"{line} (after {received:,} characters)" if received else line
