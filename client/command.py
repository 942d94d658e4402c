"""What the client's commands share: where the server is, and how an error ends the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from charstream.settings import Settings, fail
from client.errors import CharstreamError, InvalidRequest, ModelNotFound
from client.servers import DEFAULT_ADDRESS

__all__ = ["Connection", "one_line_errors"]


class Connection(Settings):
    """Where the server is."""

    host: str = Field(
        os.environ.get("CHARSTREAM_ADDRESS", DEFAULT_ADDRESS),
        min_length=1,
        description="the server's host:port; the variable CHARSTREAM_ADDRESS changes the default",
    )


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Ends the process with one line on stderr: code 2 for a request that has to change, 1 for what failed."""
    try:
        yield
    except (InvalidRequest, ModelNotFound, ValueError) as error:
        fail(command, _line(error))
    except CharstreamError as error:
        fail(command, _line(error), code=1)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
