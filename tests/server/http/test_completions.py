"""/v1/completions as programs know it that were written for OpenAI: with their own client, none of ours."""

import asyncio
import base64
import math
from collections.abc import Iterator
from typing import Any

import grpc
import openai
import pytest

from benchmarks.correctness.doors import differences
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.web}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[pb_grpc.TextGenerationStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.TextGenerationStub(channel)


def text_of(stub: pb_grpc.TextGenerationStub, **fields: Any) -> str:
    return "".join(message.text for message in stub.Generate(pb.GenerateRequest(**fields)))


def test_a_text_is_the_one_that_grpc_gives_in_one_answer_or_streamed(
    client: openai.OpenAI, stub: pb_grpc.TextGenerationStub
) -> None:
    wanted = text_of(stub, prompt="To be, ", max_chars=300, seed=2**63 + 1, sampling=pb.Sampling(temperature=0.5))
    asked: Any = {"model": "tiny", "prompt": "To be, ", "max_tokens": 300, "seed": 2**63 + 1, "temperature": 0.5}
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == (wanted, "length", 0, None)
    assert whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (7, 300, 307)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *parts, counts = chunks
    assert "".join(part.choices[0].text for part in parts) == wanted
    assert len(parts) > 1
    assert {part.choices[0].finish_reason for part in parts[:-1]} == {None}
    assert parts[-1].choices[0].finish_reason == "length"
    assert {part.usage for part in parts} == {None}
    assert (counts.choices, counts.usage) == ([], whole.usage)
    assert len({(part.id, part.created, part.model) for part in chunks}) == 1
    with_numerics = {part.system_fingerprint for part in chunks}
    assert with_numerics == {whole.system_fingerprint}
    assert whole.system_fingerprint


async def test_the_asyncio_client_streams_several_at_a_time(
    server: ServerProcess, stub: pb_grpc.TextGenerationStub
) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://{server.web}/v1", api_key="none") as own:

        async def text(seed: int) -> str:
            chunks = await own.completions.create(model="tiny", prompt="a", max_tokens=200, seed=seed, stream=True)
            return "".join([chunk.choices[0].text async for chunk in chunks])

        found = await asyncio.gather(*map(text, range(16)))
    assert found == [text_of(stub, prompt="a", max_chars=200, seed=seed) for seed in range(16)]


def test_a_list_of_prompts_and_n_give_their_choices_in_order(
    client: openai.OpenAI, stub: pb_grpc.TextGenerationStub
) -> None:
    wanted = [
        text_of(stub, prompt=prompt, max_chars=40, seed=3, continuation=index) for prompt in "ab" for index in range(2)
    ]
    asked: Any = {"model": "tiny", "prompt": ["a", "b"], "n": 2, "max_tokens": 40, "seed": 3}
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in whole.choices] == wanted
    assert whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 160)
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == wanted


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_numbers_are_those_of_grpc_in_openais_form(
    client: openai.OpenAI, stub: pb_grpc.TextGenerationStub, streamed: bool
) -> None:
    ours = list(stub.Generate(pb.GenerateRequest(prompt="Oh", max_chars=50, seed=4, logprobs=3, echo=True)))
    chosen = [value for message in ours for value in message.logprobs.chosen]
    best = [dict(zip(place.chars, place.logprobs, strict=True)) for m in ours for place in m.logprobs.alternatives]
    asked: Any = {"model": "tiny", "prompt": "Oh", "max_tokens": 50, "seed": 4, "logprobs": 3, "echo": True}
    chunks = list(client.completions.create(**asked, stream=True)) if streamed else [client.completions.create(**asked)]
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text.startswith("Oh")
    assert len(text) == 52
    numbers = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]

    def all_of(name: str) -> list[Any]:
        return [value for one in numbers for value in getattr(one, name)]

    assert all_of("tokens") == list(text)
    assert all_of("token_logprobs") == pytest.approx(chosen)
    assert all_of("text_offset") == list(range(52))
    for found, char, own, others in zip(all_of("top_logprobs"), text, chosen, best, strict=True):
        assert found == pytest.approx({char: own} | others)


def test_sampling_stop_and_bias_mean_what_they_mean_over_grpc(
    client: openai.OpenAI, stub: pb_grpc.TextGenerationStub
) -> None:
    sampling = pb.Sampling(temperature=0.8, top_p=0.9, top_k=20, min_p=0.01, bias=pb.Bias(of={"e": 2, "Z": -50}))
    fields: Any = {"prompt": "x", "max_chars": 400, "seed": 11, "sampling": sampling, "stop": ["qu", "e"]}
    found = client.completions.create(
        model="tiny@1",
        prompt="x",
        max_tokens=400,
        seed=11,
        temperature=0.8,
        top_p=0.9,
        stop=["qu", "e"],
        logit_bias={"e": 2, "Z": -50},
        user="somebody",
        extra_body={"top_k": 20, "min_p": 0.01, "a field of another server": [1]},
    )
    assert found.choices[0].text == text_of(stub, **fields)
    assert found.choices[0].finish_reason == "stop"


