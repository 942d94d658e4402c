"""The server's certificate, its private key and the authorities of clients' certificates, for gRPC and HTTPS."""

import hashlib
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from server.access.certificate_key import ACCEPTED, last_day, refused_key
from server.access.reloading import FileError, Reloaded, read, read_secret

__all__ = ["end_of", "https_context", "server_credentials"]

log = logging.getLogger("charstream.tls")

T = TypeVar("T")

FIRST_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class _Files:
    """What the files hold, in PEM."""

    key: bytes
    chain: bytes
    authorities: bytes | None


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Return credentials whose files are read again when they change; open connections are not touched.

    Args:
        cert: PEM, the server's own certificate first.
        client_ca: PEM; with it, clients must show a certificate of one of these authorities.

    Raises:
        FileError: the files cannot be used.
    """
    files = _reloaded(cert, key, client_ca, _configuration)
    first = given = files.current()

    def changes() -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at every handshake whether the files are new. This must not raise."""
        nonlocal given
        before, given = given, files.current()
        return None if given is before else given

    return grpc.dynamic_ssl_server_credentials(first, changes, client_ca is not None)  # type: ignore[arg-type]


def https_context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the same for HTTPS. Raises FileError."""
    files = _reloaded(cert, key, client_ca, _context)

    def refresh(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL asks at every handshake, also where the client names no server."""
        connection.context = files.current()

    first = files.current()
    first.sni_callback = refresh
    return first


def _reloaded(cert: Path, key: Path, client_ca: Path | None, make: Callable[[_Files], T]) -> Reloaded[T]:
    paths = [path for path in (cert, key, client_ca) if path]
    return Reloaded("TLS", paths, lambda: make(_read(cert, key, client_ca)))


def _read(cert: Path, key: Path, client_ca: Path | None) -> _Files:
    secret, chain = read_secret(key), read(cert)
    own = _own_certificate(chain)
    refused = refused_key(own)
    if refused:
        raise FileError(f"{cert}: its key is {refused}; gRPC takes {ACCEPTED}")
    _check_pair(cert, chain, key, secret)
    authorities = _authorities(client_ca) if client_ca else None
    digest = hashlib.sha256(own).hexdigest() if own else "unknown"
    log.info("certificate of %s, SHA-256 %s, until %s", cert, digest, last_day(own) or "unknown")
    return _Files(secret, chain, authorities)


def _configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.chain)], files.authorities)


def _context(files: _Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _in_memory(files.chain) as chain, _in_memory(files.key) as key:
        context.load_cert_chain(chain, key, password="")
    if files.authorities is not None:
        context.load_verify_locations(cadata=files.authorities.decode("ascii", "ignore"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def end_of(cert: Path) -> str:
    """Return the day on which the certificate ends, as YYYY-MM-DD; "unknown" if it cannot be read now."""
    try:
        return last_day(_own_certificate(read(cert))) or "unknown"
    except FileError:
        return "unknown"


def _own_certificate(chain: bytes) -> bytes:
    """Return the first certificate in DER; b"" if there is none."""
    found = FIRST_CERTIFICATE.search(chain.decode(errors="replace"))
    try:
        return ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
    except ValueError:
        return b""


def _check_pair(cert: Path, chain: bytes, key: Path, secret: bytes) -> None:
    """Raise FileError if key and certificate do not match: gRPC would refuse handshakes, and not say why."""
    try:
        with _in_memory(chain) as chain_file, _in_memory(secret) as key_file:
            # The empty passphrase keeps OpenSSL from asking for one at the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FileError(f"{key}: is not the key of the certificate in {cert}") from None
        raise FileError(f"{cert}, {key}: hold no certificate and private key in PEM without a passphrase") from None
    except OSError as error:  # too many open files, for example
        raise FileError(f"{cert}, {key}: {error.strerror}") from None


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give the path of a file that has what was read: the original file may have been replaced since."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _authorities(path: Path) -> bytes:
    pem = read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise FileError(f"{path}: has no certificate in PEM") from None
    return pem
