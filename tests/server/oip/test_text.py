"""Texts through the Open Inference Protocol, with NVIDIA's own client."""

import base64
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc
from tests.conftest import ServerProcess
from tests.server.oip.triton import count_final, inputs, result_text, tensor

Answers = "queue.Queue[tuple[Any, Exception | None]]"
WAIT_SECONDS = 60
# The same options as tensors, and as our own message has them.
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.0}, {"sampling": {"temperature": 0.0}}),
    ({"top_k": 5, "min_p": 0.01}, {"sampling": {"top_k": 5, "min_p": 0.01}}),
    ({"top_p": 0.5, "allowed": "abcdef \n"}, {"sampling": {"top_p": 0.5, "allowed": "abcdef \n"}}),
    ({"banned": "}2F", "bias": '{"a": 2.5}'}, {"sampling": {"banned": "}2F", "bias": {"of": {"a": 2.5}}}}),
    ({"stop": ["FF", "22"], "min_chars": 20, "include_stop": True},) * 2,
    ({"echo": True, "continuation": 3},) * 2,
    (
        {"repeat_max_period": 8, "repeat_times": 3, "repeat_min_period": 1, "temperature": 0.3},
        {"stop_on_repeat": {"max_period": 8, "times": 3, "min_period": 1}, "sampling": {"temperature": 0.3}},
    ),
    ({"max_chunk_chars": 3, "received": "ab"}, {"chunking": {"max_chars": 3}, "received": "ab"}),
    ({"unknown": "skip", "text_input": "café"}, {"unknown": pb.UNKNOWN_SKIP, "prompt": "café"}),
]


@contextmanager
def stream(client: triton.InferenceServerClient) -> Iterator[Answers]:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        yield answers
    finally:
        client.stop_stream()


def take(answers: Answers) -> Any:
    result, error = answers.get(timeout=WAIT_SECONDS)
    if error:
        raise error
    return result


def take_text(answers: Answers) -> list[Any]:
    """The responses to the one request that is open."""
    results = [take(answers)]
    while not count_final(results)[-1]:
        results.append(take(answers))
    return results


def ask(text: str, fields: dict[str, Any]) -> list[Any]:
    return inputs(**{"text_input": text, **fields})


def our_text(stub: pb_grpc.TextGenerationStub, **fields: Any) -> str:
    return "".join(message.text for message in stub.Generate(pb.GenerateRequest(**fields)))


