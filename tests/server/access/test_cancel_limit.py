"""Connections that give up calls are slowed down, and served again soon after they stop."""

import asyncio
import time

import pytest

from server.access.cancel_limit import BURST_SECONDS, CancelLimit
from server.errors import Overloaded

PEER = "ipv4:192.0.2.1:5000"


async def _all_given_up(limit: CancelLimit, calls: int) -> None:
    """Calls that began at once are cancelled at once."""

    async def call() -> None:
        async with limit.watch(PEER, None):
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(call()) for _ in range(calls)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_however_many_were_given_up_who_stops_is_served_again_soon() -> None:
    limit = CancelLimit(5)
    await _all_given_up(limit, 1000)
    with limit._connections.of(PEER) as quota:
        assert quota.charge(0) <= BURST_SECONDS + 1


async def test_a_refusal_comes_before_the_deadline_and_is_not_counted_as_given_up() -> None:
    limit = CancelLimit(5)
    await _all_given_up(limit, 1000)
    with limit._connections.of(PEER) as quota:
        owed = quota.charge(0)
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(Overloaded):
                async with limit.watch(PEER, 0.1):
                    raise AssertionError("it is refused")
        assert quota.charge(0) <= owed
    assert time.monotonic() - began < 5  # what is owed takes ten seconds and more
