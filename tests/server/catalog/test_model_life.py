"""Models come, are loaded, unloaded and go while a server runs; no text that runs notices it."""

import asyncio
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from bundle.manifest import Manifest
from bundle.read import MANIFEST, decode_file, read_bundle
from bundle.write import write_bundle
from export.build import build
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.catalog.memory_budget import STAYS_SECONDS
from server.catalog.model_factory import memory_of
from server.catalog.scan import version_order
from server.settings import ServerSettings
from tests.conftest import ServerProcess, ready, start_server, stop, tiny_model
from tests.server.service.test_bad_input import detail
from tests.server.service.test_generate import SMALL_WINDOWS, read

Files = tuple[Manifest, dict[str, bytes]]
SERVER = (sys.executable, "-m", "server")
# What runs is far longer than what a stream holds and what lies in the network.
FLAGS = ("--precision", "fp32", "--threads", "1", "--stream-buffer", "256", "--watch", "0")
STREAMS, HELD, CHARS, HELD_CHARS = 32, 1, 1_000, 40_000
PRECONDITION, EXHAUSTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def serving(folder: Path, *flags: str, command: Sequence[str] = SERVER) -> Iterator[ServerProcess]:
    process = start_server(folder, *FLAGS, *flags, command=command)
    try:
        yield ready(process)
    finally:
        stop(process)


def put(folder: Path, files: Files, *, name: str = "tiny", version: str = "1") -> str:
    """Writes a bundle of that name and version; returns its digest."""
    manifest, data = files
    write_bundle(folder, manifest.model_copy(update={"name": name, "version": version}), data)
    return read_bundle(folder).digest


def damage(folder: Path) -> None:
    """Changes a byte of a graph, not its size."""
    file = folder / decode_file("fp32")
    file.write_bytes(file.read_bytes()[:-1] + b"~")


def look(server: ServerProcess) -> None:
    server.signal(signal.SIGHUP)


def generate(server: ServerProcess, **fields: Any) -> tuple[str, pb.Started, pb.Finish]:
    with grpc.insecure_channel(server.address) as channel:
        messages = list(rpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(**{"max_chars": 40, **fields})))
    return "".join(message.text for message in messages), messages[0].started, messages[-1].finish


def models(server: ServerProcess) -> dict[str, pb.Model]:
    with grpc.insecure_channel(server.address) as channel:
        listed = rpc.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models
    return {f"{model.name}@{model.version}": model for model in listed}


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[list[grpc.RpcError]]:
    """The block's call is; yields where the error will be."""
    found: list[grpc.RpcError] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield found
    found.append(caught.value)
    assert caught.value.code() == code
    for word in words:
        assert word in caught.value.details()


@pytest.fixture(scope="module")
def other_files() -> Files:
    """Another model, which writes other texts."""
    return build(tiny_model(layers=1, hidden=16, seed=5), "tiny", "2", ["fp32"])


def wanted(seed: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="tiny", seed=seed, max_chars=HELD_CHARS if seed < HELD else CHARS)


