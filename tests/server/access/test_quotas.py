"""What one caller may have, and for how long: texts, characters a second, a call's length, a reader's patience."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from client.async_client import AsyncClient
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.access.quotas import Quota
from server.catalog.model_factory import memory_of
from server.engine.messages import Output, Request, Sampling
from server.settings import ServerSettings
from server.streaming.text_stream import Reader, StreamLimits, TextStream
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.catalog.test_model_life import Files, put
from tests.server.service.test_generate import SMALL_WINDOWS, read

ENDLESS = 1_000_000
RATE = 2000


@asynccontextmanager
async def serving(bundles: Path, *flags: str) -> AsyncIterator[tuple[ServerProcess, pb_grpc.TextGenerationStub]]:
    process = await asyncio.to_thread(ready, start_server(bundles, "--precision", "fp32", *flags))
    try:
        async with grpc.aio.insecure_channel(process.address, SMALL_WINDOWS) as channel:
            yield process, pb_grpc.TextGenerationStub(channel)
    finally:
        stop(process)


def request(chars: int, seed: int = 1) -> pb.GenerateRequest:
    return pb.GenerateRequest(max_chars=chars, seed=seed)


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """What the error's details say, which the trailer for stock clients must say too."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    seconds = Duration.ToTimedelta(info.retry_delay).total_seconds()
    assert float(trailers["grpc-retry-pushback-ms"]) == pytest.approx(1000 * seconds, abs=1)
    return seconds


async def test_an_identity_has_so_many_texts_and_no_more(bundles: Path) -> None:
    async with serving(bundles, "--identity-streams", "3") as (_, stub):
        # What can never be had is no matter of waiting.
        with pytest.raises(grpc.aio.AioRpcError, match="n: is 4, allowed are 1 to 3") as caught:
            await read(stub.Generate(pb.GenerateRequest(max_chars=1, n=4)))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

        running = [stub.Generate(request(ENDLESS, seed)) for seed in range(3)]
        for call in running:
            await call.read()
        for refused in (request(1), pb.GenerateRequest(max_chars=1, n=2)):
            with pytest.raises(grpc.aio.AioRpcError, match="3 texts are running and waiting") as caught:
                await read(stub.Generate(refused))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_seconds(caught.value) > 0
        for call in running:
            call.cancel()
        await until_served(stub)


async def until_served(stub: pb_grpc.TextGenerationStub) -> None:
    for _ in range(100):
        try:
            await read(stub.Generate(request(1)))
            return
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.05)
    raise AssertionError("the texts that were cancelled still count")


async def test_an_identity_gets_so_many_characters_a_second_and_the_same_texts(bundles: Path) -> None:
    async with serving(bundles) as (_, stub):
        expected = await asyncio.gather(*(read(stub.Generate(request(3000, seed))) for seed in range(3)))
    async with serving(bundles, "--identity-chars", str(RATE)) as (_, stub):
        began = time.monotonic()
        texts = await asyncio.gather(*(read(stub.Generate(request(3000, seed))) for seed in range(3)))
        seconds = time.monotonic() - began
        assert [text for text, _ in texts] == [text for text, _ in expected]
        # A second's worth may be had at once.
        assert seconds > 3 * 3000 / RATE - 1 - 0.1


async def test_short_texts_one_after_the_other_get_no_more(bundles: Path) -> None:
    flags = ("--identity-chars", "200", "--max-continuations", "1")
    async with serving(bundles, *flags) as (_, stub):
        began = time.monotonic()
        for seed in range(8):
            await read(stub.Generate(request(100, seed)))
        assert time.monotonic() - began > 8 * 100 / 200 - 1 - 0.1


@pytest.mark.parametrize("handed", [False, True])
async def test_who_leaves_pays_for_what_was_handed_over_and_no_more(handed: bool) -> None:
    """A message that waits for its reader's window may be with the reader already."""
    quota = Quota("ada", 0, RATE, burst=1.0)
    limits = StreamLimits(window=4096, chunk_seconds=0.02, max_wait=60, max_seconds=60, reader_timeout=60)
    wanted = Request(forced=np.empty(0, np.int64), silent=0, max_chars=500, sampling=Sampling(), seed=1)
    reader = Reader()
    stream = TextStream(0, wanted, time.monotonic(), limits=limits, quota=quota, reader=reader, submit=lambda _: None)
    stream.push(Output(0, "x" * 300, None))
    free = RATE  # a second's worth
    async with stream.read() as chunks:
        if handed:
            assert len((await anext(chunks)).text) == 300
    delay = quota.charge(free)
    assert delay == pytest.approx(300 / RATE if handed else 0.0, abs=0.05)


async def test_who_waits_for_a_model_counts(tiny_files: Files, tmp_path: Path) -> None:
    """Of an identity and of the model: else calls without number could wait for one that is not loaded."""
    for name in ("busy", "other"):
        put(tmp_path / name, tiny_files, name=name)
    memory = (
        1.5 * memory_of(tiny_files[0], ServerSettings(precision="fp32", engines="0", max_rows=2, max_waiting=2)) / 1e6
    )
    limits = ("--max-rows", "2", "--max-waiting", "2", "--model-memory", str(memory), "--load", "lazy")
    for flags, most, name in (((), 4, "--max-rows"), (("--identity-streams", "3"), 2, "--identity-streams")):
        async with serving(tmp_path, *limits, *flags) as (_, stub):
            await stub.Generate(pb.GenerateRequest(model="busy", max_chars=ENDLESS)).read()
            calls = [stub.Generate(pb.GenerateRequest(model="other", max_chars=1)) for _ in range(12)]
            waiting = [asyncio.create_task(call.read()) for call in calls]
            refused: list[grpc.aio.AioRpcError] = []
            async with asyncio.timeout(30):
                while len(refused) < 12 - most:
                    await asyncio.sleep(0.05)
                    refused = [error for task in waiting if task.done() and (error := task.exception())]  # type: ignore[misc]
            assert len(refused) == 12 - most
            assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert all(name in (error.details() or "") for error in refused)
            for call in calls:
                call.cancel()
            await asyncio.wait(waiting)


