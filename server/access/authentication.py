"""Finds out who calls: by a bearer token, or by the certificate of the connection."""

import hmac
import logging
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from server.access.caller import Caller
from server.access.reloading import FileError, Reloaded, read_secret
from server.errors import Unauthenticated

__all__ = ["NAME", "Authenticator", "token_line"]

log = logging.getLogger("charstream.access")

NAME = r"[A-Za-z0-9._@-]{1,64}"
LINE = re.compile(rf"({NAME})\s+([0-9A-Fa-f]{{64}})")
HEADER = "authorization"


def token_line(name: str, token: str) -> str:
    """Return the line of a tokens file: who has the token, and its SHA-256."""
    return f"{name} {_digest(token).hex()}\n"


class Authenticator:
    """Tells callers apart.

    Args:
        tokens: a file with a line `NAME SHA256` for each token, read again when it changes; None if nobody needs one.

    Raises:
        FileError: the file cannot be used.
    """

    def __init__(self, tokens: Path | None) -> None:
        self._known = Reloaded("tokens", [tokens], lambda: _read(tokens)) if tokens else None

    def identify(self, caller: Caller) -> str:
        """Return the name of the caller's token; where tokens are not needed, that of its certificate, if it has one.

        Raises:
            Unauthenticated: tokens are needed, and the caller shows none, or one that is not known.
        """
        if self._known is None:
            return _certificate_name(caller)
        digest = _digest(_bearer_token(caller))
        # All are compared, so that the time does not tell where in the file a token is.
        names = [name for name, known in self._known.current() if hmac.compare_digest(known, digest)]
        if not names:
            raise Unauthenticated(f"{HEADER}: the token is not known here")
        return names[0]


def _bearer_token(caller: Caller) -> str:
    """Return the token that came with a call. Raises Unauthenticated."""
    given = [value for name, value in caller.invocation_metadata() or () if name == HEADER]
    if len(given) != 1:
        came = "is missing" if not given else "came several times"
        raise Unauthenticated(f"{HEADER}: {came}; this server wants `Bearer TOKEN`")
    scheme, _, token = str(given[0]).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(f"{HEADER}: has another form than `Bearer TOKEN`")
    return token


def _certificate_name(caller: Caller) -> str:
    """Return the common name of the caller's certificate, or else its first alternative name."""
    shown = caller.auth_context()
    names = [*shown.get("x509_common_name", ()), *shown.get("x509_subject_alternative_name", ())]
    return next(filter(None, names), b"").decode(errors="replace")


def _read(path: Path) -> Sequence[tuple[str, bytes]]:
    """Return name and digest of each token. Raises FileError."""
    known, content = [], read_secret(path)
    if not content:
        raise FileError(f"{path}: is empty, as while it is being written; one that lets nobody in has a comment")
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found:
            raise FileError(f"{path}, line {number}: is not `NAME SHA256`, as `charstream token NAME` makes it")
        known.append((found[1], bytes.fromhex(found[2])))
    if not known:
        log.warning("%s: holds no token, so nobody may call", path)
    return known


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