async def test_a_new_version_takes_new_calls_while_32_streams_end_on_the_old_one(
    tiny_files: Files, other_files: Files, tmp_path: Path
) -> None:
    old = put(tmp_path / "one", tiny_files)
    with serving(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
            stub = rpc.TextGenerationStub(channel)
            before = await asyncio.gather(*(read(stub.Generate(wanted(seed))) for seed in range(STREAMS)))
            calls = [stub.Generate(wanted(seed)) for seed in range(STREAMS)]
            firsts = [await call.read() for call in calls]
            # The held ones are read no further: they are open for sure as long as this lasts.
            running = [asyncio.create_task(read(call)) for call in calls[HELD:]]

            new = put(tmp_path / "two", other_files, version="2")
            look(server)
            await asyncio.to_thread(server.wait_for, "serves tiny 2 ")
            text, started, _ = await asyncio.to_thread(generate, server, model="tiny", seed=0)
            assert started.replica.digest == new
            assert text != before[0][0][:40]
            shutil.rmtree(tmp_path / "one")
            look(server)
            await asyncio.to_thread(server.wait_for, "tiny 1 takes no new calls")
            assert list(await asyncio.to_thread(models, server)) == ["tiny@2"]
            assert "unloaded" not in server.log

            rests = [*await asyncio.gather(*map(read, calls[:HELD])), *await asyncio.gather(*running)]
            texts = [first.text + rest for first, (rest, _) in zip(firsts, rests, strict=True)]
        assert [first.started.replica.digest for first in firsts] == [old] * STREAMS
        assert texts == [text for text, _ in before]
        server.wait_for("unloaded tiny 1")


def test_a_bad_new_version_is_reported_once_and_the_old_one_serves_on(tiny_files: Files, tmp_path: Path) -> None:
    old = put(tmp_path / "one", tiny_files)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo").touch()
    with serving(tmp_path) as server:
        put(tmp_path / "two", tiny_files, version="2")
        damage(tmp_path / "two")
        for version in ("0.1", "0.2"):
            put(tmp_path / version, tiny_files, version=version)
            look(server)
            server.wait_for(f"serves tiny {version} ")  # a look is over
        assert server.count("SIGHUP: looks at ", 2) == 2
        assert server.count("two/decode.fp32.onnx: its sha256 is not the manifest's", 1) == 1
        assert server.count("notes/manifest.json: No such file", 1) == 1
        assert generate(server, model="tiny")[1].replica.digest == old
        listed = models(server)
        assert listed["tiny@2"].state == pb.MODEL_STATE_FAILED
        assert [name for name, model in listed.items() if model.is_default] == ["tiny@1"]
        with refused(PRECONDITION, "tiny 2", "the server's log says why") as error:
            generate(server, model="tiny@2")
        assert str(tmp_path) not in str(error[0])

        shutil.rmtree(tmp_path / "two")
        new = put(tmp_path / "two", tiny_files, version="2")
        look(server)
        server.wait_for("serves tiny 2 ")
        assert generate(server, model="tiny")[1].replica.digest == new


def test_what_is_written_over_a_bundle_counts_when_it_is_one(tiny_files: Files, tmp_path: Path) -> None:
    """Half a copy, or a damaged one, leaves what was there before in service."""
    old = put(tmp_path / "one", tiny_files)
    with serving(tmp_path) as server:
        new = put(tmp_path / ".new", tiny_files, version="2")
        whole = (tmp_path / ".new" / MANIFEST).read_bytes()
        (tmp_path / "one" / MANIFEST).write_bytes(whole[:-20])
        look(server)
        server.wait_for("not served: .*one/manifest.json")
        assert generate(server)[1].replica.digest == old
        graph = (tmp_path / "one" / decode_file("fp32")).read_bytes()
        damage(tmp_path / "one")
        (tmp_path / "one" / MANIFEST).write_bytes(whole)
        look(server)
        server.wait_for("not served: .*one/decode.fp32.onnx")
        assert generate(server)[1].replica.digest == old
        (tmp_path / "one" / decode_file("fp32")).write_bytes(graph)
        look(server)
        server.wait_for("serves tiny 2 ")
        server.wait_for("unloaded tiny 1")
        assert generate(server)[1].replica.digest == new


def test_it_watches_the_folder_and_stays_without_models(tiny_files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    put(folder / "one", tiny_files)
    with serving(folder, "--watch", "0.2") as server:
        folder.rename(tmp_path / "away")
        server.wait_for(r"models: No such file or directory; what was found before is served")
        assert generate(server)[0]
        (tmp_path / "away").rename(folder)
        shutil.rmtree(folder / "one")
        server.wait_for("unloaded tiny 1")
        with refused(grpc.StatusCode.NOT_FOUND, "served are none"):
            generate(server)
        assert models(server) == {}
        put(folder / "one", tiny_files)
        server.wait_for("(?s)unloaded tiny 1.*serves tiny 1")
        assert generate(server)[0]
        assert server.count("No such file", 1) == 1


def test_versions_are_asked_for_by_number_and_tokens_find_theirs(tiny_files: Files, tmp_path: Path) -> None:
    digests = {version: put(tmp_path / "tiny" / version, tiny_files, version=version) for version in ("9", "10")}
    with serving(tmp_path) as server:
        assert generate(server)[1].replica.digest == digests["10"]
        whole, _, _ = generate(server, seed=1, max_chars=80)
        for version, digest in digests.items():
            named = f"tiny@{version}"
            text, started, finish = generate(server, model=named, seed=1, return_token=True)
            assert started.replica.digest == digest
            for model in ("", "tiny", named):
                rest, again, _ = generate(server, model=model, resume_token=finish.resume_token)
                assert (text + rest, again.replica.digest) == (whole, digest)
            assert generate(server, replica=pb.Replica(digest=digest))[1].replica.digest == digest
        with refused(PRECONDITION, "digest"):
            generate(server, model="tiny@9", replica=pb.Replica(digest=digests["10"]))
        for wrong in ("tiny@11", "tiny@", "@9"):
            with refused(grpc.StatusCode.NOT_FOUND, repr(wrong)):
                generate(server, model=wrong)
        with grpc.insecure_channel(server.address) as channel:
            stub = rpc.ModelsStub(channel)
            assert stub.GetModel(pb.GetModelRequest(name="tiny@9")).digest == digests["9"]
            assert stub.GetModel(pb.GetModelRequest(name="tiny")).version == "10"


def age(folder: Path, seconds: int) -> None:
    """Let the bundle be so many seconds old."""
    os.utime(folder / MANIFEST, times=(time.time() - seconds,) * 2)


def test_who_names_no_model_gets_the_newest_and_a_begun_text_its_own(
    tiny_files: Files, other_files: Files, tmp_path: Path
) -> None:
    put(tmp_path / "alpha", tiny_files, name="alpha")
    digest = put(tmp_path / "beta", tiny_files, name="beta")
    put(tmp_path / "gamma", tiny_files, name="gamma")
    damage(tmp_path / "gamma")
    for name, seconds in (("alpha", 200), ("beta", 100), ("gamma", 50)):
        age(tmp_path / name, seconds)
    with serving(tmp_path) as server:
        server.wait_for(r"requests that name no model get beta \(its bundle is the newest; --default chooses another\)")
        assert default_of(server) == ["beta@1"]
        text, started, _ = generate(server, seed=1)
        assert started.replica.digest == digest

        newest = put(tmp_path / "alpha-2", other_files, name="alpha", version="2")
        look(server)
        server.wait_for("requests that name no model get alpha ")
        assert default_of(server) == ["alpha@2"]
        assert generate(server)[1].replica.digest == newest
        rest, again, _ = generate(server, seed=1, replica=started.replica, received=text[:20])
        assert (text[:20] + rest, again.replica.digest) == (text, digest)


def default_of(server: ServerProcess) -> list[str]:
    return [name for name, model in models(server).items() if model.is_server_default]


def test_the_default_can_be_chosen_and_is_missed_where_it_goes(tiny_files: Files, tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        put(tmp_path / name, tiny_files, name=name)
    missing = start_server(tmp_path, "--default", "gamma", "--load", "lazy")
    try:
        assert missing.wait() == 1
        missing.wait_for("--default gamma: no bundle has that name; served are alpha, beta")
    finally:
        stop(missing)
    with serving(tmp_path, "--default", "alpha", "--load", "lazy") as server:
        server.wait_for(r"requests that name no model get alpha \(--default\)")
        assert default_of(server) == ["alpha@1"]
        assert generate(server)[0]
        shutil.rmtree(tmp_path / "alpha")
        look(server)
        server.wait_for("alpha 1 takes no new calls")
        reason = "model: is empty, and 'alpha' (--default) is not served now; name a model (--model): served are beta"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reason):
            generate(server)
        assert default_of(server) == []


@pytest.mark.parametrize("itself", [False, True])
def test_a_version_in_the_folder_of_a_bundle_is_one(tiny_files: Files, tmp_path: Path, itself: bool) -> None:
    """Who exported to bundles/NAME puts the next one to bundles/NAME/VERSION, as the docs say; or names the bundle."""
    old = put(tmp_path / "tiny", tiny_files)
    with serving(tmp_path / "tiny" if itself else tmp_path) as server:
        (tmp_path / "tiny" / "notes").mkdir()
        new = put(tmp_path / "tiny" / "2", tiny_files, version="2")
        look(server)
        server.wait_for("serves tiny 2 ")
        assert generate(server)[1].replica.digest == new
        assert generate(server, model="tiny@1")[1].replica.digest == old
        shutil.rmtree(tmp_path / "tiny" / "2")
        look(server)
        server.wait_for("unloaded tiny 2")
        assert generate(server)[1].replica.digest == old
        assert server.log.count("serves ") == 2
        assert "not served" not in server.log


async def test_a_lazy_server_loads_once_what_is_asked_for(tiny_files: Files, tmp_path: Path) -> None:
    put(tmp_path / "one", tiny_files)
    put(tmp_path / "unused", tiny_files, name="unused")
    put(tmp_path / "two", tiny_files, version="2")
    put(tmp_path / "bad", tiny_files, name="bad")
    damage(tmp_path / "two")
    damage(tmp_path / "bad")
    with serving(tmp_path, "--load", "lazy") as server:
        listed = models(server)
        assert {model.state for model in listed.values()} == {pb.MODEL_STATE_NOT_LOADED}
        assert {model.numerics for model in listed.values()} == {""}
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)
            request = pb.GenerateRequest(model="tiny", seed=1, max_chars=40)
            texts = await asyncio.gather(*(read(stub.Generate(request)) for _ in range(20)))
        assert len({text for text, _ in texts}) == 1
        # Version 2 is not what it says, so 1 serves.
        assert server.count("not served", 1) == 1
        assert server.count("serves ", 1) == server.count("serves tiny 1 ", 1) == 1
        with refused(PRECONDITION, "bad 1 cannot be loaded"):
            generate(server, model="bad")
        states = {
            name: pb.ModelState.Name(model.state)[len("MODEL_STATE_") :] for name, model in models(server).items()
        }
        assert states == {"tiny@1": "LOADED", "tiny@2": "FAILED", "unused@1": "NOT_LOADED", "bad@1": "FAILED"}


NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def three(tiny_files: Files, tmp_path: Path) -> tuple[Path, str]:
    """A folder with three models, and --model-memory for two."""
    for name in NAMES:
        put(tmp_path / name, tiny_files, name=name)
    one = memory_of(tiny_files[0], ServerSettings(precision="fp32", engines="0"))
    return tmp_path, str(2.5 * one / 1e6)


def seconds_loaded(server: ServerProcess) -> list[float]:
    """Of each model that was unloaded, by the log."""
    since: dict[str, datetime] = {}
    seconds = []
    for when, what, name in re.findall(r"^(\S+ \S+) INFO \S+ (serves|unloaded) (\w+) ", server.log, re.MULTILINE):
        time = datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f")
        if what == "serves":
            since[name] = time
        else:
            seconds.append((time - since[name]).total_seconds())
    return seconds


async def test_three_models_take_turns_in_room_for_two(three: tuple[Path, str]) -> None:
    folder, megabytes = three
    with serving(folder, "--model-memory", megabytes) as server:
        assert server.count("serves ", 2) == 2
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)

            async def ask_in_turn(first: int) -> list[str]:
                names = [NAMES[(first + turn) % 3] for turn in range(3)]
                requests = [pb.GenerateRequest(model=name, seed=1, max_chars=200) for name in names]
                return [(await read(stub.Generate(request)))[0] for request in requests]

            texts = await asyncio.gather(*map(ask_in_turn, range(12)))
        assert len({text for asked in texts for text in asked}) == 1
        # Of 36 calls.
        assert 3 <= server.count("serves ", 3) <= 8
        server.wait_for("unloaded ")
        assert min(seconds_loaded(server)) >= STAYS_SECONDS - 0.1
        assert sum(model.state == pb.MODEL_STATE_LOADED for model in models(server).values()) <= 2


