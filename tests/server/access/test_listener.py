"""An address that cannot be one is said in one line."""

import grpc
import pytest

from server.access.listener import bind
from server.errors import CannotStart
from server.settings import ServerSettings


@pytest.mark.parametrize("host", ["a..b", "a" * 300, "1\udce0"])
async def test_a_name_that_no_host_can_have(host: str) -> None:
    server = grpc.aio.server()
    with pytest.raises(CannotStart, match="is no name that a host can have"):
        bind(server, ServerSettings(host=host, port=0))
    await server.stop(0)
