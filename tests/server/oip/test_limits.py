"""What holds for every call holds for each request on a stream: readers, times, cancels, the drain, log and metrics."""

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.service.test_generate import SMALL_WINDOWS

ENDLESS, WAIT_SECONDS = 1_000_000, 60
FLAGS = (
    "--reader-timeout", "1", "--max-seconds", "8", "--connection-cancels", "0.5", "--metrics-port", "0",
    "--max-rows", "2", "--max-waiting", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def limited(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--precision", "fp32", *FLAGS)
    yield ready(process)
    stop(process)


def text(chars: int, name: str = "") -> oip.ModelInferRequest:
    given = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    given.contents.bytes_contents.append(b"a")
    request = oip.ModelInferRequest(model_name="tiny", id=name, inputs=[given])
    request.parameters["max_chars"].int64_param = chars
    return request


@asynccontextmanager
async def stub_of(server: ServerProcess) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def is_final(response: oip.ModelStreamInferResponse) -> bool:
    return response.infer_response.parameters["triton_final_response"].bool_param


def samples(server: ServerProcess) -> str:
    address = server.wait_for(r"metrics on ([^\s\"]+)").group(1)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_SECONDS) as answer:
        return str(answer.read().decode())


async def test_a_reader_who_takes_nothing_loses_the_stream(limited: ServerProcess) -> None:
    async with stub_of(limited) as stub:
        call = stub.ModelStreamInfer()
        for _ in range(2):
            await call.write(text(ENDLESS))
        await asyncio.sleep(4)
        with pytest.raises(grpc.aio.AioRpcError, match="nothing was read for 1 s, the limit"):
            await read_all(call)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # The rows are free.
        assert (await stub.ModelInfer(text(5), timeout=WAIT_SECONDS)).outputs


async def test_refusals_and_ends_of_a_stream_are_logged_and_counted(limited: ServerProcess) -> None:
    async with stub_of(limited) as stub:
        call = stub.ModelStreamInfer()
        for number in range(6):
            await call.write(text(30_000, str(number)))
        await call.done_writing()
        ends = [response async for response in call if is_final(response)]
    refused = [response for response in ends if response.error_message]
    assert len(ends) == 6
    assert len(refused) >= 1
    assert all("the model has 4 texts running and waiting, its limit" in one.error_message for one in refused)
    assert limited.count("status=RESOURCE_EXHAUSTED limit=max_waiting", len(refused)) == len(refused)
    found = samples(limited)
    assert f'charstream_refused_total{{limit="max_waiting"}} {len(refused)}.0' in found
    assert 'charstream_finished_total{model="tiny",reason="length"}' in found
    streams = 'grpc_service="inference.GRPCInferenceService",grpc_type="bidi_stream"'
    assert f'grpc_code="OK",grpc_method="ModelStreamInfer",{streams}' in found


async def test_a_stream_lasts_as_long_as_a_call_may(limited: ServerProcess) -> None:
    async with stub_of(limited) as stub:
        call = stub.ModelStreamInfer()
        await call.write(text(5))
        with pytest.raises(grpc.aio.AioRpcError, match="the call lasted 8 s, the limit"):
            await read_all(call)


async def give_up_streams_and_ask(stub: Any, count: int) -> None:
    for _ in range(count):
        call = stub.ModelStreamInfer()
        for name in ("1", "2"):
            await call.write(text(ENDLESS, name))
        begun = set[str]()
        while len(begun) < 2:
            begun.add((await call.read()).infer_response.id)
        call.cancel()
    for _ in range(20):  # a busy server may notice a little later that they were given up
        await read_all(stub.ModelStreamInfer(iter([text(5)])))
        await asyncio.sleep(0.1)


async def test_a_cancelled_stream_counts_as_often_as_it_has_texts(limited: ServerProcess) -> None:
    """A connection may give up five calls at once: four streams would not be too many, their texts are."""
    async with stub_of(limited) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match=r"gave up more than 0.5 calls a second"):
            await give_up_streams_and_ask(stub, 4)


async def test_a_drain_lets_texts_end_and_refuses_further_requests(bundles: Path) -> None:
    """And an idle stream holds up nothing."""
    server = await asyncio.to_thread(ready, start_server(bundles, "--precision", "fp32", "--grace", "30"))
    try:
        async with stub_of(server) as stub:
            idle, busy = stub.ModelStreamInfer(), stub.ModelStreamInfer()
            await idle.write(text(5))
            await idle.read()
            await busy.write(text(60_000, "begun"))
            parts = [await busy.read()]
            server.signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_for, "SIGTERM")
            await asyncio.sleep(0.1)
            await busy.write(text(5, "late"))
            ends: dict[str, oip.ModelStreamInferResponse] = {}
            while len(ends) < 2:
                parts.append(await busy.read())
                if is_final(parts[-1]):
                    ends[parts[-1].infer_response.id] = parts[-1]
        assert ends["late"].error_message == "the server is shutting down"
        assert not ends["begun"].error_message
        chars = sum(len(text_of(part)) for part in parts)
        assert chars == 60_000
        assert await asyncio.to_thread(server.wait) == 0
    finally:
        stop(server)


def text_of(response: oip.ModelStreamInferResponse) -> bytes:
    found = [output for output in response.infer_response.outputs if output.name == "text_output"]
    return bytes(found[0].contents.bytes_contents[0]) if found else b""
