"""Whoever stops listening frees the row: the server sees the end of the call, and nothing is raised."""

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest

from client import AsyncClient, Client, Unavailable
from protos import charstream_pb2 as pb
from tests.client.replica import Fault, Replica
from tests.client.scripted import ScriptedServer, endless, serving

SECONDS = 5


def assert_ended(server: ScriptedServer) -> None:
    assert server.ended.wait(SECONDS), "the server still generates for nobody"


async def assert_ended_soon(server: ScriptedServer) -> None:
    assert await asyncio.to_thread(server.ended.wait, SECONDS), "the server still generates for nobody"


def test_leaving_the_loop_ends_the_call() -> None:
    with serving(endless) as server, Client(server.address) as client:
        for _ in client.stream("a"):
            break
        assert_ended(server)


def test_leaving_the_with_block_ends_a_call_that_was_not_read_to_its_end() -> None:
    with serving(endless) as server, Client(server.address) as client:
        with client.stream("a") as stream:
            chunks = iter(stream)  # a name for it, so that it isn't dropped and closed by that
            next(chunks)
        assert_ended(server)
        assert stream.finish is None


def test_an_error_of_the_callers_own_ends_the_call_and_passes() -> None:
    def read(client: Client) -> None:
        with client.stream("a") as stream:
            for _ in stream:
                raise KeyError

    with serving(endless) as server, Client(server.address) as client:
        with pytest.raises(KeyError):
            read(client)
        assert_ended(server)


def test_cancel_from_another_thread_ends_the_loop() -> None:
    with serving(endless) as server, Client(server.address) as client:
        stream = client.stream("a")
        threading.Timer(0.3, stream.cancel).start()
        assert "".join(stream) == stream.text
        assert stream.finish is None
        assert_ended(server)


def test_closing_the_client_under_a_stream_is_unavailable() -> None:
    with serving(endless) as server:
        client = Client(server.address)
        stream = client.stream("a")
        threading.Timer(0.3, client.close).start()
        with pytest.raises(Unavailable):
            list(stream)
        assert_ended(server)


async def test_asyncio_leaving_the_loop_ends_the_call() -> None:
    with serving(endless) as server:
        async with AsyncClient(server.address) as client:
            async for _ in client.stream("a"):
                break
            await assert_ended_soon(server)


async def test_asyncio_leaving_the_with_block_ends_the_call() -> None:
    with serving(endless) as server:
        async with AsyncClient(server.address) as client:
            async with client.stream("a") as stream:
                chunks = aiter(stream)
                await anext(chunks)
            await assert_ended_soon(server)
            assert stream.finish is None


async def test_asyncio_cancel_ends_the_loop() -> None:
    with serving(endless) as server:
        async with AsyncClient(server.address) as client:
            stream = client.stream("a")
            asyncio.get_running_loop().call_later(0.3, stream.cancel)
            chunks = [chunk async for chunk in stream]
            assert "".join(chunks) == stream.text
            await assert_ended_soon(server)


async def test_asyncio_a_cancelled_task_stays_cancelled() -> None:
    async def read(client: AsyncClient) -> None:
        async for _ in client.stream("a"):
            pass

    with serving(endless) as server:
        async with AsyncClient(server.address) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(client), 0.3)
            await assert_ended_soon(server)


async def test_asyncio_a_task_that_is_cancelled_while_it_waits_for_a_server_stays_cancelled() -> None:
    replica = Replica([Fault("unavailable", 5)] + [Fault("unavailable")] * 100, chunk=1)
    with serving(replica.generate) as server:
        async with AsyncClient(server.address) as client:
            stream = client.stream("a")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.read(), 1.0)
            assert len(stream.text) == 5


async def test_asyncio_cancel_while_it_waits_for_a_server_ends_the_loop() -> None:
    replica = Replica([Fault("unavailable", 5)] + [Fault("unavailable")] * 100, chunk=1)
    with serving(replica.generate) as server:
        async with AsyncClient(server.address) as client:
            stream = client.stream("a")
            asyncio.get_running_loop().call_later(1.0, stream.cancel)
            assert len(await asyncio.wait_for(stream.read(), 10)) == 5


async def test_asyncio_closing_the_client_under_a_stream_is_unavailable() -> None:
    with serving(endless) as server:
        client = AsyncClient(server.address)
        stream = client.stream("a")
        closing = asyncio.get_running_loop().call_later(0.3, lambda: tasks.append(asyncio.create_task(client.close())))
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(Unavailable):
            async for _ in stream:
                pass
        closing.cancel()
        await asyncio.gather(*tasks)


def breaking(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """A text that breaks after two characters, and then goes on as long as somebody listens."""
    if not request.received:
        yield pb.GenerateResponse(text="ab", started=pb.Started(seed=1, max_chars=10_000))
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    yield pb.GenerateResponse(started=pb.Started(seed=1, max_chars=10_000))
    yield from endless(request, context)


async def test_a_cancel_while_the_text_changes_its_server_ends_it() -> None:
    """The cancel may come any number of turns of the event loop after the break."""
    for turns in range(12):
        with serving(breaking) as server:
            async with AsyncClient(server.address) as client:
                stream = client.stream("a")
                reading = asyncio.create_task(stream.read())
                await asyncio.to_thread(server.ended.wait, SECONDS)
                for _ in range(turns):
                    await asyncio.sleep(0)
                stream.cancel()
                assert len(await asyncio.wait_for(reading, SECONDS)) < 1000
                assert stream.finish is None
