"""Texts that come out of a real server are those of the torch reference, whatever happens around them."""

import asyncio
import random

import grpc
import pytest

from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess
from tests.server.reference import assert_is_reference, reference

# So that what lies in the network is small against the text.
SMALL_WINDOWS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
PROMPTS = ("", "H", "Hello, ", "To be, or not to be: " * 4)


async def read(call: "grpc.aio.UnaryStreamCall", pause: float = 0.0) -> tuple[str, pb.Finish]:
    text, finish = "", None
    while (response := await call.read()) is not grpc.aio.EOF:
        assert finish is None, "a message came after the last one"
        text += response.text
        finish = response.finish if response.HasField("finish") else None
        await asyncio.sleep(pause)
    assert finish is not None, "no message had the finish"
    return text, finish


def random_request(rng: random.Random) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        prompt=rng.choice(PROMPTS),
        max_chars=rng.choice((1, 2, 30, 150, 400)),
        seed=rng.choice((0, 1, 2**32, 2**64 - 1)) ^ rng.randrange(1000),
        sampling=pb.Sampling(temperature=rng.choice((0.0, 0.3, 1.0, 1.8))),
        chunking=pb.Chunking(max_chars=rng.choice((1, 3, 64))) if rng.random() < 0.5 else None,
    )


async def test_32_streams_that_join_leave_are_cancelled_and_read_slowly(server: ServerProcess, tiny: Trained) -> None:
    checked = 0
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)

        async def disturb(seed: int) -> None:
            own = random.Random(seed)
            for _ in range(4):
                request = random_request(own)
                request.max_chars = 5000
                call = stub.Generate(request)
                for _ in range(own.randrange(4)):
                    await call.read()
                call.cancel()
                await asyncio.sleep(own.random() * 0.02)

        async def one(seed: int) -> None:
            nonlocal checked
            own = random.Random(seed)
            await asyncio.sleep(own.random() * 0.3)
            for _ in range(3):
                request = random_request(own)
                pause = own.choice((0, 0, 0.01))
                text, finish = await read(stub.Generate(request), pause)
                assert_is_reference(tiny, request, text)
                assert finish.reason == pb.FINISH_REASON_LENGTH
                assert finish.generated_chars == len(text) == request.max_chars
                assert finish.prompt_chars == len(request.prompt)
                checked += 1

        await asyncio.gather(*map(one, range(24)), *map(disturb, range(8)))
    assert checked == 72


