"""Who makes a call, as far as its connection tells."""

from collections.abc import Iterable, Mapping
from typing import Protocol

__all__ = ["Caller"]


class Caller(Protocol):
    """The facts of a call that decide who makes it. A context of grpc.aio is one; other doors make their own."""

    def peer(self) -> str:
        """Return the other end of the connection, as gRPC writes it: "ipv4:127.0.0.1:40000"."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the headers, with names in lower case."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return the names in the caller's certificate, by gRPC's names for their kinds."""

    def time_remaining(self) -> float | None:
        """Return the seconds to the call's deadline; None if it has none."""
