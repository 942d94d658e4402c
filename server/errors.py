"""The server's errors: of a request, with the status that its client sees, and of the start.

    RequestError
    ├── InvalidField      INVALID_ARGUMENT     the caller must change a field
    ├── WrongReplica      FAILED_PRECONDITION  the caller must ask a replica that equals the first one
    ├── ModelNotFound     NOT_FOUND            the caller must name another model
    ├── SequenceNotFound  NOT_FOUND            the caller must begin the sequence again
    ├── ModelUnusable     FAILED_PRECONDITION  the caller must name another model, or ask another server
    ├── Overloaded        RESOURCE_EXHAUSTED   the caller may try again after a while
    ├── Unauthenticated   UNAUTHENTICATED      the caller must show a token, or another one
    ├── NotAllowed        PERMISSION_DENIED    the operator must allow it (--admin)
    ├── NotImplementedHere  UNIMPLEMENTED      the caller must do without it
    ├── CallTooLong       UNAVAILABLE          the caller may go on in another call
    ├── ShuttingDown      UNAVAILABLE          the caller may try another replica
    └── EnginesDied       INTERNAL             the text seems to be what ends engine processes
    CannotStart           the process ends with exit code 1

Any other exception reaches the client as INTERNAL with an id; the log has the id and the traceback.
docs/errors.md lists each with its causes and remedies.
"""

from collections.abc import Sequence

from grpc import StatusCode

__all__ = [
    "CallTooLong",
    "CannotStart",
    "EnginesDied",
    "InvalidField",
    "ModelNotFound",
    "ModelUnusable",
    "NotAllowed",
    "NotImplementedHere",
    "Overloaded",
    "RequestError",
    "SequenceNotFound",
    "ShuttingDown",
    "Unauthenticated",
    "WrongReplica",
    "join_names",
    "quote",
]

RETRY_SECONDS = 1.0
MAX_SHOWN_CHARS = 64
MAX_LISTED = 8


def quote(value: str) -> str:
    """Return a caller's value for an error text, cut short: clients refuse a status of more than a few kilobytes."""
    return repr(value) if len(value) <= MAX_SHOWN_CHARS else f"{value[:MAX_SHOWN_CHARS]!r}..."


def join_names(names: Sequence[str]) -> str:
    """Return names for an error text, as many as a status has room for."""
    more = len(names) - MAX_LISTED
    first = ", ".join(names[:MAX_LISTED]) or "none"
    return f"{first} and {more} more" if more > 0 else first


class CannotStart(RuntimeError):
    """A server lacks something it needs, or must not listen where it is told to; the message is one line."""


class RequestError(Exception):
    """A request cannot be served; the message is for the caller."""

    code = StatusCode.UNKNOWN
    limit = ""  # the setting that the request went beyond, if there is one


class InvalidField(RequestError):
    """A field has a value that is not allowed."""

    code = StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class WrongReplica(RequestError):
    """The text began on a server with another digest, precision or numerics; `what` says which of them differs."""

    code = StatusCode.FAILED_PRECONDITION

    def __init__(self, field: str, what: str, theirs: str, ours: str) -> None:
        self.what = what
        super().__init__(f"{field}: the text began with {what} {quote(theirs)}, here it is {ours!r}")


class ModelNotFound(RequestError):
    code = StatusCode.NOT_FOUND

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"model: {quote(name)} is not served; served are {join_names(served)}")


class SequenceNotFound(RequestError):
    """No state is held for the sequence; `why` says why one that was there is gone."""

    code = StatusCode.NOT_FOUND

    def __init__(self, name: int | str, why: str) -> None:
        reason = f"was evicted: {why}" if why else "was not begun here, has ended, or was lost with its model"
        shown = quote(name) if isinstance(name, str) else name
        super().__init__(f"sequence_id: {shown} {reason}; begin it again with sequence_start")


class ModelUnusable(RequestError):
    """The bundle is there, and cannot be loaded; `why` tells callers nothing of the machine."""

    code = StatusCode.FAILED_PRECONDITION

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"model: {model} cannot be loaded: {why}")


class Overloaded(RequestError):
    """The request goes beyond the setting `limit`; it may be served after `retry_seconds`."""

    code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: str, reason: str, retry_seconds: float = RETRY_SECONDS) -> None:
        self.limit, self.retry_seconds = limit, retry_seconds
        super().__init__(reason)

    @classmethod
    def too_many(cls, limit: int) -> "Overloaded":
        reason = f"the model has {limit} texts running and waiting, its limit (--max-rows + --max-waiting)"
        return cls("max_waiting", reason)

    @classmethod
    def too_many_steps(cls, limit: int) -> "Overloaded":
        reason = f"the model has {limit} steps waiting, its limit (--max-rows + --max-waiting)"
        return cls("max_waiting", reason)

    @classmethod
    def too_many_sequences(cls, limit: int) -> "Overloaded":
        reason = f"all of the {limit} sequences that the model may hold are in use (--sequence-memory)"
        return cls("sequence_memory", reason)

    @classmethod
    def queue_timeout(cls, seconds: float) -> "Overloaded":
        return cls("max_wait", f"no row of the batch was free for {seconds:g} s, the limit (--max-wait)")

    @classmethod
    def load_timeout(cls, model: str, seconds: float, limited: bool) -> "Overloaded":
        if limited:
            reason = "no memory (--model-memory) was free for it"
            return cls("model_memory", f"model: {model} was not loaded in {seconds:g} s, {reason}")
        return cls("max_wait", f"model: {model} was not loaded in {seconds:g} s, the limit (--max-wait)")

    @classmethod
    def too_many_of(cls, identity: str, limit: int) -> "Overloaded":
        reason = (
            f"{identity or 'anonymous callers'}: {limit} texts are running and waiting, the limit (--identity-streams)"
        )
        return cls("identity_streams", reason)

    @classmethod
    def rate_limited(cls, identity: str, rate: float, seconds: float) -> "Overloaded":
        who = identity or "anonymous callers"
        reason = f"{who}: {rate:g} characters a second are the limit (--identity-chars), and more are asked for already"
        return cls("identity_chars", reason, seconds)

    @classmethod
    def too_many_cancels(cls, rate: float, seconds: float) -> "Overloaded":
        reason = (
            f"this connection or address gave up more than {rate:g} calls a second, the limit (--connection-cancels)"
        )
        return cls("connection_cancels", reason, seconds)

    @classmethod
    def reader_timeout(cls, seconds: float) -> "Overloaded":
        return cls("reader_timeout", f"nothing was read for {seconds:g} s, the limit (--reader-timeout)", 0.0)


class CallTooLong(RequestError):
    """The call has lasted as long as one may; its text can go on in another one."""

    code = StatusCode.UNAVAILABLE

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the call lasted {seconds:g} s, the limit (--max-seconds); go on in another one")


class Unauthenticated(RequestError):
    """No token, or one that is not known."""

    code = StatusCode.UNAUTHENTICATED


class NotAllowed(RequestError):
    """The operator did not allow it to callers."""

    code = StatusCode.PERMISSION_DENIED


class NotImplementedHere(RequestError):
    """The method has its name in the protocol, and is not offered; the message says what to do instead."""

    code = StatusCode.UNIMPLEMENTED


class ShuttingDown(RequestError):
    code = StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class EnginesDied(RequestError):
    """One engine process after the other died while it had the text, which came no further."""

    code = StatusCode.INTERNAL

    def __init__(self, engines: int) -> None:
        super().__init__(f"{engines} engine processes ended one after the other while they ran this text")