async def test_a_model_that_finds_no_room_is_refused_and_has_it_later(three: tuple[Path, str]) -> None:
    folder, megabytes = three
    with serving(folder, "--model-memory", megabytes, "--max-wait", "2") as server:
        async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
            stub = rpc.TextGenerationStub(channel)
            held = [stub.Generate(pb.GenerateRequest(model=name, max_chars=1_000_000)) for name in NAMES[:2]]
            for call in held:
                await call.read()
            with refused(EXHAUSTED, "gamma 1 was not loaded in 2 s", "--model-memory") as error:
                await read(stub.Generate(pb.GenerateRequest(model="gamma")))
            assert detail(error[0], error_details_pb2.RetryInfo).retry_delay.seconds == 1
            held[0].cancel()
            async with asyncio.timeout(30):
                while not await accepted(stub, "gamma"):
                    pass
        server.wait_for("unloaded alpha")


async def accepted(stub: rpc.TextGenerationStub, model: str) -> bool:
    try:
        await read(stub.Generate(pb.GenerateRequest(model=model)))
    except grpc.aio.AioRpcError:
        return False
    return True


def test_a_model_larger_than_all_memory_is_named(bundles: Path) -> None:
    server = start_server(bundles, *FLAGS, "--model-memory", "1")
    try:
        assert server.wait(30) == 1
        server.wait_for(r"not served: \S+tiny: it may take \d+ MB, more than --model-memory, 1 MB")
        server.wait_for("holds no bundle that can be served")
    finally:
        stop(server)


def test_versions_sort_as_people_count() -> None:
    ordered = ["1", "1.2", "1.2-rc1", "1.9", "1.10", "2024-01-31", "2024-11-01", "a9", "a10", "b"]
    assert sorted(random.sample(ordered, len(ordered)), key=version_order) == ordered
