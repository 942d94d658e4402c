"""What goes wrong around models passes: a file that cannot be read, no room, callers who leave, a bundle replaced."""

import asyncio
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from bundle.read import decode_file
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.catalog.memory_budget import STAYS_SECONDS
from server.catalog.model_factory import memory_of
from server.settings import ServerSettings
from tests.conftest import ServerProcess
from tests.server.catalog.test_model_life import (
    PRECONDITION,
    SERVER,
    Files,
    generate,
    look,
    models,
    put,
    refused,
    serving,
)
from tests.server.service.test_generate import SMALL_WINDOWS, read

SECONDS = 30
LONG = 1_000_000
# A server of root that may not read everything.
PLAIN_ROOT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def megabytes(files: Files, models: float) -> str:
    """--model-memory for so many of them."""
    return str(models * memory_of(files[0], ServerSettings(precision="fp32", engines="0")) / 1e6)


async def open_text(stub: rpc.TextGenerationStub, model: str) -> Any:
    """A call whose text runs until it is cancelled: it is not read."""
    call = stub.Generate(pb.GenerateRequest(model=model, max_chars=LONG))
    await call.read()
    return call


async def loading(server: ServerProcess, model: str) -> None:
    async with asyncio.timeout(SECONDS):
        while (await asyncio.to_thread(models, server))[model].state != pb.MODEL_STATE_LOADING:
            pass


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read everything")
def test_what_may_not_be_read_is_tried_again_and_harms_no_other_version(tiny_files: Files, tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "9", tiny_files, version="9")
    command = (*PLAIN_ROOT, *SERVER) if os.geteuid() == 0 else SERVER
    with serving(tmp_path, command=command) as server:
        ten = tmp_path / "tiny" / "10"
        put(tmp_path / ".10", tiny_files, version="10")
        (tmp_path / ".10").chmod(0)
        (tmp_path / ".10").rename(ten)
        look(server)
        server.wait_for("not served: .*tiny", SECONDS)
        put(tmp_path / "next", tiny_files, name="next")
        look(server)
        server.wait_for("serves next 1 ", SECONDS)
        assert list(models(server)) == ["next@1", "tiny@9"]
        ten.chmod(0o755)
        look(server)
        server.wait_for("serves tiny 10 ", SECONDS)

        graph = tmp_path / ".11" / decode_file("fp32")
        put(graph.parent, tiny_files, version="11")
        graph.chmod(0)
        graph.parent.rename(tmp_path / "tiny" / "11")
        look(server)
        server.wait_for("not served: .*tiny/11/decode.fp32.onnx: Permission denied", SECONDS)
        (tmp_path / "tiny" / "11" / graph.name).chmod(0o644)
        look(server)
        server.wait_for("serves tiny 11 ", SECONDS)


async def test_a_model_that_could_not_be_opened_for_want_of_files_is_tried_again(
    tiny_files: Files, tmp_path: Path
) -> None:
    put(tmp_path / "one", tiny_files, name="one")
    put(tmp_path / "tiny", tiny_files)
    with serving(tmp_path, "--load", "lazy", "--watch", "0.2") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)
            await read(stub.Generate(pb.GenerateRequest(model="one")))
            limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
            with refused(PRECONDITION, "tiny 1 cannot be loaded"):
                await read(stub.Generate(pb.GenerateRequest(model="tiny")))
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
            async with asyncio.timeout(SECONDS):
                text = ""
                while not text:
                    with suppress(grpc.aio.AioRpcError):
                        text, _ = await read(stub.Generate(pb.GenerateRequest(model="tiny")))
        assert server.count("tiny/manifest.json: Too many open files", 1) == 1


async def test_a_lazy_server_has_what_is_there_now_and_loads_for_nobody_who_left(
    tiny_files: Files, tmp_path: Path
) -> None:
    old = put(tmp_path / "tiny", tiny_files)
    left = [f"left{number}" for number in range(8)]
    for name in left:
        put(tmp_path / name, tiny_files, name=name)
    with serving(tmp_path, "--load", "lazy") as server:
        shutil.rmtree(tmp_path / "tiny")
        manifest, data = tiny_files
        training = manifest.training.model_copy(update={"seconds": 5.0})
        new = put(tmp_path / "tiny", (manifest.model_copy(update={"training": training}), data))
        assert new != old
        assert (await asyncio.to_thread(generate, server, model="tiny"))[1].replica.digest == new

        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)
            requests = [pb.GenerateRequest(model=name) for name in left]
            calls = [read(stub.Generate(request, timeout=0.1)) for request in requests]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert any(isinstance(end, grpc.aio.AioRpcError) for end in ends)
            put(tmp_path / "last", tiny_files, name="last")
            look(server)
            await asyncio.to_thread(server.wait_for, "offers last 1, not loaded", SECONDS)
            await read(stub.Generate(pb.GenerateRequest(model="last")))
        assert server.log.count("serves left") < len(left)


async def test_a_new_version_without_room_does_not_push_out_the_one_that_serves(
    tiny_files: Files, tmp_path: Path
) -> None:
    put(tmp_path / "one", tiny_files)
    with serving(tmp_path, "--model-memory", megabytes(tiny_files, 1.5), "--max-wait", "20") as server:
        new = put(tmp_path / "two", tiny_files, version="2")
        await asyncio.sleep(STAYS_SECONDS)  # so long it would stay in any case
        look(server)
        await asyncio.to_thread(server.wait_for, "tiny 2 waits for room", SECONDS)
        await asyncio.to_thread(generate, server, model="tiny")
        assert "unloaded" not in server.log

        async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
            stub = rpc.TextGenerationStub(channel)
            await open_text(stub, "tiny@2")
            waiting = asyncio.create_task(read(stub.Generate(pb.GenerateRequest(model="tiny", max_chars=40))))
            await loading(server, "tiny@1")
            shutil.rmtree(tmp_path / "one")
            look(server)
            await asyncio.wait_for(waiting, SECONDS)
        assert server.count("serves tiny 1 ", 1) == 1
        assert generate(server, model="tiny")[1].replica.digest == new


async def test_who_waits_for_room_holds_up_nobody_else(tiny_files: Files, tmp_path: Path) -> None:
    for name in ("alpha", "beta", "gamma"):
        put(tmp_path / name, tiny_files, name=name)
    with serving(tmp_path, "--model-memory", megabytes(tiny_files, 2.5)) as server:
        async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
            stub = rpc.TextGenerationStub(channel)
            held = [await open_text(stub, name) for name in ("alpha", "beta")]
            waiting = asyncio.create_task(read(stub.Generate(pb.GenerateRequest(model="gamma"))))
            await loading(server, "gamma@1")
            put(tmp_path / "delta", tiny_files, name="delta")
            shutil.rmtree(tmp_path / "beta")
            look(server)
            await asyncio.to_thread(server.wait_for, "beta 1 takes no new calls", SECONDS)
            await asyncio.to_thread(server.wait_for, "offers delta 1, not loaded", SECONDS)
            assert not waiting.done()
            held[1].cancel()
            await asyncio.wait_for(waiting, SECONDS)
        server.wait_for("unloaded beta 1", SECONDS)
