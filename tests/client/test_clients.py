"""Both clients against the real server."""

import pytest

from client import AsyncClient, Client, InvalidRequest, ModelNotFound
from tests.client.reading import both, read
from tests.conftest import ServerProcess

PROMPT = "ROMEO:"


def generate(server: ServerProcess, **options: object) -> str:
    with Client(server.address) as client:
        return "".join(client.stream(PROMPT, **options))  # type: ignore[arg-type]


def test_a_text_has_its_length_and_says_how_it_ended(server: ServerProcess) -> None:
    with Client(server.address) as client, client.stream(PROMPT, max_chars=100, seed=7) as stream:
        chunks = list(stream)
    assert all(chunks)
    assert "".join(chunks) == stream.text
    assert stream.finish is not None
    assert (stream.finish.reason, stream.finish.stop, stream.finish.seed) == ("length", "", 7)
    assert (stream.finish.prompt_chars, stream.finish.generated_chars) == (len(PROMPT), 100)
    assert len(stream.text) == 100
    assert 0 <= stream.finish.queue_seconds <= stream.finish.first_char_seconds <= stream.finish.total_seconds


async def test_both_clients_get_the_same_text_from_the_same_seed(server: ServerProcess) -> None:
    async with AsyncClient(server.address) as client, client.stream(PROMPT, max_chars=200, seed=11) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunks) == stream.text == generate(server, max_chars=200, seed=11)
    assert stream.finish is not None
    assert stream.finish.generated_chars == 200
    assert stream.text != generate(server, max_chars=200, seed=12)


def test_the_seed_that_the_server_chose_gives_the_text_again(server: ServerProcess) -> None:
    with Client(server.address) as client, client.stream(PROMPT, max_chars=50) as stream:
        list(stream)
    assert stream.finish is not None
    assert generate(server, max_chars=50, seed=stream.finish.seed) == stream.text


def test_temperature_zero_is_greedy_whatever_the_seed(server: ServerProcess) -> None:
    assert generate(server, max_chars=50, temperature=0.0, seed=1) == generate(
        server, max_chars=50, temperature=0.0, seed=2
    )


def test_a_stop_string_ends_the_text_before_it(server: ServerProcess) -> None:
    whole = generate(server, max_chars=200, seed=3)
    stop = whole[100:104]
    with Client(server.address) as client, client.stream(PROMPT, max_chars=200, seed=3, stop=stop) as stream:
        list(stream)
    assert stream.text == whole[: whole.index(stop)]
    assert stream.finish is not None
    assert (stream.finish.reason, stream.finish.stop) == ("stop", stop)