async def test_more_streams_than_one_batch_take_turns(small_server: ServerProcess, tiny: Trained) -> None:
    async with grpc.aio.insecure_channel(small_server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        requests = [
            pb.GenerateRequest(prompt="ab" * (seed % 3), max_chars=20 + 7 * seed, seed=seed) for seed in range(20)
        ]
        texts = await asyncio.gather(*(read(stub.Generate(request)) for request in requests))
    for request, (text, _) in zip(requests, texts, strict=True):
        assert_is_reference(tiny, request, text)


async def test_slow_reader_pauses_and_loses_nothing(server: ServerProcess, tiny: Trained) -> None:
    request = pb.GenerateRequest(max_chars=60_000, seed=5)
    async with grpc.aio.insecure_channel(server.address, SMALL_WINDOWS) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        call = stub.Generate(request)
        first = await call.read()
        await asyncio.sleep(6)
        quick, _ = await read(stub.Generate(pb.GenerateRequest(max_chars=300, seed=6)))
        rest, finish = await read(call)
    text = first.text + rest
    assert finish.timings.total_seconds > 6, "the whole text was generated while nobody read"
    assert len(text) == 60_000
    assert_is_reference(tiny, pb.GenerateRequest(max_chars=3000, seed=5), text[:3000])
    assert_is_reference(tiny, pb.GenerateRequest(max_chars=300, seed=6), quick)
    # Where the row was paused and went on, the text is that of a reader who never stopped.
    async with grpc.aio.insecure_channel(server.address) as channel:
        again, _ = await read(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert text == again


@pytest.mark.parametrize("chunk", [1, 7, None])
async def test_stop_string_ends_the_text_where_a_search_would(
    server: ServerProcess, tiny: Trained, chunk: int | None
) -> None:
    whole = reference(tiny, pb.GenerateRequest(prompt="abc", max_chars=400, seed=3))
    stop = whole[120:123]
    request = pb.GenerateRequest(prompt="abc", max_chars=400, seed=3, stop=["never, ever", stop])
    if chunk:
        request.chunking.max_chars = chunk
    async with grpc.aio.insecure_channel(server.address) as channel:
        text, finish = await read(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert text == whole[: whole.find(stop)]
    assert finish.reason == pb.FINISH_REASON_STOP
    assert finish.stop == stop
    assert finish.generated_chars == len(text)


async def test_stop_string_in_the_prompt_does_not_count(server: ServerProcess, tiny: Trained) -> None:
    request = pb.GenerateRequest(prompt="STOP", max_chars=50, seed=3, stop=["STOP"])
    async with grpc.aio.insecure_channel(server.address) as channel:
        text, _ = await read(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert_is_reference(tiny, request, text)


async def test_the_beginning_of_a_stop_string_is_sent_when_the_length_ends_the_text(
    server: ServerProcess, tiny: Trained
) -> None:
    whole = reference(tiny, pb.GenerateRequest(max_chars=40, seed=8))
    request = pb.GenerateRequest(max_chars=40, seed=8, stop=[whole[-2:] + "x"])
    async with grpc.aio.insecure_channel(server.address) as channel:
        text, finish = await read(pb_grpc.TextGenerationStub(channel).Generate(request))
    assert text == whole
    assert finish.reason == pb.FINISH_REASON_LENGTH


@pytest.mark.parametrize("temperature", [1e-5, 1.2e-38, 1e-44])
async def test_a_tiny_temperature_is_almost_greedy(server: ServerProcess, temperature: float) -> None:
    greedy = pb.GenerateRequest(max_chars=200, seed=1, sampling=pb.Sampling(temperature=0))
    tiny_temperature = pb.GenerateRequest(max_chars=200, seed=1, sampling=pb.Sampling(temperature=temperature))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        assert (await read(stub.Generate(tiny_temperature)))[0] == (await read(stub.Generate(greedy)))[0]


async def test_chosen_seed_repeats_the_text(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        text, finish = await read(stub.Generate(pb.GenerateRequest(max_chars=60)))
        other, _ = await read(stub.Generate(pb.GenerateRequest(max_chars=60)))
        again, _ = await read(stub.Generate(pb.GenerateRequest(max_chars=60, seed=finish.seed)))
    assert again == text
    assert other != text


async def test_chunks_keep_to_the_limits_asked_for(server: ServerProcess) -> None:
    request = pb.GenerateRequest(max_chars=500, seed=1, chunking=pb.Chunking(max_chars=5))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        sizes = [len(response.text) async for response in stub.Generate(request)]
        request = pb.GenerateRequest(max_chars=3000, seed=1)
        request.chunking.max_delay.FromMilliseconds(100)
        patient = [len(response.text) async for response in stub.Generate(request)]
        request.chunking.max_delay.FromMilliseconds(5)
        hasty = [len(response.text) async for response in stub.Generate(request)]
    assert max(sizes) <= 5
    assert sum(sizes) == 500
    assert sum(patient) == sum(hasty) == 3000
    assert len(patient) < len(hasty)


async def test_a_long_delay_holds_back_neither_full_messages_nor_the_end(small_server: ServerProcess) -> None:
    """3,000 characters with a window of 256 and ten seconds of patience do not take ten seconds."""
    request = pb.GenerateRequest(max_chars=3000, seed=1, chunking=pb.Chunking(max_chars=5))
    request.chunking.max_delay.FromSeconds(10)
    async with grpc.aio.insecure_channel(small_server.address) as channel:
        text, _ = await asyncio.wait_for(read(pb_grpc.TextGenerationStub(channel).Generate(request)), 9)
    assert len(text) == 3000


async def test_readers_that_do_not_read_hold_no_rows(small_server: ServerProcess, tiny: Trained) -> None:
    """Eight rows, and eight streams that nobody reads: the ninth is served all the same."""
    request = pb.GenerateRequest(max_chars=300, seed=4)
    async with grpc.aio.insecure_channel(small_server.address, SMALL_WINDOWS) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        stuck = [stub.Generate(pb.GenerateRequest(max_chars=1_000_000, seed=seed)) for seed in range(8)]
        for call in stuck:
            await call.read()
        async with grpc.aio.insecure_channel(small_server.address) as other:
            text, _ = await asyncio.wait_for(read(pb_grpc.TextGenerationStub(other).Generate(request)), 60)
        for call in stuck:
            call.cancel()
    assert_is_reference(tiny, request, text)


async def test_finish_times_are_in_order(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        _, finish = await read(pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(max_chars=200)))
    times = finish.timings
    assert 0 <= times.queue_seconds <= times.first_char_seconds <= times.total_seconds < 60
