"""Each RPC as one record, from its headers to its status: logs, metrics and traces are made of it."""

import re
import secrets
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from grpc import StatusCode

from server.engine.messages import Finish

__all__ = ["ATTEMPTS", "PROXY", "Call", "CallHeaders", "Observer", "begin_call", "current_call"]

# The reasons for which our client asks again: nothing came; the rest of a text from a checkpoint, from what was
# received, or made once more with checkpoints on the way; the same text while its first character is late elsewhere.
ATTEMPTS = ("retry", "checkpoint", "replay", "remake", "hedge")
PROXY = "proxy"  # a proxy asks here after it asked elsewhere


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """The headers that tell where a call comes from. A client may write what it likes: nothing depends on them.

    Attributes:
        traceparent: the W3C header of that name.
        request: x-request-id, by which a proxy's log knows the call; empty if it is none.
        attempt: one of ATTEMPTS, or empty for a call that is no other's sequel.
        tries: how often a proxy has asked for this call, at this server or others.
    """

    traceparent: str = ""
    request: str = ""
    attempt: str = ""
    tries: int = 1

    @classmethod
    def read(cls, metadata: Iterable[tuple[str, str | bytes]] | None) -> "CallHeaders":
        found = {name: value for name, value in metadata or () if isinstance(value, str)}
        request, attempt = found.get("x-request-id", ""), found.get("charstream-attempt", "")
        tries = found.get("x-envoy-attempt-count", "")
        return cls(
            found.get("traceparent", ""),
            request if re.fullmatch(r"[\w.:-]{1,64}", request, re.ASCII) else "",
            attempt if attempt in ATTEMPTS else "",
            int(tries) if re.fullmatch("[0-9]{1,4}", tries) else 1,
        )


@dataclass(slots=True)
class Call:
    """One RPC. A field that is not known yet, or makes no sense for the method, is empty or None.

    Attributes:
        method: "package.Service/Method".
        rpc_type: unary, server_stream, client_stream or bidi_stream; http for what is no RPC; empty for one of the
            requests on a stream.
        id: for people; with an internal error, the client is told it.
        began: time.monotonic() of the start.
        headers: that tell where it comes from.
        model: "NAME VERSION".
        reason: why the text ended.
        resumed: whether the text went on from a resume token, or from received text.
        limit: the setting for which the call was refused.
        generated_chars: characters sent in this call, an echo included.
        forced_chars: characters given, by the prompt or by received text.
        queue_seconds, first_char_seconds: since the start; with several texts, of the first one.
        prompt, text: what came in and what was sent, if logs shall have it.
        observers: are told of messages.
    """

    method: str
    rpc_type: str = ""
    peer: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    began: float = field(default_factory=time.monotonic)
    identity: str = ""
    headers: CallHeaders = CallHeaders()
    model: str = ""
    reason: str = ""
    resumed: bool = False
    limit: str = ""
    status: StatusCode = StatusCode.OK
    generated_chars: int = 0
    forced_chars: int = 0
    queue_seconds: float | None = None
    first_char_seconds: float | None = None
    seconds: float = 0.0
    prompt: str = ""
    text: str = ""
    observers: "Sequence[Observer]" = ()

    def note_message(self, chars: int, seconds: float | None) -> None:
        """Count a message of a text, sent `seconds` after the one before it (None for the first)."""
        self.generated_chars += chars
        for observer in self.observers:
            observer.on_message(self, chars, seconds)

    def note_finish(self, finish: Finish) -> None:
        """Note that a text has ended."""
        self.reason = finish.reason.value
        if self.queue_seconds is None:
            self.queue_seconds, self.first_char_seconds = finish.queue_seconds, finish.first_char_seconds


class Observer:
    """Is told of every call, in the event loop; must not block. This one ignores it."""

    def on_begin(self, call: Call) -> None:
        """Its headers are here."""

    def on_message(self, call: Call, chars: int, seconds: float | None) -> None:
        """A message of a text was sent, `seconds` after the one before it; None for the first."""

    def on_end(self, call: Call) -> None:
        """It has a status."""


_current: ContextVar[Call] = ContextVar("call")


def begin_call(method: str, rpc_type: str) -> None:
    """Make the record of a call that this task serves from now on."""
    _current.set(Call(method, rpc_type))


def current_call() -> Call:
    """Return the call that this task serves."""
    return _current.get()
