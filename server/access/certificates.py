"""The server's certificate, its private key and the authorities of clients' certificates, as gRPC takes them."""

import hashlib
import logging
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from server.access.certificate_key import ACCEPTED, last_day, refused_key
from server.access.reloading import FileError, Reloaded, read, read_secret

__all__ = ["end_of", "server_credentials"]

log = logging.getLogger("charstream.tls")

FIRST_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Return credentials whose files are read again when they change; open connections are not touched.

    Args:
        cert: PEM, the server's own certificate first.
        client_ca: PEM; with it, clients must show a certificate of one of these authorities.

    Raises:
        FileError: the files cannot be used.
    """
    files = Reloaded(
        "TLS", [path for path in (cert, key, client_ca) if path], lambda: _configuration(cert, key, client_ca)
    )
    first = given = files.current()

    def changes() -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at every handshake whether the files are new. This must not raise."""
        nonlocal given
        before, given = given, files.current()
        return None if given is before else given

    return grpc.dynamic_ssl_server_credentials(first, changes, client_ca is not None)  # type: ignore[arg-type]


def _configuration(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    secret, chain = read_secret(key), read(cert)
    own = _own_certificate(chain)
    refused = refused_key(own)
    if refused:
        raise FileError(f"{cert}: its key is {refused}; gRPC takes {ACCEPTED}")
    _check_pair(cert, chain, key, secret)
    authorities = _authorities(client_ca) if client_ca else None
    digest = hashlib.sha256(own).hexdigest() if own else "unknown"
    log.info("certificate of %s, SHA-256 %s, until %s", cert, digest, last_day(own) or "unknown")
    return grpc.ssl_server_certificate_configuration([(secret, chain)], authorities)


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
