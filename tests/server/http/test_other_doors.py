"""Scores, Triton's generate extension, and completions that only score: all with the numbers and texts of gRPC."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess

TEXT = "To be, or not to be: that is"


@pytest.fixture(scope="module")
def web(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.web}", timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[pb_grpc.TextGenerationStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.TextGenerationStub(channel)


def events(answer: httpx.Response) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_score_has_the_numbers_of_grpc(web: httpx.Client, stub: pb_grpc.TextGenerationStub, streamed: bool) -> None:
    wanted = list(stub.Score(pb.ScoreRequest(text=TEXT, prompt="a", alternatives=2)))
    answer = web.post("/v1/score", json={"text": TEXT, "prompt": "a", "alternatives": 2, "stream": streamed})
    parts = events(answer) if streamed else [answer.json()]
    numbers = [part["logprobs"] for part in parts if part["logprobs"]]
    assert "".join(char for one in numbers for char in one["tokens"]) == TEXT
    chosen = [value for one in numbers for value in one["token_logprobs"]]
    assert chosen == pytest.approx([value for message in wanted for value in message.logprobs.chosen])
    assert parts[-1]["summary"]["nats"] == pytest.approx(wanted[-1].summary.nats)
    assert int(parts[-1]["summary"]["chars"]) == len(TEXT)
    assert answer.text.endswith("data: [DONE]\n\n") == streamed


def test_an_echo_without_new_characters_is_a_score(server: ServerProcess, web: httpx.Client) -> None:
    """As programs measure a text that know OpenAI's completions only."""
    score = web.post("/v1/score", json={"text": TEXT}).json()
    with openai.OpenAI(base_url=f"http://{server.web}/v1", api_key="none") as client:
        found = client.completions.create(model="tiny", prompt=[TEXT, "a"], n=2, max_tokens=0, echo=True, logprobs=1)
    assert [choice.text for choice in found.choices] == [TEXT, TEXT, "a", "a"]
    numbers = found.choices[0].logprobs
    assert numbers
    assert numbers.token_logprobs == pytest.approx(score["logprobs"]["token_logprobs"])
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(TEXT) + 1, 0)


def test_tritons_generate_and_generate_stream_give_the_text_of_grpc(
    web: httpx.Client, stub: pb_grpc.TextGenerationStub
) -> None:
    sampling = pb.Sampling(temperature=0.7, top_k=10)
    message = pb.GenerateRequest(prompt="Oh", max_chars=200, seed=2**64 - 1, stop=["zz"], sampling=sampling)
    wanted = "".join(answer.text for answer in stub.Generate(message))
    body = {
        "text_input": "Oh", "id": "42", "max_tokens": 200,
        "parameters": {"seed": 2**64 - 1, "temperature": 0.7, "top_k": 10, "stop_words": ["zz"], "return_token": True},
    }  # fmt: skip
    whole = web.post("/v2/models/tiny/generate", json=body).json()
    assert (whole["text_output"], whole["model_name"], whole["model_version"]) == (wanted, "tiny", "1")
    assert (whole["id"], whole["finish_reason"], whole["seed"]) == ("42", "length", 2**64 - 1)
    parts = events(web.post("/v2/models/tiny/versions/1/generate_stream", json=body))
    assert "".join(part["text_output"] for part in parts) == wanted
    assert {part["id"] for part in parts} == {"42"}
    on = {"text_input": "", "parameters": {"resume_token": whole["resume_token"], "max_tokens": 50}}
    rest = web.post("/v2/models/tiny/generate", json=on).json()
    message.max_chars = 250
    assert wanted + rest["text_output"] == "".join(answer.text for answer in stub.Generate(message))


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("/v2/models/other/generate", {"text_input": "a"}, 404, "served are tiny"),
    ("/v2/models/tiny/generate", {}, 400, "text_input: is missing"),
    ("/v2/models/tiny/generate", {"text_input": ["a", "b"]}, 400, "text_input: has 2 texts"),
    ("/v2/models/tiny/generate", {"text_input": "a", "parameters": {"end_id": 1}}, 400, "end_id"),
    ("/v2/models/tiny/generate_stream", {"text_input": "a", "n": 2}, 400, "n: is 2"),
    ("/v1/score", {"text": ""}, 400, "text: is empty"),
    ("/v1/score", {"text": "a", "alternatives": 21}, 400, "alternatives: is 21"),
    ("/v1/score", {"text": "a" * 9000, "alternatives": 20}, 400, "ask with `stream`"),
    ("/v1/score", {"text": "a", "unknown": "UNKNOWN_SKIP"}, 400, "UNKNOWN_REPLACE"),
    ("/v1/other", {}, 404, "there are POST /v1/completions"),
]


@pytest.mark.parametrize(("place", "body", "status", "says"), REFUSED, ids=[str(case[:2])[:50] for case in REFUSED])
def test_refusals_say_what_came_and_what_is_allowed(
    web: httpx.Client, place: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = web.post(place, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in (error if "/v2/" in place else error["message"])
