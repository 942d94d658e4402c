"""Single steps through the Open Inference Protocol: with the state at the caller, and kept as a sequence."""

import asyncio
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from bundle.manifest import Manifest
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.access.authentication import token_line
from tests.conftest import ASCII, ServerProcess, ready, start_server, stop

START, STEPS = 0, 40
STATE = ("h0", "c0", "h1", "c1")
TOKENS = {"ann": "a" * 40, "bob": "b" * 40}


def given(name: str, array: NDArray[Any], datatype: str = "FP32") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def token(*numbers: int) -> triton.InferInput:
    return given("token", np.array(numbers, np.int64), "INT64")


def greedy_text(stub: pb_grpc.TextGenerationStub, prompt: str = "") -> str:
    request = pb.GenerateRequest(prompt=prompt, max_chars=STEPS, sampling=pb.Sampling(temperature=0))
    return "".join(message.text for message in stub.Generate(request))


def choose(result: Any, row: int = 0) -> int:
    return int(result.as_numpy("logits")[row].argmax())


def continue_text(client: triton.InferenceServerClient, prompt: str, sequence: int | str, **options: Any) -> str:
    """The greedy text that single steps of a sequence come to."""
    result = client.infer("tiny.step", [token(START)], sequence_id=sequence, sequence_start=True, **options)
    for char in prompt:
        result = client.infer("tiny.step", [token(ASCII.index(char))], sequence_id=sequence, **options)
    text = ""
    for number in range(STEPS):
        text += ASCII[choose(result)]
        last = number == STEPS - 1
        step = [token(ASCII.index(text[-1]))]
        result = client.infer("tiny.step", step, sequence_id=sequence, sequence_end=last, **options)
    return text


