"""The options that a caller may pass, and the fields of the message that they become."""

import math
import pydoc
import re
from typing import Any

import pytest

from client import AsyncClient, Client, Repeat, Replica, ScoreOptions
from client.generation_task import TextTask
from client.options import GenerateOptions, generate_request
from protos import charstream_pb2 as pb

EVERYTHING: GenerateOptions = {
    "model": "m",
    "max_chars": 9,
    "min_chars": 2,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.25,
    "allowed": "ab",
    "banned": "c",
    "bias": {"a": 1.5},
    "seed": 7,
    "continuation": 1,
    "unknown": "skip",
    "stop": ["x"],
    "include_stop": True,
    "echo": True,
    "logprobs": 2,
    "max_chunk_chars": 4,
    "max_chunk_delay": 0.5,
    "time_limit": 2.0,
    "resume_token": b"t",
    "return_token": True,
    "checkpoint_chars": 100,
    "stop_on_repeat": Repeat(200, 4, min_period=20),
    "replica": Replica(precision="int8"),
    "other_numerics": True,
}


def build_request(prompt: str = "a", **given: Any) -> pb.GenerateRequest:
    return generate_request(prompt, given, checkpoints=True)  # type: ignore[arg-type]


def test_each_option_reaches_its_field() -> None:
    assert EVERYTHING.keys() == GenerateOptions.__annotations__.keys()
    assert build_request("p", **EVERYTHING) == pb.GenerateRequest(
        model="m",
        prompt="p",
        sampling=pb.Sampling(
            temperature=0.5, top_k=3, top_p=0.5, min_p=0.25, allowed="ab", banned="c", bias=pb.Bias(of={"a": 1.5})
        ),
        seed=7,
        max_chars=9,
        unknown=pb.UNKNOWN_SKIP,
        stop=["x"],
        chunking=pb.Chunking(max_chars=4, max_delay={"nanos": 500_000_000}),  # type: ignore[arg-type]
        include_stop=True,
        min_chars=2,
        echo=True,
        logprobs=2,
        continuation=1,
        time_limit={"seconds": 2},  # type: ignore[arg-type]
        resume_token=b"t",
        return_token=True,
        checkpoint_chars=100,
        stop_on_repeat=pb.Repeat(max_period=200, times=4, min_period=20),
        replica=pb.Replica(precision="int8"),
        other_numerics=True,
    )


@pytest.mark.parametrize("given", [{}, dict.fromkeys(GenerateOptions.__annotations__)])
def test_what_is_not_given_is_left_to_the_server(given: dict[str, Any]) -> None:
    message = build_request(**given)
    assert message.seed < 2**53, "without one a broken text could not be had again"
    message.ClearField("seed")
    message.ClearField("checkpoint_chars")
    assert message == pb.GenerateRequest(prompt="a", sampling=pb.Sampling(), chunking=pb.Chunking())


def test_every_text_gets_a_seed_of_its_own() -> None:
    assert build_request().seed != build_request().seed


def test_a_text_from_a_token_keeps_its_seed() -> None:
    assert not build_request(resume_token=b"t").HasField("seed")


def test_zero_is_sent_and_not_taken_for_nothing() -> None:
    message = build_request(seed=0, temperature=0.0, min_p=0.0, max_chunk_delay=0.0, logprobs=0, continuation=0)
    assert message.HasField("logprobs")
    assert message.HasField("continuation")
    assert message.sampling.HasField("min_p")
    assert not message.sampling.HasField("top_p")
    assert message.HasField("seed")
    assert message.sampling.HasField("temperature")
    assert message.chunking.HasField("max_delay")


@pytest.mark.parametrize("method", ["stream", "continuations"])
def test_a_misspelt_option_is_named(method: str) -> None:
    with Client() as client, pytest.raises(TypeError, match="'max_char'"):
        getattr(client, method)("a", n=2, max_char=None) if method == "continuations" else client.stream(
            "a",
            max_char=5,  # type: ignore[call-arg]
        )


def test_one_stop_string_is_not_taken_for_its_characters() -> None:
    assert list(build_request(stop="\n\n").stop) == ["\n\n"]
    assert list(build_request(stop=["a", "b"]).stop) == ["a", "b"]


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(0.02, 20_000_000), (1.5, 1_500_000_000), (2.0, 2_000_000_000)])
def test_a_delay_in_seconds_arrives_exactly(seconds: float, nanoseconds: int) -> None:
    assert build_request(max_chunk_delay=seconds).chunking.max_delay.ToNanoseconds() == nanoseconds


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("seed", -1, "18446744073709551615"),
        ("seed", 2**64, "18446744073709551615"),
        ("max_chars", 0, "4294967295"),
        ("max_chars", 2**32, "4294967295"),
        ("min_chars", -1, "4294967295"),
        ("logprobs", -1, "4294967295"),
        ("continuation", -1, "4294967295"),
        ("max_chunk_chars", 0, "4294967295"),
        ("max_chunk_delay", math.nan, "315576000000"),
        ("time_limit", math.inf, "315576000000"),
        ("stop_on_repeat", Repeat(-1, 4), "4294967295"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_value_and_range(name: str, value: Any, allowed: str) -> None:
    shown = value.max_period if isinstance(value, Repeat) else value
    with pytest.raises(ValueError, match=rf"^{name}[\w.]*: .*{shown}.*{allowed}"):
        build_request(**{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a\ud800"},
        {"stop": ["\udfff"]},
        {"model": "\ud800"},
        {"allowed": "\ud800"},
        {"banned": "\ud800"},
        {"bias": {"\ud800": 1.0}},
    ],
)
def test_text_that_utf8_cannot_carry_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))}: "):
        build_request(**given)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, 1e300])
def test_whether_a_temperature_makes_sense_is_the_servers_to_say(temperature: float) -> None:
    assert build_request(temperature=temperature).sampling.HasField("temperature")


def test_a_reason_from_a_newer_server_does_not_break_the_client() -> None:
    text = TextTask(build_request(), spaced=True)
    text.take(pb.GenerateResponse(text="a", finish=pb.Finish(reason=99)), 0.0)  # type: ignore[arg-type]
    assert text.is_done
    assert text.finish
    assert text.finish.reason == "unknown"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_help_and_editors_say_what_each_option_means(kind: type) -> None:
    for method, options in [("stream", GenerateOptions), ("continuations", GenerateOptions), ("score", ScoreOptions)]:
        text = getattr(kind, method).__doc__
        for option in options.__annotations__:
            about = re.search(rf"\n    {option}: .+(\n        .+)*", text)
            assert about, f"{method}: nothing about {option}"
            assert "Default: " in " ".join(about[0].split())
        assert max(map(len, text.splitlines())) <= 120
    assert "Divides the logits" in pydoc.render_doc(Client.stream)


def test_a_mistyped_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="no option 'temprature'; the nearest is temperature;"):
        build_request(temprature=1)


def test_numbers_alone_are_no_repeat() -> None:
    with pytest.raises(TypeError, match=r"stop_on_repeat: \(200, 4\) is no Repeat\(max_period, times\)"):
        build_request(stop_on_repeat=(200, 4))