async def test_a_text_that_has_to_earn_its_characters_keeps_its_time_limit(bundles: Path) -> None:
    flags = ("--identity-chars", "200", "--max-continuations", "1")
    async with serving(bundles, *flags) as (process, stub):
        running = [stub.Generate(request(ENDLESS, seed)) for seed in range(4)]
        await running[0].read()
        limited = request(ENDLESS)
        limited.time_limit.FromMilliseconds(500)
        began = time.monotonic()
        _, finish = await read(stub.Generate(limited))
        assert finish.reason == pb.FINISH_REASON_DEADLINE
        assert time.monotonic() - began < 10  # what it would have to earn takes for ever
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGTERM)
        for call in running:
            call.cancel()


def test_a_rate_at_which_nothing_could_be_had_is_refused(bundles: Path) -> None:
    process = start_server(bundles, "--identity-chars", "100", "--max-wait", "3")
    assert process.wait() == 2
    process.wait_for(r"--identity-chars must be at least 2048 .* or 0")
    stop(process)


async def test_who_asks_for_more_than_can_be_earned_in_time_is_told_when_to_come_back(bundles: Path) -> None:
    flags = ("--identity-chars", "200", "--max-wait", "2", "--max-continuations", "1")
    async with serving(bundles, *flags) as (_, stub):
        calls = [stub.Generate(request(500, seed)) for seed in range(6)]
        errors = [error for error in await asyncio.gather(*map(error_of, calls)) if error]
        assert errors
        for error in errors:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "--identity-chars" in error.details()
            assert retry_seconds(error) > 2


async def error_of(call: "grpc.aio.UnaryStreamCall") -> grpc.aio.AioRpcError | None:
    """What a call is refused with; one that is not is cancelled."""
    try:
        await asyncio.wait_for(call.read(), 1.0)
    except TimeoutError:
        pass
    except grpc.aio.AioRpcError as error:
        return error
    call.cancel()
    return None


async def test_a_connection_that_gives_up_calls_again_and_again_is_refused_for_a_while(bundles: Path) -> None:
    async with serving(bundles, "--connection-cancels", "0.5") as (process, stub):
        staying = stub.Generate(request(ENDLESS))
        await staying.read()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await give_up(stub, 20)
        refused = raised.value
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--connection-cancels" in refused.details()
        async with grpc.aio.insecure_channel(process.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            await read(pb_grpc.TextGenerationStub(channel).Generate(request(10)))
        assert (await staying.read()).text
        await asyncio.sleep(retry_seconds(refused) + 0.1)
        await read(stub.Generate(request(10)))


async def give_up(stub: pb_grpc.TextGenerationStub, calls: int) -> None:
    for _ in range(calls):
        call = stub.Generate(request(ENDLESS))
        await call.read()
        call.cancel()


async def test_who_lets_calls_end_may_make_as_many_as_he_wants(bundles: Path) -> None:
    async with serving(bundles, "--connection-cancels", "2") as (_, stub):
        for seed in range(20):
            await read(stub.Generate(request(10, seed)))


async def test_a_call_lasts_so_long_and_its_text_goes_on_in_another(bundles: Path) -> None:
    async with serving(bundles) as (_, stub):
        expected, _ = await read(stub.Generate(request(30_000)))
    async with serving(bundles, "--max-seconds", "0.5") as (process, stub):
        with pytest.raises(grpc.aio.AioRpcError, match=r"the call lasted 0\.5 s.*--max-seconds") as caught:
            await read(stub.Generate(request(ENDLESS)))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        async with AsyncClient(process.address) as client:
            stream = client.stream("", max_chars=30_000, seed=1, checkpoint_chars=256)
            assert "".join([piece async for piece in stream]) == expected


async def test_a_request_without_a_time_limit_has_the_servers(bundles: Path) -> None:
    async with serving(bundles, "--default-seconds", "0.3") as (_, stub):
        text, finish = await read(stub.Generate(request(ENDLESS)))
        assert finish.reason == pb.FINISH_REASON_DEADLINE
        assert 0 < len(text) < ENDLESS


@pytest.fixture
def impatient(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--reader-timeout", "0.4", "--max-rows", "1", "--max-waiting", "1")
    yield ready(process)
    stop(process)


async def test_a_reader_who_takes_nothing_loses_its_call_and_nobody_else_does(impatient: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(impatient.address, SMALL_WINDOWS) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        stalled = [stub.Generate(request(60_000, seed)) for seed in range(2)]
        for call in stalled:
            await call.read()
        # All places are taken, until the server's patience with one of them is over.
        await until_served(stub)
        errors = await asyncio.gather(*map(read, stalled), return_exceptions=True)
    cut = [error for error in errors if isinstance(error, grpc.aio.AioRpcError)]
    assert cut
    for error in cut:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "nothing was read for 0.4 s" in error.details()
    assert "Traceback" not in impatient.log
