"""What a caller gets wrong is answered with the field, what came and what is allowed; the server goes on."""

import asyncio
import math
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess
from tests.server.service.test_generate import read

R, S, C, P = pb.GenerateRequest, pb.Sampling, pb.Chunking, pb.Repeat

WRONG = {
    "unknown character": (R(prompt="na\u00efve"), "prompt", ["'\u00ef'", "U+00EF", "place 2"]),
    "no way with unknown characters": (R(prompt="a", unknown=9), "unknown", ["is 9", "UNKNOWN_SKIP"]),  # type: ignore[arg-type]
    "long prompt": (R(prompt="a" * 20_001), "prompt", ["20001", "20000"]),
    "negative temperature": (R(sampling=S(temperature=-1)), "sampling.temperature", ["-1", "0"]),
    "temperature NaN": (R(sampling=S(temperature=math.nan)), "sampling.temperature", ["nan"]),
    "temperature infinite": (R(sampling=S(temperature=math.inf)), "sampling.temperature", ["inf"]),
    "top_p 0": (R(sampling=S(top_p=0)), "sampling.top_p", ["is 0", "above 0 and at most 1"]),
    "top_p over 1": (R(sampling=S(top_p=1.25)), "sampling.top_p", ["1.25", "above 0 and at most 1"]),
    "top_p NaN": (R(sampling=S(top_p=math.nan)), "sampling.top_p", ["nan", "above 0 and at most 1"]),
    "negative min_p": (R(sampling=S(min_p=-0.5)), "sampling.min_p", ["-0.5", "from 0 to 1"]),
    "min_p over 1": (R(sampling=S(min_p=2)), "sampling.min_p", ["is 2", "from 0 to 1"]),
    "min_p NaN": (R(sampling=S(min_p=math.nan)), "sampling.min_p", ["nan", "from 0 to 1"]),
    "max_chars 0": (R(max_chars=0), "max_chars", ["0", "1 to 100000"]),
    "max_chars over the limit": (R(max_chars=100_001), "max_chars", ["100001", "100000"]),
    "empty stop": (R(stop=["a", ""]), "stop[1]", ["0 characters", "1 to"]),
    "long stop": (R(stop=["a" * 129]), "stop[0]", ["129", "128"]),
    "many stops": (R(stop=["a"] * 17), "stop", ["17", "16"]),
    "max_chars 0 with n": (R(n=3, max_chars=0), "max_chars", ["0", "1 to 100000"]),
    "n 0": (R(n=0), "n", ["is 0", "1 to 16"]),
    "many continuations": (R(n=17), "n", ["17", "1 to 16", "--max-continuations"]),
    "n and continuation": (R(n=2, continuation=1), "continuation", ["without `n`"]),
    "n and received": (R(n=2, received="a"), "received", ["`continuation`"]),
    "min_chars over max_chars": (R(min_chars=11, max_chars=10), "min_chars", ["11", "10"]),
    "no period": (R(stop_on_repeat=P(times=3)), "stop_on_repeat.max_period", ["is 0", "from 1"]),
    "once is no repetition": (
        R(stop_on_repeat=P(max_period=9, times=1)),
        "stop_on_repeat.times",
        ["is 1", "2 to 4096"],
    ),
    "many times": (R(stop_on_repeat=P(max_period=1, times=4097)), "stop_on_repeat.times", ["4097", "2 to 4096"]),
    "long repetition": (
        R(stop_on_repeat=P(max_period=1025, times=4)),
        "stop_on_repeat.max_period",
        ["1025", "1 to 1024"],
    ),
    "no such period": (
        R(stop_on_repeat=P(max_period=9, times=3, min_period=10)),
        "stop_on_repeat.min_period",
        ["is 10", "max_period, 9"],
    ),
    "many alternatives": (R(logprobs=21), "logprobs", ["21", "20"]),
    "frequent checkpoints": (R(checkpoint_chars=63), "checkpoint_chars", ["63", "64"]),
    "unknown allowed": (R(sampling=S(allowed="a\u00ef")), "sampling.allowed", ["U+00EF"]),
    "nothing allowed": (R(sampling=S(allowed="")), "sampling.allowed", ["no character"]),
    "all banned": (R(sampling=S(allowed="ab", banned="ba")), "sampling.allowed", ["no character"]),
    "long allowed": (R(sampling=S(allowed="ab" * 200)), "sampling.allowed", ["400", "384"]),
    "long banned": (R(sampling=S(banned="a" * 385)), "sampling.banned", ["385", "384"]),
    "unknown banned": (R(sampling=S(banned="\u00ef")), "sampling.banned", ["U+00EF"]),
    "bias of a word": (R(sampling=S(bias={"of": {"ab": 1}})), "sampling.bias", ["'ab'", "single"]),
    "bias of an unknown one": (R(sampling=S(bias={"of": {"\u00ef": 1}})), "sampling.bias", ["U+00EF"]),
    "large bias": (R(sampling=S(bias={"of": {"a": 101}})), "sampling.bias", ["'a'", "101", "-100 to 100"]),
    "bias NaN": (R(sampling=S(bias={"of": {"a": math.nan}})), "sampling.bias", ["'a'", "nan"]),
    "no time": (R(time_limit={}), "time_limit", ["0 s", "86400"]),
    "unknown received": (R(received="\u00ef"), "received", ["U+00EF"]),
    "long received": (R(received="a" * 20_001, max_chars=50_000), "received", ["20001", "20000"]),
    "more received than wanted": (R(received="abc", max_chars=2), "received", ["3", "2"]),
    "received is not the echo": (R(prompt="abc", received="abd", echo=True), "received", ["begins with the prompt"]),
    "no token": (R(resume_token=b"abc"), "resume_token", ["no token"]),
    "no characters in a chunk": (R(chunking=C(max_chars=0)), "chunking.max_chars", ["0"]),
}


