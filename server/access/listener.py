"""Makes a server listen, and checks that its address is protected."""

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from server.access.certificates import end_of, server_credentials
from server.access.reloading import FileError
from server.errors import CannotStart
from server.settings import ServerSettings

__all__ = ["bind", "describe", "files_of"]

log = logging.getLogger("charstream.server")


def bind(server: grpc.aio.Server, settings: ServerSettings) -> int:
    """Add the port to the server, and return its number. Raises CannotStart."""
    address = _resolve(settings.host)
    credentials = None
    if settings.tls_cert and settings.tls_key:
        with files_of("TLS"):
            credentials = server_credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    else:
        _check_exposure(address, settings)
    place = f"{address}:{settings.port}"
    try:
        return server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    except RuntimeError:
        raise CannotStart(
            f"--port: cannot listen on {place}: the port is in use, or the address is not this machine's"
        ) from None


def describe(settings: ServerSettings, port: int) -> str:
    """Return where the server listens, in a form that clients take, and what it asks of them."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    tls = f"TLS, its certificate ends {end_of(settings.tls_cert)}" if settings.tls_cert else "no TLS"
    certificates = ", certificates of clients" if settings.tls_client_ca else ""
    return f"{host}:{port} ({tls}{certificates}, {'tokens' if settings.tokens else 'no tokens'})"


@contextmanager
def files_of(setting: str) -> Iterator[None]:
    """Turn a FileError of this setting's files into CannotStart."""
    try:
        yield
    except FileError as error:
        raise CannotStart(f"{setting}: {error}") from None


def _check_exposure(address: str, settings: ServerSettings) -> None:
    """Raise CannotStart if others can reach the address without TLS: they could read and change what passes."""
    if ipaddress.ip_address(address.strip("[]")).is_loopback:
        return
    if not settings.insecure:
        raise CannotStart(
            f"--host {settings.host}: others can reach this address: give --tls-cert and --tls-key, or --insecure if "
            "what lies between protects the connections"
        )
    log.warning("no TLS: whoever can reach %s, or is on the way to it, reads texts and resume tokens", address)
    if settings.tokens:
        log.warning("--tokens without TLS: whoever is on the way can take them, unless a proxy in between has TLS")


def _resolve(host: str) -> str:
    """Return one address for a name: gRPC would bind all its addresses, and be content if one is free."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotStart(f"--host {host}: {error.strerror}") from None
    except UnicodeError:
        raise CannotStart(f"--host {host}: is no name that a host can have") from None
    addresses = {family: address[0] for family, _, _, _, address in found}
    return str(addresses[socket.AF_INET]) if socket.AF_INET in addresses else f"[{addresses[socket.AF_INET6]}]"
