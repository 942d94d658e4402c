"""Resume tokens: a place where a text can go on, in a few kilobytes that only servers with the same key accept.

A token is: format (1 byte), the key's number (8), a TextState (server/service/token.proto), HMAC-SHA256 of all before
(32). It is signed, not encrypted: but for the hidden state it holds nothing that its owner was not sent. What replicas
send each other (server/oip/replicas.py) is signed in the same way, with formats of its own.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from google.protobuf.message import DecodeError

from server.access.reloading import FileError, Reloaded, read_secret
from server.engine.messages import Snapshot
from server.errors import InvalidField
from server.service.token_pb2 import TextState

__all__ = ["Keys", "text_state"]

FORMAT = b"\x01"
KEY_CHARS = 32
NUMBER_BYTES, MAC_BYTES = 8, 32
HEAD_BYTES = len(FORMAT) + NUMBER_BYTES


class Keys:
    """The keys of resume tokens. The first one signs, all are accepted: so servers can know a key before one uses it.

    Args:
        current: returns the keys by their numbers, at least one.
    """

    def __init__(self, current: Callable[[], Mapping[bytes, bytes]]) -> None:
        self._current = current

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> "Keys":
        by_number = _keys_by_number(keys)
        return cls(lambda: by_number)

    @classmethod
    def read(cls, path: Path | None) -> "Keys":
        """Return the keys of a file, a line each, read again when it changes; without one, a key that nobody else has.

        Raises:
            FileError: there are none.
        """
        if path is None:
            return cls.of([secrets.token_bytes(KEY_CHARS)])
        return cls(Reloaded("keys of resume tokens", [path], lambda: _keys_by_number(_read(path))).current)

    def seal(self, state: TextState) -> bytes:
        return self.sign(state.SerializeToString(deterministic=True), FORMAT)

    def open(self, token: bytes, most_bytes: int) -> TextState:
        """Return the contents of a token. Raises InvalidField."""
        if len(token) > most_bytes:
            raise _refusal(f"has {len(token)} bytes, allowed are at most {most_bytes}")
        try:
            return TextState.FromString(self.verify(token, FORMAT))
        except DecodeError:
            raise _refusal("was signed by a version of charstream that this one does not understand") from None

    def sign(self, content: bytes, form: bytes) -> bytes:
        """Return content with a signature, which is valid in the format `form` (1 byte) alone."""
        number, key = next(iter(self._current().items()))
        signed = form + number + content
        return signed + _mac(key, signed)

    def verify(self, token: bytes, form: bytes) -> bytes:
        """Return the content that a server with one of the keys signed in the format `form`. Raises InvalidField."""
        if len(token) < HEAD_BYTES + MAC_BYTES or not token.startswith(form):
            raise _refusal("is no token of this version of charstream, or a piece of one")
        signed, number = token[:-MAC_BYTES], token[len(form) : HEAD_BYTES]
        key = self._current().get(number)
        if key is None:
            raise _refusal("was signed with a key that this server does not know")
        if not hmac.compare_digest(token[-MAC_BYTES:], _mac(key, signed)):
            raise _refusal("was changed after it was signed")
        return signed[HEAD_BYTES:]


def _read(path: Path) -> list[bytes]:
    """Return the keys of a file. Raises FileError."""
    lines = [line.strip() for line in read_secret(path).splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise FileError(f"{path}: holds no key; one is a line of at least {KEY_CHARS} characters")
    for number, line in enumerate(lines, 1):
        if line in keys and len(line) < KEY_CHARS:
            raise FileError(f"{path}, line {number}: a key has at least {KEY_CHARS} characters, not {len(line)}")
    return keys


def _keys_by_number(keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """Return keys by their numbers, which are not secret, and the same on every server that knows the key."""
    return {sha256(key).digest()[:NUMBER_BYTES]: key for key in keys}


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def text_state(snapshot: Snapshot, **rest: object) -> TextState:
    """Return the contents of a token for that place; `rest`: the fields that are no place in a text."""
    state = snapshot.state
    return TextState(
        state=b"".join(array.astype("<f4").tobytes() for array in state.state),
        character=state.token,
        position=state.position,
        forced=snapshot.forced,
        tail=snapshot.tail,
        **rest,  # type: ignore[arg-type]
    )


def _refusal(reason: str) -> InvalidField:
    return InvalidField("resume_token", reason)