def test_steps_come_to_the_text_of_generate(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    """Two rows, of which each has its own state; the state is the caller's."""
    prompts, texts = ("To be", "Hello"), ["", ""]
    result = client.infer("tiny.step", [token(START, START)])
    for number in range(len(prompts[0]) + STEPS):
        rows = []
        for row, prompt in enumerate(prompts):
            chosen = ASCII.index(prompt[number]) if number < len(prompt) else choose(result, row)
            texts[row] += ASCII[chosen]
            rows.append(chosen)
        state = [given(name, result.as_numpy(f"{name}_next")) for name in STATE]
        result = client.infer("tiny.step", [token(*rows), *state])
    assert texts == [prompt + greedy_text(stub, prompt) for prompt in prompts]
    assert result.as_numpy("logits").shape == (2, len(ASCII))


def test_a_sequence_keeps_its_state_here(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    """By number and by name; the state comes back only if it is asked for; what has ended is gone."""
    for sequence in (7, "seven"):
        assert continue_text(client, "Hello", sequence) == greedy_text(stub, "Hello")
        with pytest.raises(InferenceServerException, match="begin it again with sequence_start") as caught:
            client.infer("tiny.step", [token(START)], sequence_id=sequence)
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    plain = client.infer("tiny.step", [token(START)], sequence_id=9, sequence_start=True)
    assert [output.name for output in plain.get_response().outputs] == ["logits"]
    asked = client.infer(
        "tiny.step", [token(START)], sequence_id=9, outputs=[triton.InferRequestedOutput("h0_next")], sequence_end=True
    )
    assert [output.name for output in asked.get_response().outputs] == ["h0_next"]


def test_a_sequence_may_begin_with_a_state(client: triton.InferenceServerClient) -> None:
    first = client.infer("tiny.step", [token(START)])
    state = [given(name, first.as_numpy(f"{name}_next")) for name in STATE]
    expected = client.infer("tiny.step", [token(5), *state]).as_numpy("logits")
    begun = client.infer("tiny.step", [token(5), *state], sequence_id=3, sequence_start=True, sequence_end=True)
    assert (begun.as_numpy("logits") == expected).all()


def test_sequences_on_one_stream_keep_their_order(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    """All steps are sent before the first answer comes."""
    texts = {number: prompt + greedy_text(stub, prompt) for number, prompt in ((1, "To be"), (2, "Hello"))}
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for place in range(len(texts[1])):
        for sequence, text in texts.items():
            char = ASCII[START] if place == 0 else text[place - 1]
            client.async_stream_infer(
                "tiny.step",
                [token(ASCII.index(char))],
                sequence_id=sequence,
                sequence_start=place == 0,
                request_id=f"{sequence} {place}",
            )
    client.stop_stream()
    assert answers.qsize() == 2 * len(texts[1])
    for result in answers.queue:
        sequence, place = map(int, result.get_response().id.split())
        assert result.get_response().parameters["triton_final_response"].bool_param
        if place >= 5:
            assert ASCII[choose(result)] == texts[sequence][place]


async def test_what_shares_a_run_has_the_bits_that_it_has_alone(server: ServerProcess) -> None:
    generator = np.random.default_rng(0)
    states = [generator.uniform(-1, 1, (len(STATE), 1, 64)).astype(np.float32) for _ in range(64)]
    requests = [
        [token(number), *(given(name, state[place]) for place, name in enumerate(STATE))]
        for number, state in enumerate(states)
    ]
    async with aio.InferenceServerClient(server.address) as client:
        alone = [(await client.infer("tiny.step", request)).as_numpy("logits") for request in requests]
        together = await asyncio.gather(*(client.infer("tiny.step", request) for request in requests))
    assert all((one == other.as_numpy("logits")).all() for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("tensors", "options", "says"),
    [
        ([], {}, "token: is missing"),
        ([token(96)], {}, "token: is 96, allowed are 0 to 95"),
        ([token(-1)], {}, "token: is -1"),
        ([given("token", np.zeros(1, np.float32))], {}, "token: has the datatype FP32, INT64 is expected"),
        ([given("token", np.zeros((1, 2), np.int64), "INT64")], {}, "token: has the shape [1, 2], [B] is expected"),
        ([token(*range(90))], {"sequence_id": 4}, "token: has 90 rows, a sequence has one"),
        ([given("token", np.zeros(300, np.int64), "INT64")], {}, "token: has 300 rows, allowed are 1 to 256"),
        (
            [token(1), given("h0", np.zeros((1, 64), np.float32))],
            {},
            "c0: is missing: the state is all of h0, c0, h1, c1",
        ),
        (
            [token(1), *(given(name, np.zeros((1, 63), np.float32)) for name in STATE)],
            {},
            "h0: has the shape [1, 63], [1, 64] is expected",
        ),
        (
            [token(1), *(given(name, np.full((1, 64), np.nan, np.float32)) for name in STATE)],
            {},
            "h0: has numbers that are not finite",
        ),
        ([token(1), given("x", np.zeros((1, 64), np.float32))], {}, "x: is no input of this step"),
        ([token(1)], {"parameters": {"temperature": 1.0}}, "temperature: is no parameter of a step"),
        ([token(1)], {"sequence_id": "x" * 129}, "sequence_id: has 129 characters"),
        (
            [token(1), *(given(name, np.zeros((1, 64), np.float32)) for name in STATE)],
            {"sequence_id": 4},
            "sequence_id: is held here",
        ),
        ([token(1)], {"model_version": "2"}, "tiny@2"),
        ([token(1)], {"outputs": [triton.InferRequestedOutput("text_output")]}, "'text_output' is no output"),
    ],
)
def test_what_is_wrong_is_said_by_name(
    client: triton.InferenceServerClient, tensors: list[Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny.step", tensors, **options)
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def small_server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Holds six sequences of "tiny"; knows Ann and Bob, who may have two texts open."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("".join(token_line(name, secret) for name, secret in TOKENS.items()))
    tokens.chmod(0o600)
    limits = ("--sequence-memory", "0.0062", "--identity-streams", "2")
    process = start_server(bundles, "--precision", "fp32", "--tokens", str(tokens), *limits)
    yield ready(process)
    stop(process)


def headers(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[name]}"}


def test_a_full_store_takes_from_who_holds_most_and_says_so(small_server: ServerProcess) -> None:
    with triton.InferenceServerClient(small_server.address) as client:

        def step(name: str, sequence: int, **options: Any) -> Any:
            return client.infer("tiny.step", [token(1)], sequence_id=sequence, headers=headers(name), **options)

        for sequence in (1, 2, 3):
            step("ann", sequence, sequence_start=True)
        for sequence in range(1, 20):  # Bob's own numbers, some of them Ann's too
            step("bob", sequence, sequence_start=True)
        step("ann", 2)
        step("bob", 19)
        with pytest.raises(InferenceServerException, match=r"sequence_id: 1 was evicted: newer .*--sequence-memory"):
            step("bob", 1)
        step("ann", 3)


async def test_who_calls_and_what_one_may_have_hold_for_this_door(small_server: ServerProcess) -> None:
    async with aio.InferenceServerClient(small_server.address) as client:
        for model, tensors in (("tiny.step", [token(1)]), ("tiny", [])):
            with pytest.raises(InferenceServerException) as caught:
                await client.infer(model, tensors)
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"

        async def requests() -> Any:
            for number in range(4):
                text = triton.InferInput("text_input", [1], "BYTES")
                text.set_data_from_numpy(np.array([b"a"], np.object_))
                yield {
                    "model_name": "tiny",
                    "inputs": [text],
                    "request_id": str(number),
                    "parameters": {"max_chars": 20_000},
                }

        errors = [
            str(error)
            async for _, error in client.stream_infer(requests(), headers=headers("ann"))
            if error is not None
        ]
    assert len(errors) == 2
    assert all("ann: 2 texts are running and waiting, the limit (--identity-streams)" in error for error in errors)


def test_a_step_model_is_no_bundle(server: ServerProcess, tiny_files: tuple[Manifest, dict[str, bytes]]) -> None:
    with grpc.insecure_channel(server.address) as channel:
        names = [model.name for model in pb_grpc.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models]
    assert names == ["tiny"]
