"""Servers that leave in order, or without warning: what their callers see."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, SettingsAcknowledged
from h2.settings import SettingCodes

from client.async_client import AsyncClient
from client.async_streams import AsyncTextStream
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.service.test_generate import read

STREAMS, CHARS = 64, 2_000
ENDLESS = 1_000_000

CLOCK_SET_BACK = """
import sys, time
from pathlib import Path
from server.__main__ import main

now, back = time.time, Path(sys.argv.pop())
time.time = lambda: now() - (86_400 if back.exists() else 0)
sys.exit(main())
"""

LOADS_SLOWLY = """
import sys, time
from server.catalog import model_factory
from server.__main__ import main

load = model_factory.load

def slow(*arguments):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(30)
    return load(*arguments)

model_factory.load = slow
sys.exit(main())
"""


@pytest.fixture
def replicas(bundles: Path, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    (tmp_path / "keys").write_text("k" * 32)
    flags = ("--precision", "fp32", "--grace", "0.2", "--resume-keys", str(tmp_path / "keys"))
    processes = [start_server(bundles, *flags) for _ in range(2)]
    yield [ready(process) for process in processes]
    for process in processes:
        stop(process)


async def whole_text(stream: AsyncTextStream) -> str:
    return "".join([piece async for piece in stream])


@pytest.mark.slow
async def test_many_texts_of_a_server_that_drains_are_completed_by_another(replicas: list[ServerProcess]) -> None:
    """Each text is asked for twice, once at each replica: so one is undisturbed, and they have to be equal."""
    leaving, staying = replicas
    async with AsyncClient([leaving.address, staying.address]) as client:
        streams = [
            client.stream("", max_chars=CHARS, seed=number // 2, checkpoint_chars=1024) for number in range(2 * STREAMS)
        ]
        texts = [asyncio.create_task(whole_text(stream)) for stream in streams]
        async with grpc.aio.insecure_channel(leaving.address) as channel:
            plain = pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(max_chars=ENDLESS))
            await plain.read()
            leaving.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(plain)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(leaving.wait) == 0
        assert not all(text.done() for text in texts), "the grace was long enough for all"
        whole = await asyncio.gather(*texts)
    assert {len(text) for text in whole} == {CHARS}
    assert whole[0::2] == whole[1::2]


async def test_a_draining_server_serves_until_the_others_know(bundles: Path) -> None:
    process = await asyncio.to_thread(ready, start_server(bundles, "--drain-delay", "2"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub, health = pb_grpc.TextGenerationStub(channel), health_pb2_grpc.HealthStub(channel)
            process.signal(signal.SIGTERM)
            process.wait_for("drains")
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            text, _ = await read(stub.Generate(pb.GenerateRequest(max_chars=10)))
            assert len(text) == 10
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        stop(process)


async def test_a_clock_that_is_set_back_changes_nothing(bundles: Path, tmp_path: Path) -> None:
    """Waits, limits and time limits are by a clock that only goes forward."""
    script, back = tmp_path / "clock.py", tmp_path / "back"
    script.write_text(CLOCK_SET_BACK)
    command = (sys.executable, str(script))
    process = await asyncio.to_thread(
        ready, start_server(bundles, "--default-seconds", "3", str(back), command=command)
    )
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub = pb_grpc.TextGenerationStub(channel)
            running = stub.Generate(pb.GenerateRequest(max_chars=ENDLESS))
            first = await running.read()
            back.touch()
            text, finish = await read(running)
            assert len(first.text + text) > 0
            assert finish.reason == pb.FINISH_REASON_DEADLINE
            assert 2.5 < finish.timings.total_seconds < 30
            text, _ = await read(stub.Generate(pb.GenerateRequest(max_chars=10)))
            assert len(text) == 10
    finally:
        stop(process)


def test_a_signal_while_models_load_ends_it_before_it_serves(bundles: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(LOADS_SLOWLY)
    process = start_server(bundles, "--drain-delay", "60", command=(sys.executable, str(script)))
    try:
        process.wait_for("loading")
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 0, "it waits for the load"
        assert "listening on" not in process.log
        assert "Traceback" not in process.log
    finally:
        stop(process)


def test_who_watches_health_and_reads_nothing_does_not_hold_up_the_drain(bundles: Path) -> None:
    process = ready(start_server(bundles, "--grace", "1"))
    host, port = process.address.split(":")
    try:
        with socket.create_connection((host, int(port))) as connection:
            http2 = H2Connection()
            http2.initiate_connection()
            http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            receive(connection, http2, SettingsAcknowledged, times=2)
            http2.send_headers(1, watch_headers(process.address))
            http2.send_data(1, b"\0\0\0\0\0", end_stream=True)
            receive(connection, http2, ResponseReceived)
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        assert "Traceback" not in process.log
    finally:
        stop(process)


def receive(connection: socket.socket, http2: H2Connection, kind: type[Event], times: int = 1) -> None:
    """Sends what is to be sent, and waits for events of the kind."""
    while times > 0:
        connection.sendall(http2.data_to_send())
        times -= sum(isinstance(event, kind) for event in http2.receive_data(connection.recv(65_536)))
    connection.sendall(http2.data_to_send())


def watch_headers(address: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Watch"),
        (":authority", address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


async def test_who_watches_health_is_told_of_the_drain(bundles: Path) -> None:
    process = await asyncio.to_thread(ready, start_server(bundles, "--drain-delay", "1"))
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="charstream.v1.TextGeneration"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Watch(health_pb2.HealthCheckRequest(service="x")).read()
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        stop(process)