def test_chunks_keep_to_their_length_and_the_text_stays(server: ServerProcess) -> None:
    with Client(server.address) as client:
        chunks = list(client.stream(PROMPT, max_chars=60, seed=5, max_chunk_chars=3, max_chunk_delay=0.01))
    assert max(map(len, chunks)) <= 3
    assert "".join(chunks) == generate(server, max_chars=60, seed=5)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"temperature": -1.0}, "sampling.temperature"), ({"max_chars": 100_001}, "max_chars"), ({"stop": [""]}, "stop")],
)
def test_an_invalid_request_names_its_field(server: ServerProcess, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate(server, **options)
    assert caught.value.field.startswith(field)
    assert caught.value.description


def test_a_character_the_model_does_not_know_names_the_prompt(server: ServerProcess) -> None:
    with Client(server.address) as client, pytest.raises(InvalidRequest, match="é") as caught:
        list(client.stream("café"))
    assert caught.value.field == "prompt"


def test_models_are_described(server: ServerProcess) -> None:
    with Client(server.address) as client:
        model = client.model("tiny")
        assert client.models() == [model]
    assert (model.name, model.cell, len(model.vocabulary), model.start_text) == ("tiny", "lstm", 96, "\n")
    assert model.training.validation_nats == {"carried": 4.5}


async def test_both_clients_describe_models_alike(server: ServerProcess) -> None:
    async with AsyncClient(server.address) as client:
        models = await client.models()
        assert models == [await client.model("tiny")]
    with Client(server.address) as blocking:
        assert blocking.models() == models


async def test_a_model_that_is_not_served_is_not_found(server: ServerProcess) -> None:
    with Client(server.address) as client:
        with pytest.raises(ModelNotFound, match="huge"):
            client.model("huge")
        with pytest.raises(ModelNotFound, match="huge"):
            list(client.stream(PROMPT, model="huge"))
    async with AsyncClient(server.address) as client_:
        with pytest.raises(ModelNotFound, match="huge"):
            await client_.model("huge")


@both
def test_continuations_are_the_texts_that_each_would_be_alone(server: ServerProcess, kind: str) -> None:
    outcome = read(kind, server.address, "continuations", PROMPT, n=3, max_chars=80, seed=7, echo=True)
    assert outcome.error is None
    assert outcome.stream.texts == [
        PROMPT + generate(server, max_chars=80, seed=7, continuation=index) for index in range(3)
    ]
    assert [finish.generated_chars for finish in outcome.stream.finishes] == [80] * 3


@both
def test_a_token_goes_on_as_if_nothing_had_been_in_between(server: ServerProcess, kind: str) -> None:
    first = read(kind, server.address, "stream", PROMPT, max_chars=40, seed=7, return_token=True).stream
    rest = read(kind, server.address, "stream", "", resume_token=first.finish.resume_token, max_chars=60).stream
    assert first.text + rest.text == generate(server, max_chars=100, seed=7)
    assert rest.finish.position == len(PROMPT) + 100


@both
def test_a_score_is_what_the_log_probabilities_of_the_text_said(server: ServerProcess, kind: str) -> None:
    stream = read(kind, server.address, "stream", PROMPT, max_chars=120, seed=7, logprobs=2).stream
    assert len(stream.logprobs) == len(stream.alternatives) == 120
    outcome = read(
        kind, server.address, "score", stream.text, prompt=PROMPT, part_chars=50, alternatives=2, return_token=True
    )
    assert outcome.error is None
    assert "".join(part.text for part in outcome.items) == stream.text
    assert [value for part in outcome.items for value in part.logprobs] == pytest.approx(stream.logprobs, abs=1e-4)
    assert [place for part in outcome.items for place in part.alternatives][70][0][0] == stream.alternatives[70][0][0]
    summary = outcome.stream.summary
    assert (summary.chars, summary.position) == (120, len(PROMPT) + 120)
    assert summary.nats == pytest.approx(-sum(stream.logprobs), rel=1e-4)
    assert summary.resume_token


@both
@pytest.mark.parametrize("unknown", ["skip", "replace"])
def test_a_score_of_a_text_with_unknown_characters_is_that_of_the_changed_one(
    server: ServerProcess, kind: str, unknown: str
) -> None:
    """In parts of which some have no character left, as in one."""
    text = "To be, \u00fc\u00df\u4e00or\u00e9\U0001f600\u00e9 not to be\u00e9"
    changed = "To be, or not to be" if unknown == "skip" else "To be, ???or??? not to be?"
    plain = read(kind, server.address, "score", changed, alternatives=1)
    for part_chars in (3, 50_000):
        outcome = read(
            kind, server.address, "score", text, prompt="\u00e9", part_chars=part_chars, unknown=unknown, alternatives=1
        )
        if unknown == "replace":
            plain = read(kind, server.address, "score", changed, prompt="?", alternatives=1)
        assert outcome.error is None
        assert "".join(part.text for part in outcome.items) == changed
        assert all(len(part.text) == len(part.logprobs) == len(part.alternatives) for part in outcome.items)
        summary, expected = outcome.stream.summary, plain.stream.summary
        assert (summary.chars, summary.unknown_chars, summary.position) == (len(changed), 8, expected.position)
        assert summary.nats == pytest.approx(expected.nats)
        assert summary.bits_per_char == pytest.approx(expected.bits_per_char)
