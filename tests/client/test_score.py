"""A score comes in parts as they are ready; a part that breaks is scored again, and nothing is said twice."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from client import Client, InvalidRequest, Replica, ScoredPart, ServerError, Unavailable
from protos import charstream_pb2 as pb
from tests.client.reading import both, read
from tests.client.replica import REPLICA, Fault, fail, logprob_at
from tests.client.scripted import endless, serving

TEXT = "To be, or not to be, that is the question." * 3


@dataclass
class Scorer:
    """A service that keeps the contract of Score; a log-probability depends on the position, which a token holds."""

    faults: list[Fault] = field(default_factory=list)
    requests: list[pb.ScoreRequest] = field(default_factory=list)
    tokens: bool = True

    def score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> Iterator[pb.ScoreResponse]:
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else None
        first = int(request.resume_token or b"0") + len(request.prompt) + 1
        nats = 0.0
        for at, char in enumerate(request.text):
            if fault and at == fault.after:
                yield from fail(fault, context)  # type: ignore[misc]
                return
            nats -= logprob_at(first + at)
            best = pb.Alternatives(chars=char, logprobs=[0.5]) if request.alternatives else None
            yield pb.ScoreResponse(logprobs=pb.Logprobs(chosen=[logprob_at(first + at)], alternatives=best and [best]))
        last = first + len(request.text) - 1
        token = str(last).encode() if request.return_token and self.tokens else b""
        yield pb.ScoreResponse(
            summary=pb.ScoreSummary(
                chars=len(request.text), nats=nats, position=last, resume_token=token, replica=REPLICA
            )
        )


def assert_whole(parts: list[ScoredPart], first: int = 1) -> None:
    assert "".join(part.text for part in parts) == TEXT
    assert [value for part in parts for value in part.logprobs] == [logprob_at(first + i) for i in range(len(TEXT))]


@both
def test_a_long_text_is_scored_in_parts_as_one(kind: str) -> None:
    scorer = Scorer()
    with serving(endless, scorer.score) as server:
        outcome = read(kind, server.address, "score", TEXT, prompt="ROMEO:", part_chars=50, alternatives=1, patience=0)
    assert outcome.error is None
    assert_whole(outcome.items, first=7)
    assert outcome.items[3].alternatives == [[(TEXT[3], 0.5)]]
    summary, nats = outcome.stream.summary, -sum(logprob_at(7 + i) for i in range(len(TEXT)))
    assert (summary.chars, summary.nats, summary.position) == (len(TEXT), nats, 6 + len(TEXT))
    assert summary.bits_per_char == pytest.approx(nats / len(TEXT) / math.log(2))
    assert summary.perplexity == pytest.approx(math.exp(nats / len(TEXT)))
    assert summary.replica == Replica("sha256:d", "fp32", "n1")
    assert summary.resume_token == b"", "nobody asked for one"
    assert [len(request.text) for request in scorer.requests] == [50, 50, 26]
    assert scorer.requests[1].replica == REPLICA, "a score from two models would mean nothing"


@both
def test_the_token_at_the_end_goes_on_with_another_text(kind: str) -> None:
    with serving(endless, Scorer().score) as server:
        first = read(kind, server.address, "score", "Hello", return_token=True).stream.summary
        outcome = read(kind, server.address, "score", TEXT, resume_token=first.resume_token)
    assert_whole(outcome.items, first=6)


@both
@pytest.mark.parametrize("how", ["unavailable", "no finish", "overloaded"])
def test_a_part_that_broke_is_scored_again_and_not_said_twice(kind: str, how: str) -> None:
    scorer = Scorer([Fault("", -1), Fault(how, 20), Fault(how, 10), Fault(how, 40)])
    with serving(endless, scorer.score) as server:
        outcome = read(kind, server.address, "score", TEXT, part_chars=50)
    assert outcome.error is None
    assert_whole(outcome.items)
    assert outcome.stream.summary.chars == len(TEXT)
    assert [len(request.text) for request in scorer.requests] == [50, 50, 50, 50, 50, 26]


@both
def test_where_the_token_is_refused_it_begins_again(kind: str) -> None:
    scorer = Scorer([Fault("", -1), Fault("unavailable", 20), Fault("token refused", 0)])
    with serving(endless, scorer.score) as server:
        outcome = read(kind, server.address, "score", TEXT, part_chars=50)
    assert outcome.error is None
    assert_whole(outcome.items)
    summary = outcome.stream.summary
    assert (summary.chars, summary.nats) == (len(TEXT), -sum(logprob_at(1 + i) for i in range(len(TEXT))))


@both
def test_a_refused_request_is_raised(kind: str) -> None:
    with serving(endless, Scorer([Fault("token refused", 0)]).score) as server:
        error = read(kind, server.address, "score", TEXT, resume_token=b"1").error
    assert isinstance(error, InvalidRequest)
    assert error.field == "resume_token"


@both
def test_a_server_without_tokens_cannot_score_a_long_text(kind: str) -> None:
    with serving(endless, Scorer(tokens=False).score) as server:
        assert_whole(read(kind, server.address, "score", TEXT).items)
        assert isinstance(read(kind, server.address, "score", TEXT, part_chars=50).error, ServerError)


@both
def test_patience_ends(kind: str) -> None:
    with serving(endless, Scorer([Fault("unavailable", 20)] * 100).score) as server:
        outcome = read(kind, server.address, "score", TEXT, patience=0.3)
    assert isinstance(outcome.error, Unavailable)
    assert "".join(part.text for part in outcome.items) == TEXT[:20]


def test_read_waits_for_the_summary() -> None:
    with serving(endless, Scorer().score) as server, Client(server.address) as client:
        assert client.score(TEXT).read().chars == len(TEXT)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"part_chars": 0}, ValueError),
        ({"alternatives": -1}, ValueError),
        ({"prompt": "\ud800"}, ValueError),
        ({"temperature": 1.0}, TypeError),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(options: dict[str, object], error: type[Exception]) -> None:
    with Client() as client, pytest.raises(error, match=next(iter(options))):
        client.score("a", **options)  # type: ignore[arg-type]