@pytest.mark.parametrize(("fields", "ours"), OPTIONS)
def test_each_door_gives_the_same_text(
    client: triton.InferenceServerClient,
    stub: pb_grpc.TextGenerationStub,
    fields: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    same = {"seed": 2**64 - 3, "max_chars": 200}
    expected = our_text(stub, **{"prompt": "To be, ", **same, **ours})
    given = ask("To be, ", {**same, **fields})
    whole = client.infer("tiny", given)
    with stream(client) as answers:
        client.async_stream_infer("tiny", given)
        parts = take_text(answers)
    assert result_text(whole) == "".join(map(result_text, parts)) == expected
    assert whole.as_numpy("seed").tolist() == [2**64 - 3]
    assert whole.as_numpy("finish_reason").tolist() == parts[-1].as_numpy("finish_reason").tolist()


def test_options_may_be_parameters(client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub) -> None:
    """Other servers' names for them, too."""
    given = {"temperature": 0.5, "top_k": 9, "seed": 7, "max_tokens": 50, "stop": "FF", "echo": True, "bias": '{"a":1}'}
    sampling = {"temperature": 0.5, "top_k": 9, "bias": {"of": {"a": 1}}}
    expected = our_text(stub, prompt="Hello", sampling=sampling, seed=7, max_chars=50, stop=["FF"], echo=True)
    assert result_text(client.infer("tiny", inputs("Hello"), parameters=given)) == expected


def test_a_text_goes_on_by_its_token(client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub) -> None:
    """Through the other door, as tensor, and as parameter."""
    expected = our_text(stub, prompt="Hello", seed=7, max_chars=90)
    begin = client.infer("tiny", inputs("Hello", seed=7, max_chars=40, return_token=True))
    token = begin.as_numpy("resume_token")[0]
    rest = our_text(stub, resume_token=token, max_chars=50)
    assert result_text(begin) + rest == expected
    assert result_text(client.infer("tiny", inputs("", resume_token=token, max_chars=50))) == rest
    as_text = {"resume_token": base64.b64encode(token).decode(), "max_chars": 50}
    assert result_text(client.infer("tiny", inputs(""), parameters=as_text)) == rest


def test_checkpoints_come_on_a_stream(client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub) -> None:
    expected = our_text(stub, prompt="Hello", seed=7, max_chars=400)
    with stream(client) as answers:
        client.async_stream_infer("tiny", inputs("Hello", seed=7, max_chars=400, checkpoint_chars=100))
        results = take_text(answers)
    place = next(result for result in results if result.as_numpy("checkpoint_token") is not None)
    token, read = place.as_numpy("checkpoint_token")[0], int(place.as_numpy("checkpoint_text_chars")[0])
    rest = client.infer("tiny", inputs("", resume_token=token, max_chars=400 - read))
    assert expected[:read] + result_text(rest) == expected


def test_log_probabilities_are_those_of_our_own_call(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    messages = list(stub.Generate(pb.GenerateRequest(prompt="Hello", seed=7, max_chars=30, logprobs=3, n=2)))
    chosen = [[x for m in messages if m.index == index for x in m.logprobs.chosen] for index in (0, 1)]
    whole = client.infer("tiny", inputs("Hello", seed=7, max_chars=30, logprobs=3, n=2))
    assert whole.as_numpy("logprobs").tolist() == chosen[0] + chosen[1]
    assert whole.as_numpy("top_logprobs").shape == (60, 3)
    best = [place.chars for m in messages if m.index == 0 for place in m.logprobs.alternatives]
    assert [chars.decode() for chars in whole.as_numpy("top_chars")[:30]] == best


def test_several_continuations_are_one_answer(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    texts = [our_text(stub, prompt="Hello", seed=7, max_chars=30, continuation=index) for index in range(3)]
    whole = client.infer("tiny", inputs("Hello", seed=7, max_chars=30, n=3))
    assert [text.decode() for text in whole.as_numpy("text_output")] == texts
    with stream(client) as answers:
        client.async_stream_infer("tiny", inputs("Hello", seed=7, max_chars=30, n=3))
        parts = take_text(answers)
    for index, text in enumerate(texts):
        assert "".join(result_text(part) for part in parts if part.as_numpy("index")[0] == index) == text
    assert answers.empty()


def test_the_last_response_is_marked_or_followed_by_an_empty_one(client: triton.InferenceServerClient) -> None:
    with stream(client) as answers:
        client.async_stream_infer("tiny", inputs("a", max_chars=200), request_id="plain")
        plain = take_text(answers)
        client.async_stream_infer("tiny", inputs("a", max_chars=200), request_id="x", enable_empty_final_response=True)
        asked = take_text(answers)
        client.async_stream_infer("tiny", inputs("a", max_chars=200, streaming=False))
        (whole,) = take_text(answers)
    assert len(plain) > 1
    assert result_text(plain[-1])
    assert plain[-1].as_numpy("finish_reason").tolist() == [b"length"]
    assert {result.get_response().id for result in plain} == {"plain"}
    assert not asked[-1].get_response().outputs
    assert asked[-1].get_response().id == "x"
    assert asked[-2].as_numpy("finish_reason").tolist() == [b"length"]
    assert len(result_text(whole)) == 200


def test_requests_of_a_stream_run_side_by_side_and_a_bad_one_ends_none(
    client: triton.InferenceServerClient, stub: pb_grpc.TextGenerationStub
) -> None:
    prompts = [f"Text {number} begins " for number in range(12)]
    with stream(client) as answers:
        for number, prompt in enumerate(prompts):
            client.async_stream_infer("tiny", inputs(prompt, seed=1, max_chars=3000), request_id=str(number))
            if number % 4 == 1:
                client.async_stream_infer("tiny", inputs("é", max_chars=5))
        texts, ends, errors, order = dict.fromkeys(map(str, range(12)), ""), 0, [], []
        while ends < 12 or len(errors) < 3:
            result, error = answers.get(timeout=WAIT_SECONDS)
            if error:
                errors.append(str(error))
                continue
            name = result.get_response().id
            texts[name] += result_text(result)
            order.append(name)
            ends += count_final([result])[0]
    assert all("'é'" in error for error in errors)
    assert len(errors) == 3
    assert order.index("11") < len(order) - 1 - order[::-1].index("0"), "one after the other"
    for number, prompt in enumerate(prompts):
        assert texts[str(number)] == our_text(stub, prompt=prompt, seed=1, max_chars=3000)


def test_a_cancelled_stream_frees_its_rows(server: ServerProcess, client: triton.InferenceServerClient) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for _ in range(3):
        client.async_stream_infer("tiny", inputs("a", max_chars=100_000))
    take(answers)
    with grpc.insecure_channel(server.address) as channel:
        models = pb_grpc.ModelsStub(channel)
        end = time.monotonic() + WAIT_SECONDS
        while models.GetModel(pb.GetModelRequest(name="tiny")).texts != 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        client.stop_stream(cancel_requests=True)
        while models.GetModel(pb.GetModelRequest(name="tiny")).texts:
            assert time.monotonic() < end
            time.sleep(0.02)
    errors = [error for _, error in answers.queue if error]
    assert errors[-1].status() == "StatusCode.CANCELLED"


async def test_the_asyncio_client_streams(server: ServerProcess, stub: pb_grpc.TextGenerationStub) -> None:
    expected = our_text(stub, prompt="Hello", seed=7, max_chars=300)

    async def requests() -> Any:
        yield {"model_name": "tiny", "inputs": inputs("Hello", seed=7, max_chars=300), "request_id": "r"}

    async with aio.InferenceServerClient(server.address) as client:
        assert result_text(await client.infer("tiny", inputs("Hello", seed=7, max_chars=300))) == expected
        results = [result async for result, error in client.stream_infer(requests()) if error is None]
    assert "".join(map(result_text, results)) == expected


def test_contents_are_typed_if_they_came_typed(server: ServerProcess) -> None:
    """As KServe's clients send them, and only the outputs that were named."""
    text = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"Hello")
    seed = oip.ModelInferRequest.InferInputTensor(name="seed", datatype="UINT64", shape=[1])
    seed.contents.uint64_contents.append(7)
    request = oip.ModelInferRequest(model_name="tiny", model_version="1", inputs=[text, seed], id="k")
    for name in ("seed", "text_output"):
        request.outputs.add(name=name)
    with grpc.insecure_channel(server.address) as channel:
        response = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)  # type: ignore[no-untyped-call]
        assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "k")
        assert not response.raw_output_contents
        text_output, seed_output = response.outputs
        assert len(text_output.contents.bytes_contents[0]) == 256
        assert list(seed_output.contents.uint64_contents) == [7]