def detail(error: Any, kind: type) -> Any:
    """The one detail of that kind in the error's google.rpc.Status."""
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    for found in status_pb2.Status.FromString(packed).details:
        message = kind()
        if found.Unpack(message):
            return message
    raise AssertionError(f"no {kind} in the details")


@pytest.mark.parametrize("case", WRONG)
def test_invalid_argument_names_field_and_values(server: ServerProcess, case: str) -> None:
    request, field, words = WRONG[case]
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    violation = detail(caught.value, error_details_pb2.BadRequest).field_violations[0]
    assert violation.field == field
    for word in words:
        assert word in violation.description
        assert word in caught.value.details()


LONG = {
    "model": R(model="\u20ac" * 5000),
    "digest": R(replica=pb.Replica(digest="\n" * 5000)),
    "bias": R(sampling=S(bias={"of": {"\u20ac" * 5000: 1}})),
}


@pytest.mark.parametrize("case", LONG)
def test_what_is_quoted_stays_short_enough_for_a_status(server: ServerProcess, case: str) -> None:
    """Clients refuse larger trailers, and would not learn what was wrong."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(pb_grpc.TextGenerationStub(channel).Generate(LONG[case]))
    assert caught.value.code() != grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "'..." in caught.value.details()
    assert len(caught.value.details()) < 500


def test_delay_out_of_range(server: ServerProcess) -> None:
    request = R()
    request.chunking.max_delay.FromMilliseconds(1)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert caught.value.details() == "chunking.max_delay: is 0.001 s, allowed are 0.005 to 10.0 s"


@pytest.mark.parametrize("rpc", ["Generate", "GetModel"])
def test_unknown_model(server: ServerProcess, rpc: str) -> None:
    def call(channel: grpc.Channel) -> object:
        if rpc == "Generate":
            return list(pb_grpc.TextGenerationStub(channel).Generate(R(model="shakespear")))
        return pb_grpc.ModelsStub(channel).GetModel(pb.GetModelRequest(name="shakespear"))

    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        call(channel)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "'shakespear'" in caught.value.details()
    assert "tiny" in caught.value.details()


def test_a_message_over_the_limit_is_refused(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(pb_grpc.TextGenerationStub(channel).Generate(R(prompt="a" * 2_000_000)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_full_queue_says_when_to_try_again_and_cancelled_streams_leave_it(small_server: ServerProcess) -> None:
    """Eight rows and twelve that wait: of 21 streams exactly one is refused, whichever comes last."""
    async with grpc.aio.insecure_channel(small_server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        calls = [asyncio.create_task(read(stub.Generate(R(max_chars=1_000_000)))) for _ in range(21)]
        (refused,), others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "20" in caught.value.details()
        assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.seconds == 1
        for call in others:
            call.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert await _accepted_within(stub, seconds=10)


async def _accepted_within(stub: pb_grpc.TextGenerationStub, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await read(stub.Generate(R(max_chars=1)))
        except grpc.aio.AioRpcError:
            continue
        return True
    return False


def test_model_is_described(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.ModelsStub(channel)
        (listed,) = stub.ListModels(pb.ListModelsRequest()).models
        model = stub.GetModel(pb.GetModelRequest(name="tiny"))
    assert listed == model
    assert (model.cell, model.layers, model.hidden, model.precision) == ("lstm", 2, 64, "fp32")
    assert model.vocabulary[0] == model.start_text == "\n"
    assert len(model.numerics) == 16
    assert model.training.validation_nats["carried"] == 4.5