def test_a_text_goes_on_from_a_token_across_doors(client: openai.OpenAI, stub: pb_grpc.TextGenerationStub) -> None:
    wanted = text_of(stub, prompt="To ", max_chars=600, seed=5)
    first = client.completions.create(
        model="tiny", prompt="To ", max_tokens=200, seed=5, extra_body={"charstream": {"return_token": True}}
    )
    token = first.choices[0].charstream["finish"]["resume_token"]  # type: ignore[attr-defined]
    second = list(
        stub.Generate(pb.GenerateRequest(resume_token=base64.b64decode(token), max_chars=200, return_token=True))
    )
    token = base64.b64encode(second[-1].finish.resume_token).decode()
    third = client.completions.create(
        model="", prompt="", max_tokens=200, stream=True, extra_body={"charstream": {"resume_token": token}}
    )
    rest = "".join(chunk.choices[0].text for chunk in third)
    assert first.choices[0].text + "".join(message.text for message in second) + rest == wanted


def test_checkpoints_come_and_received_text_is_gone_on_with(
    client: openai.OpenAI, stub: pb_grpc.TextGenerationStub
) -> None:
    wanted = text_of(stub, prompt="O", max_chars=2000, seed=6)
    chunks = client.completions.create(
        model="tiny", prompt="O", max_tokens=2000, seed=6, stream=True,
        extra_body={"charstream": {"checkpoint_chars": 100}},
    )  # fmt: skip
    text, place = "", None
    with chunks:
        for chunk in chunks:
            own = getattr(chunk.choices[0], "charstream", {})
            text += chunk.choices[0].text
            place = own.get("checkpoint", place)
            if place and len(text) > 1000:
                break
    assert place
    at = int(place["text_chars"])
    rest = client.completions.create(
        model="tiny", prompt="", max_tokens=2000 - at, seed=6,
        extra_body={"charstream": {"resume_token": place["resume_token"], "received": text[at:]}},
    )  # fmt: skip
    assert text + rest.choices[0].text == wanted


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "gpt-3.5-turbo-instruct"}, 404, "", "served are tiny"),
    ({"temperature": -1}, 400, "temperature", "allowed are finite numbers"),
    ({"max_tokens": 0}, 400, "max_tokens", "is 0, allowed are 1 to"),
    ({"max_tokens": "ten"}, 400, "max_tokens", "is 'ten'"),
    ({"max_tokens": 10**9}, 400, "max_tokens", "stream"),
    ({"prompt": [1, 2]}, 400, "prompt", "numbers of tokens"),
    ({"prompt": "café"}, 400, "prompt", "'é'"),
    ({"prompt": ["a"] * 17}, 400, "prompt", "has 17 prompts"),
    ({"n": 100}, 400, "n", "allowed are 1 to"),
    ({"n": 2**32 - 1}, 400, "n", "allowed are 1 to"),
    ({"seed": -1}, 400, "seed", "is '-1'"),
    ({"top_p": 0}, 400, "top_p", "above 0"),
    ({"logprobs": 21}, 400, "logprobs", "at most 20"),
    ({"logprobs": 20, "max_tokens": 90_000}, 400, "max_tokens", "ask for a stream"),
    ({"logit_bias": {"50256": -100}}, 400, "logit_bias", "single characters"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "punishes the letters"),
    ({"best_of": 3}, 400, "best_of", "logprobs"),
    ({"suffix": "the end"}, 400, "suffix", "one direction"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream"),
    ({"stop": [""]}, 400, "stop[0]", "has 0 characters"),
    ({"charstream": {"resume_token": "bm9uZQ=="}}, 400, "resume_token", "no token"),
    ({"charstream": {"nonsense": 1}}, 400, "charstream", "nonsense"),
    ({"charstream": {"replica": {"numerics": "other"}}}, 400, "", "numerics 'other'"),
]


@pytest.mark.parametrize(("fields", "status", "param", "says"), REFUSED, ids=[str(case[0])[:40] for case in REFUSED])
def test_refusals_have_openais_form(
    client: openai.OpenAI, fields: dict[str, Any], status: int, param: str, says: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt="a", extra_body=fields)  # type: ignore[call-overload]
    assert caught.value.status_code == status
    assert says in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["param"] == (param or None)
    assert caught.value.body["type"]
    assert caught.value.body["code"]


def test_chat_is_refused_with_a_sentence(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


def test_models_are_listed_under_the_names_that_requests_use(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.charstream["hidden"] == 64  # type: ignore[attr-defined]
    assert client.models.retrieve("tiny@1").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="served are tiny"):
        client.models.retrieve("other")


def test_langchains_completion_model_invokes_streams_and_batches(
    server: ServerProcess, stub: pb_grpc.TextGenerationStub
) -> None:
    from langchain_openai import OpenAI

    model = OpenAI(
        base_url=f"http://{server.web}/v1", api_key="none", model="tiny", seed=8, max_tokens=100, temperature=1
    )
    wanted = [text_of(stub, prompt=prompt, max_chars=100, seed=8) for prompt in ("Who ", "Why ")]
    assert model.invoke("Who ") == wanted[0]
    assert "".join(model.stream("Who ")) == wanted[0]
    assert model.batch(["Who ", "Why "]) == wanted


def test_any_request_gives_the_same_text_over_grpc_as_events_and_in_one_answer(server: ServerProcess) -> None:
    """All fields, at random; cut in the middle of one door and gone on with at another."""
    assert differences(server.address, server.web, requests=40) == []


def test_log_probabilities_of_a_whole_answer_are_finite(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="a", max_tokens=20, logprobs=0, seed=1)
    numbers = found.choices[0].logprobs
    assert numbers
    assert numbers.top_logprobs == [
        {c: p} for c, p in zip(numbers.tokens or (), numbers.token_logprobs or (), strict=True)
    ]
    assert all(map(math.isfinite, numbers.token_logprobs or ()))