def typed(name: str, datatype: str, shape: Sequence[int], **contents: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


TEXT = typed("text_input", "BYTES", [1], bytes_contents=[b"a"])


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"inputs": []}, "INVALID_ARGUMENT", "text_input: is missing"),
        ({"inputs": [TEXT, TEXT]}, "INVALID_ARGUMENT", "'text_input' is there twice"),
        ({"inputs": [TEXT], "parameters": {"text_input": {"string_param": "b"}}}, "INVALID_ARGUMENT", "is given twice"),
        ({"model_name": "huge", "inputs": [TEXT]}, "NOT_FOUND", "'huge' is not served; served are tiny"),
        ({"model_version": "9", "inputs": [TEXT]}, "NOT_FOUND", "tiny@9"),
        (
            {"inputs": [TEXT, typed("temprature", "FP32", [1], fp32_contents=[1])]},
            "INVALID_ARGUMENT",
            "'temprature': is no input of a text model",
        ),
        ({"inputs": [TEXT], "parameters": {"topk": {"int64_param": 1}}}, "INVALID_ARGUMENT", "'topk': is no parameter"),
        (
            {"inputs": [TEXT, typed("temperature", "BYTES", [1], bytes_contents=[b"1"])]},
            "INVALID_ARGUMENT",
            "temperature: has the datatype BYTES, FP32 is expected",
        ),
        (
            {"inputs": [TEXT, typed("echo", "INT32", [1], int_contents=[1])]},
            "INVALID_ARGUMENT",
            "echo: has the datatype INT32, BOOL is expected",
        ),
        (
            {"inputs": [TEXT], "parameters": {"echo": {"string_param": "true"}}},
            "INVALID_ARGUMENT",
            "echo: is a string_param, bool_param is expected",
        ),
        (
            {"inputs": [TEXT, typed("top_k", "INT32", [1], int_contents=[-1])]},
            "INVALID_ARGUMENT",
            "top_k: is -1, which is out of range",
        ),
        (
            {"inputs": [TEXT, typed("top_k", "INT32", [2], int_contents=[1, 2])]},
            "INVALID_ARGUMENT",
            "top_k: has the shape [2], one element is expected",
        ),
        (
            {"inputs": [TEXT, typed("top_k", "INT32", [3], int_contents=[1])]},
            "INVALID_ARGUMENT",
            "top_k: has 1 elements, 3 are expected by its shape [3]",
        ),
        (
            {"inputs": [TEXT, typed("top_k", "INT32", [1], int64_contents=[1])]},
            "INVALID_ARGUMENT",
            "contents.int_contents is expected, int64_contents came",
        ),
        (
            {"inputs": [TEXT, typed("top_k", "INT32", [-1], int_contents=[1])]},
            "INVALID_ARGUMENT",
            "sizes from 0 are expected",
        ),
        ({"inputs": [TEXT, typed("seed", "QUAD", [1])]}, "INVALID_ARGUMENT", "has the datatype 'QUAD'"),
        ({"inputs": [TEXT], "raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "has 2 parts, and the request 1"),
        ({"inputs": [TEXT], "raw_input_contents": [b"\1\0\0\0a"]}, "INVALID_ARGUMENT", "give one of them"),
        (
            {"inputs": [{**TEXT, "contents": None}], "raw_input_contents": [b"\5\0\0\0a"]},
            "INVALID_ARGUMENT",
            "ends inside an element",
        ),
        (
            {"inputs": [{**TEXT, "contents": None}], "raw_input_contents": [b"\1\0\0\0\xff"]},
            "INVALID_ARGUMENT",
            "text_input: is no UTF-8: byte 0 is 0xff",
        ),
        (
            {"inputs": [{**TEXT, "parameters": {"shared_memory_region": {"string_param": "x"}}}]},
            "INVALID_ARGUMENT",
            "there is no shared memory here",
        ),
        ({"inputs": [TEXT], "outputs": [{"name": "text"}]}, "INVALID_ARGUMENT", "'text' is no output of the model"),
        (
            {"inputs": [TEXT], "outputs": [{"name": "seed", "parameters": {"classification": {"int64_param": 1}}}]},
            "INVALID_ARGUMENT",
            "'classification'",
        ),
        (
            {"inputs": [TEXT], "parameters": {"sequence_id": {"int64_param": 1}}},
            "INVALID_ARGUMENT",
            "is for step models",
        ),
        (
            {"inputs": [TEXT], "parameters": {"bias": {"string_param": "[1]"}}},
            "INVALID_ARGUMENT",
            "bias: a JSON object",
        ),
        (
            {"inputs": [TEXT], "parameters": {"resume_token": {"string_param": "é"}}},
            "INVALID_ARGUMENT",
            "resume_token: is bytes, so as a parameter it is base64",
        ),
        ({"inputs": [TEXT], "parameters": {"streaming": {"bool_param": True}}}, "INVALID_ARGUMENT", "ModelStreamInfer"),
        (
            {"inputs": [TEXT], "parameters": {"time_limit": {"double_param": float("nan")}}},
            "INVALID_ARGUMENT",
            "time_limit: is nan s",
        ),
        (
            {"inputs": [TEXT], "parameters": {"timeout": {"string_param": "1"}}},
            "INVALID_ARGUMENT",
            "timeout: is a string",
        ),
        (
            {
                "inputs": [TEXT],
                "parameters": {
                    "max_chars": {"int64_param": 100_000},
                    "n": {"int64_param": 16},
                    "logprobs": {"int64_param": 9},
                },
            },
            "INVALID_ARGUMENT",
            "use ModelStreamInfer, or ask for less",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(server: ServerProcess, fields: dict[str, Any], code: str, says: str) -> None:
    """And the stream on which it came lives on."""
    request = oip.ModelInferRequest(**{"model_name": "tiny", "id": "w", **fields})
    good = oip.ModelInferRequest(model_name="tiny", inputs=[oip.ModelInferRequest.InferInputTensor(**TEXT)])
    with grpc.insecure_channel(server.address) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code().name == code
        assert says in caught.value.details()
        if "use ModelStreamInfer" in says or "answers once" in caught.value.details():
            return
        first, *others = stub.ModelStreamInfer(iter([request, good]))
        failed = first if first.error_message else next(one for one in others if one.error_message)
        assert says in failed.error_message
        assert failed.infer_response.id == "w"
        assert sum(bool(one.error_message) for one in [first, *others]) == 1
        assert len("".join(_typed_text(one) for one in [first, *others])) == 256


def _typed_text(response: oip.ModelStreamInferResponse) -> str:
    found = [output for output in response.infer_response.outputs if output.name == "text_output"]
    return b"".join(found[0].contents.bytes_contents).decode() if found else ""


def test_a_time_limit_may_be_tritons(client: triton.InferenceServerClient) -> None:
    whole = client.infer("tiny", inputs("a", max_chars=100_000), timeout=50_000)
    assert whole.as_numpy("finish_reason").tolist() == [b"deadline"]


def test_numbers_of_any_width_are_taken(client: triton.InferenceServerClient) -> None:
    narrow = triton.InferInput("max_tokens", [1, 1], "INT32")
    narrow.set_data_from_numpy(np.array([[9]], np.int32))
    assert len(result_text(client.infer("tiny", [*inputs("a"), narrow]))) == 9
    wide = tensor("temperature", [0.5], "FP64")
    assert client.infer("tiny", [*inputs("a"), wide]).as_numpy("finish_reason").tolist() == [b"length"]
