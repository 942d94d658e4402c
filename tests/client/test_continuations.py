"""Several continuations come in one call; what breaks goes on one by one."""

import pytest

from client import CharstreamError, Client, Unavailable
from client.generation_task import ContinuationsTask
from protos import charstream_pb2 as pb
from tests.client.reading import both, read, read_error
from tests.client.replica import Fault, Replica, expected_text, logprob_at
from tests.client.scripted import serving

TEXTS = [expected_text(40, 7, "ROMEO:", index) for index in range(3)]
OPTIONS = {"n": 3, "seed": 7, "max_chars": 40}


@both
def test_all_come_in_one_call_each_under_its_index(kind: str) -> None:
    replica = Replica()
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "continuations", "ROMEO:", logprobs=0, **OPTIONS)
    assert outcome.stream.texts == TEXTS
    assert ["".join(text for i, text in outcome.items if i == index) for index in range(3)] == TEXTS
    assert [finish.generated_chars for finish in outcome.stream.finishes] == [40] * 3
    assert outcome.stream.logprobs == [[logprob_at(7 + i) for i in range(40)]] * 3
    assert len(replica.requests) == 1


@both
@pytest.mark.parametrize("after", [1, 50, 115, 119])
@pytest.mark.parametrize("checkpoint_chars", [0, 8])
def test_after_a_break_each_goes_on_alone(kind: str, after: int, checkpoint_chars: int) -> None:
    replica = Replica([Fault("unavailable", after), Fault("drained", 5), Fault("token refused")], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(
            kind, server.address, "continuations", "ROMEO:", checkpoint_chars=checkpoint_chars, echo=True, **OPTIONS
        )
    assert outcome.error is None
    assert outcome.stream.texts == ["ROMEO:" + text for text in TEXTS]
    assert ["".join(text for i, text in outcome.items if i == index) for index in range(3)] == outcome.stream.texts
    assert [(finish.prompt_chars, finish.generated_chars) for finish in outcome.stream.finishes] == [(6, 40)] * 3
    assert all(request.n == 0 for request in replica.requests[1:]), "those that are whole came again"


@both
def test_what_came_stays_where_it_cannot_go_on(kind: str) -> None:
    with serving(Replica([Fault("unavailable", 30)] + [Fault("unavailable")] * 100, chunk=1).generate) as server:
        outcome = read(kind, server.address, "continuations", "ROMEO:", patience=0.3, **OPTIONS)
    assert isinstance(outcome.error, Unavailable)
    assert outcome.stream.texts == [text[:10] for text in TEXTS]
    assert outcome.stream.finishes == [None] * 3


def test_a_checkpoint_of_one_text_is_no_news_of_the_next_message() -> None:
    task = ContinuationsTask(pb.GenerateRequest(), 2, spaced=False)
    task.message(0.0)
    started = pb.Started(max_chars=10)
    task.take(pb.GenerateResponse(started=started, checkpoint=pb.Checkpoint(resume_token=b"t", text_chars=1)), 0.0)
    assert task.has_advanced
    task.take(pb.GenerateResponse(started=started, index=1), 0.0)
    assert not task.has_advanced


@both
def test_one_of_them_can_be_had_again_alone(kind: str) -> None:
    with serving(Replica().generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", continuation=2, seed=7, max_chars=40)
    assert outcome.stream.text == TEXTS[2]


@both
def test_a_refusal_is_raised(kind: str) -> None:
    with serving(Replica([Fault("invalid_argument")]).generate) as server:
        assert isinstance(read_error(kind, server.address, "continuations", "ROMEO:", **OPTIONS), CharstreamError)


@pytest.mark.parametrize("n", [0, -1, 2**32])
def test_a_number_that_cannot_be_sent_is_refused(n: int) -> None:
    with Client() as client, pytest.raises(ValueError, match=f"^n: {n} "):
        client.continuations("", n=n)


def test_one_continuation_of_several_makes_no_sense() -> None:
    with Client() as client, pytest.raises(ValueError, match="continuation"):
        client.continuations("", n=2, continuation=1)
