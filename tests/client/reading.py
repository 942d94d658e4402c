"""Read a stream to its end with either client, so that one test covers both."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from client import AsyncClient, CharstreamError, Client

__all__ = ["Read", "both", "read", "read_error"]

OWN = ("patience", "token", "credentials", "tls_name", "service_config", "hedge_after")
Each = Sequence[Callable[[Any], None]]

both = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@dataclass
class Read:
    """The items that came, the stream itself, and the error that ended it."""

    items: list[Any]
    stream: Any
    error: CharstreamError | None = None


def read(kind: str, addresses: str | Sequence[str], method: str, *args: Any, **options: Any) -> Read:
    """Call `method` of a new client and read its stream.

    Those of OWN are the client's own options; those of "each" are called after each item. The stream gets the client's
    counts at the end, as `counts`.
    """
    own = {name: options.pop(name) for name in OWN if name in options}
    each: Each = options.pop("each", ())
    if kind == "blocking":
        return _blocking(Client(addresses, **own), each, method, *args, **options)
    return asyncio.run(_asyncio(addresses, own, each, method, *args, **options))


def read_error(*args: Any, **options: Any) -> Any:
    """Return the error of a `read` that must not succeed."""
    outcome = read(*args, **options)
    assert outcome.error, f"it succeeded: {outcome.items}"
    return outcome.error


def _blocking(client: Client, each: Each, method: str, *args: Any, **options: Any) -> Read:
    with client:
        result = Read([], getattr(client, method)(*args, **options))
        try:
            for item in result.stream:
                result.items.append(item)
                for action in each:
                    action(result.stream)
        except CharstreamError as error:
            result.error = error
        result.stream.counts = client.counts
    return result


async def _asyncio(
    addresses: str | Sequence[str], own: dict[str, Any], each: Each, method: str, *args: Any, **options: Any
) -> Read:
    async with AsyncClient(addresses, **own) as client:
        result = Read([], getattr(client, method)(*args, **options))
        try:
            async for item in result.stream:
                result.items.append(item)
                for action in each:
                    action(result.stream)
        except CharstreamError as error:
            result.error = error
        result.stream.counts = client.counts
    return result
