"""Where a first character is late a second server is asked: the quicker one counts, and both say the same."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from client import Client
from client.hedging.policy import FIRST, Hedging
from protos import charstream_pb2 as pb
from tests.client.reading import both, read, read_error
from tests.client.replica import Fault, Replica, expected_text
from tests.client.scripted import Generate, serving

SEED, CHARS = 7, 60
TEXT = expected_text(CHARS, SEED, "ROMEO:")
OPTIONS: dict[str, Any] = {"seed": SEED, "max_chars": CHARS}
LATE = 20.0


class Late:
    """Answers no call before it is cancelled, or `seconds` are over."""

    def __init__(self, replica: Replica, seconds: float = LATE) -> None:
        self._replica, self._seconds = replica, seconds
        self.cancelled = threading.Event()
        self.attempts: list[str] = []

    def generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        self.attempts.append(attempt_of(context))
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(self._seconds)
        if context.is_active():
            yield from self._replica.generate(request, context)


def attempt_of(context: grpc.ServicerContext) -> str:
    return str(dict(context.invocation_metadata()).get("charstream-attempt", ""))


def tell_attempts(replica: Replica, attempts: list[str]) -> Generate:
    def generate(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        attempts.append(attempt_of(context))
        yield from replica.generate(request, context)

    return generate


@both
def test_the_quicker_server_gives_the_text_and_the_other_call_is_cancelled(kind: str) -> None:
    late, attempts = Late(Replica()), list[str]()
    with serving(late.generate) as slow, serving(tell_attempts(Replica(), attempts)) as quick:
        won = 0
        while not won:  # which one is asked first is drawn
            began = time.monotonic()
            outcome = read(kind, [slow.address, quick.address], "stream", "ROMEO:", hedge_after=0.1, **OPTIONS)
            assert (outcome.error, outcome.stream.text) == (None, TEXT)
            assert time.monotonic() - began < LATE / 2
            counts = outcome.stream.counts
            won = counts.hedges_won
            assert won <= counts.hedges == counts.calls - 1
        assert late.cancelled.wait(LATE)
    assert (late.attempts[0], attempts[-1]) == ("", "hedge")
    assert outcome.stream.resumes == 0


@both
def test_a_second_server_that_fails_takes_nothing_away(kind: str) -> None:
    late = Late(Replica(), 0.4)
    failing = Replica([Fault("internal")] * 100)
    with serving(late.generate) as one, serving(failing.generate) as two:
        for _ in range(20):
            outcome = read(kind, [one.address, two.address], "stream", "ROMEO:", hedge_after=0.05, **OPTIONS)
            if not outcome.error:
                break
    assert (outcome.error, outcome.stream.text) == (None, TEXT)


@both
def test_several_continuations_and_a_broken_text_too(kind: str) -> None:
    """What is asked for again after a break is not hedged: nobody waits for its first character."""
    late = Late(Replica([Fault("unavailable", 30)], chunk=1), 0.3)
    with serving(late.generate) as one:
        outcome = read(kind, one.address, "continuations", "ROMEO:", n=2, hedge_after=0.05, seed=SEED, max_chars=CHARS)
    assert outcome.error is None
    assert outcome.stream.texts == [expected_text(CHARS, SEED, "ROMEO:", index) for index in range(2)]
    assert outcome.stream.counts.hedges == 1
    assert set(late.attempts) <= {"", "hedge", "replay"}


@both
def test_errors_are_those_of_the_server(kind: str) -> None:
    with serving(Replica([Fault("internal")] * 9).generate) as server:
        assert "scripted: internal" in str(read_error(kind, server.address, "stream", "ROMEO:", hedge_after=5.0))


def test_a_stream_that_waits_for_two_servers_can_be_cancelled() -> None:
    late = Late(Replica())
    with serving(late.generate) as server, Client(server.address, hedge_after=0.05) as client:
        stream = client.stream("ROMEO:", **OPTIONS)
        threading.Timer(0.4, stream.cancel).start()
        began = time.monotonic()
        assert stream.read() == ""
        assert time.monotonic() - began < LATE / 2


def test_a_percentile_is_that_of_the_texts_before_and_hedges_are_few() -> None:
    hedging = Hedging("p95")
    for number in range(100):
        assert (hedging.delay is None) == (number < 20)
        hedging.note_first(number / 100)
    assert hedging.delay == pytest.approx(0.95)
    first = sum(hedging.spend() for _ in range(1000))
    assert first == FIRST + 100 / 25
    later = 0
    for _ in range(1000):
        hedging.note_first(1.0)
        later += hedging.spend()
    assert later == pytest.approx(40, abs=1)


@pytest.mark.parametrize("after", [0, -1.0, "95", "p100", "p", float("nan")])
def test_what_is_no_time_is_refused(after: Any) -> None:
    with pytest.raises(ValueError, match="hedge_after"):
        Client("127.0.0.1:1", hedge_after=after)


def test_a_service_config_is_json() -> None:
    with pytest.raises(ValueError, match="service_config"):
        Client("127.0.0.1:1", service_config="{")
    Client("127.0.0.1:1", service_config='{"loadBalancingConfig": [{"pick_first": {}}]}').close()


@both
def test_calls_to_an_address_with_several_servers_take_turns_and_one_that_is_lost_is_left_out(kind: str) -> None:
    """As a name with several records, which nobody resolves here."""
    replicas = [Replica(), Replica()]
    with serving(replicas[0].generate) as one, serving(replicas[1].generate) as two:
        both_of_them = f"ipv4:{one.address},{two.address}"
        with Client(both_of_them) as client:
            while not all(replica.requests for replica in replicas):
                assert client.stream("ROMEO:", **OPTIONS).read() == TEXT
        replicas[0].faults = [Fault("unavailable", 10), Fault("shutting down"), Fault("failed_precondition")]
        replicas[1].faults = [Fault("unavailable", 10)]
        outcome = read(kind, both_of_them, "stream", "ROMEO:", **OPTIONS)
    assert (outcome.error, outcome.stream.text) == (None, TEXT)
