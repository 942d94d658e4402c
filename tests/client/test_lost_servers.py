"""Real servers are killed and stopped in the middle of a text: its reader gets the text that one server would give."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from client import AsyncClient, AsyncTextStream, Client, Repeat, TextStream
from server.engine.messages import Repeat as RepeatOfServer
from tests.client.reading import both, read
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.engine.test_repeats import end_by_definition

PROMPT, CHARS = "ROMEO:", 10_000
OPTIONS: dict[str, Any] = {"max_chars": CHARS, "seed": 7, "max_chunk_chars": 20}

# The text has a loop of a few letters now and then: the first one that counts is far from where the server is lost.
LOOP = RepeatOfServer(10, 3, min_period=2)
LOOPS: dict[str, Any] = {"stop_on_repeat": Repeat(10, 3, min_period=2), "min_chars": 6_000}

Lost = signal.Signals


class Fleet:
    """Servers that can be lost and come back, each under its address."""

    def __init__(self, bundles: Path) -> None:
        self._bundles = bundles
        self.servers: list[ServerProcess] = []

    def start(self, *flags: str, address: str = ":0") -> str:
        port = ("--port", address.rpartition(":")[2])
        self.servers.append(start_server(self._bundles, "--precision", "fp32", "--grace", "0", *port, *flags))
        return ready(self.servers[-1]).address

    def lose(self, address: str, number: Lost) -> None:
        server = next(server for server in reversed(self.servers) if server.address == address)
        server.signal(number)
        server.wait()


@pytest.fixture
def fleet(bundles: Path) -> Iterator[Fleet]:
    fleet = Fleet(bundles)
    yield fleet
    for server in fleet.servers:
        stop(server)


@pytest.fixture(scope="module")
def whole(server: ServerProcess) -> str:
    with Client(server.address) as client:
        return client.stream(PROMPT, **OPTIONS).read()


@pytest.fixture
def replicas(fleet: Fleet, tmp_path: Path) -> list[str]:
    """Two servers that accept each other's tokens."""
    keys = tmp_path / "keys"
    keys.write_text("k" * 40)
    return [fleet.start("--resume-keys", str(keys)) for _ in range(2)]


# What a kill leaves of a text with checkpoints, the next test shows.
@pytest.mark.parametrize(("number", "checkpoint_chars"), [(Lost.SIGKILL, 0), (Lost.SIGTERM, 0), (Lost.SIGTERM, 1000)])
def test_what_one_replica_began_the_other_one_ends(
    fleet: Fleet, replicas: list[str], whole: str, number: Lost, checkpoint_chars: int
) -> None:
    with Client(replicas) as client:
        streams = [client.stream(PROMPT, checkpoint_chars=checkpoint_chars, **OPTIONS) for _ in replicas]
        streams += [client.stream(PROMPT, checkpoint_chars=checkpoint_chars, **OPTIONS | LOOPS) for _ in replicas]
        chunks = [iter(stream) for stream in streams]  # one of each kind at each address
        texts = [next(text) for text in chunks]
        fleet.lose(replicas[0], number)
        texts = [first + "".join(rest) for first, rest in zip(texts, chunks, strict=True)]
    end, period = end_by_definition(whole[LOOPS["min_chars"] :], LOOP)
    assert texts == [whole, whole, *[whole[: LOOPS["min_chars"] + end]] * 2]
    finishes = [stream.finish for stream in streams[2:]]
    assert [(finish.reason, finish.repeat_period) for finish in finishes if finish] == [("repeat", period)] * 2
    assert_resumed(streams[:2], checkpoint_chars)


async def test_asyncio_what_one_replica_began_the_other_one_ends(fleet: Fleet, replicas: list[str], whole: str) -> None:
    async with AsyncClient(replicas) as client:
        streams = [client.stream(PROMPT, checkpoint_chars=1000, **OPTIONS) for _ in replicas]
        chunks = [aiter(stream) for stream in streams]
        texts = [await anext(text) for text in chunks]
        fleet.lose(replicas[0], Lost.SIGKILL)
        for index, rest in enumerate(chunks):
            texts[index] += "".join([chunk async for chunk in rest])
    assert texts == [whole, whole]
    assert_resumed(streams, 1000)


def assert_resumed(streams: Sequence[TextStream | AsyncTextStream], checkpoint_chars: int) -> None:
    """Check that one of the texts was resumed, and the other one not."""
    assert sorted(stream.resumes > 0 for stream in streams) == [False, True]
    assert [stream.finish and stream.finish.generated_chars for stream in streams] == [CHARS, CHARS]
    if checkpoint_chars:
        assert sum(stream.replayed_chars for stream in streams) < 2 * checkpoint_chars


@both
def test_one_server_that_comes_back_without_its_keys(fleet: Fleet, whole: str, kind: str) -> None:
    address = fleet.start()

    def replace(stream: Any) -> None:
        if len(fleet.servers) == 1 and len(stream.text) >= 2000:
            fleet.lose(address, Lost.SIGKILL)
            fleet.start(address=address)

    outcome = read(kind, address, "stream", PROMPT, checkpoint_chars=1000, each=[replace], **OPTIONS)
    assert outcome.error is None
    assert "".join(outcome.items) == whole
    assert outcome.stream.replayed_chars > 2000, "the whole text was sent back, after the token"
