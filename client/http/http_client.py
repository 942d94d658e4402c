"""The blocking client over HTTP."""

from typing import Any, ClassVar

from client.http import channels
from client.sync_client import Client

__all__ = ["HttpClient"]


class HttpClient(Client):
    """A `Client` of servers' HTTP ports. Its `credentials` are an ssl.SSLContext; it has no `score`."""

    _kind: ClassVar[Any] = channels
