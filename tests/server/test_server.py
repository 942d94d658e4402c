"""Start, drain and end of a server process; what becomes of rows whose client is gone."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.service.test_generate import SMALL_WINDOWS, read

ENDLESS = 1_000_000

BREAKS_ON_ITS_100TH_RUN = """
import sys
from server.__main__ import main
from server.runtime.host_runner import Runner

run, runs = Runner.decode, []

def breaks(*args):
    runs.append(1)
    if len(runs) == 100:
        raise RuntimeError("out of order")
    run(*args)

Runner.decode = breaks
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def own_server(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--grace", "120")
    yield ready(process)
    stop(process)


LONG = 40_000  # of 16 streams: more than 2 s of work on two cores, and more than a reader that waits is sent


def long_request(seed: int, chars: int = LONG) -> pb.GenerateRequest:
    return pb.GenerateRequest(max_chars=chars, seed=seed)


async def begin(stub: pb_grpc.TextGenerationStub, streams: int) -> tuple[list[Any], list[str]]:
    """So many calls, and the first text of each."""
    calls = [stub.Generate(long_request(seed)) for seed in range(streams)]
    return calls, [(await call.read()).text for call in calls]


async def test_sigterm_finishes_streams_and_refuses_new_ones(own_server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        calls, firsts = await begin(stub, 16)
        own_server.signal(signal.SIGTERM)
        own_server.wait_for("drains")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(stub.Generate(long_request(0)))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        rests = await asyncio.gather(*map(read, calls))
    assert [len(first + rest) for first, (rest, _) in zip(firsts, rests, strict=True)] == [LONG] * 16
    assert own_server.wait() == 0


async def test_an_engine_that_breaks_ends_the_process(bundles: Path, tmp_path: Path) -> None:
    """Never a server that accepts and hangs."""
    script = tmp_path / "breaks.py"
    script.write_text(BREAKS_ON_ITS_100TH_RUN)
    process = start_server(bundles, command=(sys.executable, str(script)))
    try:
        ready(process)
        async with grpc.aio.insecure_channel(process.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(pb_grpc.TextGenerationStub(channel).Generate(long_request(0)))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.wait() == 1
        process.wait_for("the engine broke")
    finally:
        stop(process)


async def test_second_signal_ends_it_at_once(own_server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        calls, _ = await begin(pb_grpc.TextGenerationStub(channel), 4)
        own_server.signal(signal.SIGTERM)
        own_server.wait_for("drains")
        begun = time.monotonic()
        own_server.signal(signal.SIGTERM)
        assert own_server.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.gather(*map(read, calls))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_reader_that_does_not_read_does_not_keep_the_server_from_ending(bundles: Path) -> None:
    process = ready(start_server(bundles, "--grace", "0.5"))
    try:
        async with grpc.aio.insecure_channel(process.address, SMALL_WINDOWS) as channel:
            call = pb_grpc.TextGenerationStub(channel).Generate(long_request(0, ENDLESS))
            await call.read()
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 10) == 0
        assert "Traceback" not in process.log
    finally:
        stop(process)


async def test_streams_that_outlive_the_grace_are_cut_with_unavailable(bundles: Path) -> None:
    process = ready(start_server(bundles, "--grace", "0.5"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            call = pb_grpc.TextGenerationStub(channel).Generate(long_request(0, ENDLESS))
            await call.read()
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.wait() == 0
    finally:
        stop(process)


async def read_into(messages: list[pb.GenerateResponse], call: "grpc.aio.UnaryStreamCall") -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)


async def test_a_text_that_outlives_the_grace_goes_on_elsewhere(bundles: Path, tmp_path: Path) -> None:
    """Its last message says that the server drains and has a token; with it, or with what came, another one goes on."""
    (tmp_path / "keys").write_text("k" * 32)
    keys = ("--precision", "fp32", "--resume-keys", str(tmp_path / "keys"))
    process, other = (start_server(bundles, "--grace", "0.2", *keys) for _ in range(2))
    try:
        async with grpc.aio.insecure_channel(ready(process).address) as channel:
            request = pb.GenerateRequest(
                prompt="abc", max_chars=ENDLESS, seed=4, return_token=True, stop=["never said"]
            )
            call = pb_grpc.TextGenerationStub(channel).Generate(request)
            messages = [await call.read()]
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_into(messages, call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        finish = messages[-1].finish
        assert finish.reason == pb.FINISH_REASON_DRAINED
        assert await asyncio.to_thread(process.wait) == 0
        text = "".join(message.text for message in messages)
        assert finish.generated_chars == len(text)
        token = pb.GenerateRequest(resume_token=finish.resume_token, max_chars=300, stop=["never said"])
        replay = pb.GenerateRequest(prompt="abc" + text, max_chars=300, seed=4, stop=["never said"])
        async with grpc.aio.insecure_channel(ready(other).address) as channel:
            texts = [(await read(pb_grpc.TextGenerationStub(channel).Generate(one)))[0] for one in (token, replay)]
        assert texts[0] == texts[1]
    finally:
        stop(process)
        stop(other)


async def test_each_continuation_says_that_the_server_drains(bundles: Path) -> None:
    process = ready(start_server(bundles, "--precision", "fp32", "--grace", "0.2"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            request = pb.GenerateRequest(prompt="abc", max_chars=ENDLESS, seed=4, return_token=True, n=3)
            call = pb_grpc.TextGenerationStub(channel).Generate(request)
            messages = [await call.read()]
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_into(messages, call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        finished = {message.index: message.finish for message in messages if message.HasField("finish")}
        assert sorted(finished) == [0, 1, 2]
        assert {finish.reason for finish in finished.values()} == {pb.FINISH_REASON_DRAINED}
        assert all(finish.resume_token for finish in finished.values())
    finally:
        stop(process)


async def test_a_text_does_not_wait_for_ever_for_a_row(bundles: Path) -> None:
    process = ready(start_server(bundles, "--max-rows", "1", "--max-wait", "0.3", "--stream-buffer", "1000000"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub = pb_grpc.TextGenerationStub(channel)
            running = stub.Generate(long_request(0, ENDLESS))
            await running.read()
            with pytest.raises(grpc.aio.AioRpcError, match=r"no row of the batch was free for 0\.3 s") as caught:
                await read(stub.Generate(pb.GenerateRequest(max_chars=1)))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            running.cancel()
        assert await eventually(lambda: rows_are_free(process.address, 1))
    finally:
        stop(process)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_second_server_on_the_same_port_fails_at_once(server: ServerProcess, bundles: Path, host: str) -> None:
    port = server.address.rsplit(":", 1)[1]
    second = start_server(bundles, "--port", port, "--host", host, "--insecure")
    try:
        assert second.wait(20) == 1
        second.wait_for(rf"charstream serve: --port: cannot listen on [\d.]+:{port}: the port is in use")
    finally:
        stop(second)


def test_health_and_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "charstream.v1.TextGeneration", "charstream.v1.Models"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_every_service(server: ServerProcess, version: str) -> None:
    """By either name, since tools ask for v1 first; `grpcurl describe` wants each listed service described."""
    ask = reflection_pb2.ServerReflectionRequest
    with grpc.insecure_channel(server.address) as channel:
        info = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            ask.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = info(iter([ask(list_services="")]))
        names = [service.name for service in answer.list_services_response.service]
        files = list(info(ask(file_containing_symbol=name) for name in names))
    assert {"charstream.v1.TextGeneration", "charstream.v1.Models", "grpc.health.v1.Health"} < set(names)
    assert {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} < set(names)
    assert all(file.file_descriptor_response.file_descriptor_proto for file in files)


def test_health_can_be_watched(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_a_call_that_is_cancelled_while_its_message_is_stuck_leaves_no_traceback(bundles: Path) -> None:
    """A cancelled call is everyday life: only faults of ours get tracebacks."""
    process = ready(start_server(bundles))
    request = long_request(0)
    request.chunking.max_chars = 1
    try:
        for _ in range(3):
            async with grpc.aio.insecure_channel(process.address, SMALL_WINDOWS) as channel:
                stub = pb_grpc.TextGenerationStub(channel)
                calls = [stub.Generate(request) for _ in range(4)]
                for call in calls:
                    await call.read()
                await asyncio.sleep(0.6)  # now the windows are full
                for call in calls:
                    call.cancel()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "Traceback" not in process.log
    finally:
        stop(process)


def rows_are_free(address: str, rows: int) -> bool:
    """Whether so many streams can begin at once."""
    with grpc.insecure_channel(address) as channel:
        calls = [pb_grpc.TextGenerationStub(channel).Generate(long_request(seed, 5000)) for seed in range(rows)]
        try:
            for call in calls:
                next(call)
        except grpc.RpcError:
            return False
        finally:
            for call in calls:
                call.cancel()
    return True


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if await asyncio.to_thread(condition):
            return True
        await asyncio.sleep(0.2)
    return False


async def test_deadline_frees_the_row(bundles: Path) -> None:
    process = ready(start_server(bundles, "--max-rows", "2", "--max-waiting", "0"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub = pb_grpc.TextGenerationStub(channel)
            calls = [stub.Generate(long_request(seed, ENDLESS), timeout=0.5) for seed in range(2)]
            for result in await asyncio.gather(*map(read, calls), return_exceptions=True):
                assert isinstance(result, grpc.aio.AioRpcError)
                assert result.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert await eventually(lambda: rows_are_free(process.address, 2))
    finally:
        stop(process)


async def test_half_open_connection_frees_the_row(bundles: Path) -> None:
    """A client that vanishes without a word is found by the keepalive probe."""
    flags = ("--max-rows", "1", "--max-waiting", "0", "--keepalive", "1", "--keepalive-timeout", "1")
    process = ready(start_server(bundles, *flags, "--stream-buffer", "256"))
    proxy = await SilentProxy.start(process.address)
    try:
        channel = grpc.aio.insecure_channel(proxy.address)
        call = pb_grpc.TextGenerationStub(channel).Generate(long_request(0, ENDLESS))
        await call.read()
        proxy.silent = True
        assert not await asyncio.to_thread(rows_are_free, process.address, 1)
        assert await eventually(lambda: rows_are_free(process.address, 1))
        call.cancel()
        await channel.close()
    finally:
        await proxy.close()
        stop(process)


class SilentProxy:
    """Forwards bytes both ways until it is told to be silent; then it swallows them, and no connection is closed."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.silent = False
        self.address = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, target: str) -> "SilentProxy":
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy._connected, "127.0.0.1", 0, family=socket.AF_INET)
        proxy.address = f"127.0.0.1:{proxy._server.sockets[0].getsockname()[1]}"
        return proxy

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.rsplit(":", 1)
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            self._tasks.add(asyncio.create_task(self._copy(source, sink)))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()
