"""A text whose stream breaks goes on, each character once; and where it can't, nothing that came is lost."""

import pickle
import threading
import time
import traceback
from collections.abc import Iterator

import grpc
import pytest

from client import (
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    Progress,
    ServerError,
    Started,
    Unavailable,
    WrongReplica,
)
from protos import charstream_pb2 as pb
from tests.client.reading import both, read, read_error
from tests.client.replica import REPLICA, Fault, Replica, expected_text, logprob_at
from tests.client.scripted import dead_address, finish, serving, text

SEED, CHARS = 7, 60
TEXT = expected_text(CHARS, SEED, "ROMEO:")
OPTIONS = {"seed": SEED, "max_chars": CHARS}


def assert_whole(outcome: object, text: str = TEXT) -> None:
    assert outcome.error is None, outcome.error  # type: ignore[attr-defined]
    assert "".join(outcome.items) == outcome.stream.text == text  # type: ignore[attr-defined]
    assert all(outcome.items)  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("how", ["unavailable", "cancelled", "no finish", "drained", "overloaded"])
@pytest.mark.parametrize("after", [1, 30, CHARS])
def test_a_text_that_breaks_goes_on_where_it_was(kind: str, how: str, after: int) -> None:
    replica = Replica([Fault(how, after)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", **OPTIONS)
    assert_whole(outcome)
    finish = outcome.stream.finish
    assert (finish.reason, finish.prompt_chars, finish.generated_chars, finish.seed) == ("length", 6, CHARS, SEED)
    assert (outcome.stream.resumes, outcome.stream.replayed_chars) == (1, after)


@both
def test_the_rest_is_asked_for_with_what_the_server_had_chosen(kind: str) -> None:
    replica = Replica([Fault("unavailable", 10)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:")
    first, second = replica.requests
    assert outcome.stream.text == expected_text(40, first.seed, "ROMEO:")
    assert (second.prompt, second.seed, second.max_chars, second.replica) == ("ROMEO:", first.seed, 40, REPLICA)
    assert second.received == outcome.stream.text[:10]


@both
def test_nothing_is_said_twice_when_the_call_fails_after_the_finish(kind: str) -> None:
    replica = Replica([Fault("unavailable", CHARS + 1)])
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", **OPTIONS))
    assert len(replica.requests) == 1


@both
def test_a_break_within_the_echo_is_none_either(kind: str) -> None:
    replica = Replica([Fault("unavailable", 3), Fault("unavailable", 10)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", echo=True, **OPTIONS)
    assert_whole(outcome, "ROMEO:" + TEXT)
    assert outcome.stream.finish.generated_chars == CHARS


@both
def test_log_probabilities_stay_with_their_characters(kind: str) -> None:
    replica = Replica([Fault("unavailable", 20), Fault("drained", 15)], chunk=2)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", logprobs=2, checkpoint_chars=8, **OPTIONS)
    assert_whole(outcome)
    assert outcome.stream.logprobs == [logprob_at(6 + 1 + i) for i in range(CHARS)]
    assert [len(place) for place in outcome.stream.alternatives] == [2] * CHARS
    assert outcome.stream.alternatives[0][1] == ("b", logprob_at(7))


@both
def test_after_a_checkpoint_only_what_follows_it_is_sent_back(kind: str) -> None:
    replica = Replica([Fault("unavailable", 43)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(
            kind, server.address, "stream", "ROMEO:", echo=True, checkpoint_chars=16, min_chars=40, **OPTIONS
        )
    assert_whole(outcome, "ROMEO:" + TEXT)
    finish, request = outcome.stream.finish, replica.requests[1]
    assert (finish.prompt_chars, finish.generated_chars, outcome.stream.replayed_chars) == (6, CHARS, 43 - 6 - 32)
    assert (request.prompt, request.echo, request.max_chars, request.min_chars) == ("", False, CHARS - 32, 8)
    assert request.checkpoint_chars == 16


@both
def test_after_a_checkpoint_the_prompt_counts_without_what_was_left_out(kind: str) -> None:
    replica = Replica([Fault("unavailable", 43)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "aüüb", unknown="skip", checkpoint_chars=16, **OPTIONS)
    assert_whole(outcome, expected_text(CHARS, SEED, "ab"))
    assert replica.requests[1].resume_token
    assert outcome.stream.finish.prompt_chars == 2


@both
def test_by_default_a_long_text_has_checkpoints_and_replays_stay_short(kind: str) -> None:
    replica = Replica([Fault("unavailable", 39_990)], chunk=10)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "", seed=SEED, max_chars=40_000)
    assert_whole(outcome, expected_text(40_000, SEED))
    assert outcome.stream.replayed_chars < 16_384


@both
def test_where_servers_are_lost_again_and_again_each_way_back_is_short(kind: str) -> None:
    """The servers die every 3,000 characters, so a text that began anew each time would never come to its end."""
    replica = Replica([Fault("unavailable", 3_000)] * 40, chunk=10)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "", seed=SEED, max_chars=60_000)
    assert_whole(outcome, expected_text(60_000, SEED))
    first, second, *others = [len(request.received) for request in replica.requests]
    assert (first, second > 2_900) == (0, True), "nothing was known to go wrong"
    assert max(others) < 2_100
    assert {request.checkpoint_chars for request in replica.requests[1:]} == {2_048}
    assert outcome.stream.replayed_chars < 3_000 + 2_100 * outcome.stream.resumes


@both
def test_servers_that_are_lost_before_they_have_read_what_came_still_get_on(kind: str) -> None:
    """They make the known characters again, as there are checkpoints on that way, and the reader gets none twice."""
    faults = [Fault("unavailable", 5_000), Fault("unavailable"), *[Fault("unavailable", 1_100)] * 10]
    replica = Replica(faults, chunk=10)
    with serving(replica.generate) as server:
        options = {"seed": SEED, "max_chars": 9_000, "logprobs": 0, "echo": True}
        outcome = read(kind, server.address, "stream", "ROMEO:", patience=2, **options)
    assert_whole(outcome, "ROMEO:" + expected_text(9_000, SEED, "ROMEO:"))
    assert outcome.stream.logprobs == [logprob_at(1 + i) for i in range(9_006)]
    received = [len(request.received) for request in replica.requests]
    assert received[1] > 4_900, "the usual way, once"
    assert received[2:7] == [0] * 5
    assert all(request.resume_token for request in replica.requests[3:7])


@both
@pytest.mark.parametrize("how", ["overloaded", "failed_precondition", "shutting down", "refused"])
def test_a_server_that_takes_no_request_was_not_lost_while_it_read(kind: str, how: str) -> None:
    """What had come is sent back then as after the first loss: to make it again would take as long as at first."""
    replica = Replica([Fault("unavailable", 5_000), *[Fault(how)] * 3 * (how != "refused")], chunk=10)
    with serving(replica.generate) as server:
        others = [dead_address() if how == "refused" else server.address for _ in range(3)]
        options = {"seed": SEED, "max_chars": 6_000}
        outcome = read(kind, [server.address, *others], "stream", "ROMEO:", patience=10, **options)
    assert_whole(outcome, expected_text(6_000, SEED, "ROMEO:"))
    assert all(len(request.received) > 4_900 for request in replica.requests[1:])


@both
def test_with_a_time_limit_what_came_is_not_made_again(kind: str) -> None:
    """The limit might be over before the way back is, and the text would end within what had come."""
    replica = Replica([Fault("unavailable", 2_000), *[Fault("unavailable")] * 3], chunk=10)
    with serving(replica.generate) as server:
        options = {"seed": SEED, "max_chars": 3_000, "time_limit": 60.0}
        assert_whole(read(kind, server.address, "stream", "", **options), expected_text(3_000, SEED))
    assert all(len(request.received) > 1_900 for request in replica.requests[1:])


@both
def test_an_end_on_the_way_back_fits_the_text_that_came(kind: str) -> None:
    replica = Replica([Fault("unavailable", 1_000), Fault("unavailable")], chunk=10)

    def short(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        if len(replica.requests) == 2:
            request.max_chars = 300
        yield from replica.generate(request, context)

    with serving(short) as server:
        options = {"seed": SEED, "max_chars": 2_000, "return_token": True}
        outcome = read(kind, server.address, "stream", "ROMEO:", **options)
    chars = len(outcome.stream.text)
    finish = outcome.stream.finish
    assert chars > 900
    assert (finish.generated_chars, finish.position, finish.resume_token) == (chars, 6 + chars, b"")


@both
def test_a_server_that_makes_another_text_than_it_said_is_left(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30), Fault("unavailable")], chunk=1)

    def wrong(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        if len(replica.requests) == 2:
            request.seed += 1
        yield from replica.generate(request, context)

    with serving(wrong) as one, serving(wrong) as two:
        assert_whole(read(kind, [one.address, two.address], "stream", "ROMEO:", **OPTIONS))


@both
def test_where_no_server_takes_anothers_tokens_they_are_no_longer_sent(kind: str) -> None:
    faults = [Fault("unavailable", 17_000), Fault("token refused"), Fault("unavailable", 1_000)]
    replica = Replica(faults, chunk=10)
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "", seed=SEED, max_chars=20_000), expected_text(20_000, SEED))
    assert [request.checkpoint_chars for request in replica.requests] == [16_384, 2_048, 0, 0]
    assert len(replica.requests[3].received) > 17_900


def test_a_text_that_ends_before_its_first_checkpoint_has_none_and_the_callers_own_stay() -> None:
    for options, expected in [
        ({"max_chars": 16_384}, [0, 2_048]),
        ({"checkpoint_chars": 300}, [300, 300]),
        ({"checkpoint_chars": 16_384}, [16_384, 16_384]),
        ({"checkpoint_chars": 0}, [0, 0]),
    ]:
        replica = Replica([Fault("unavailable", 10)], chunk=1)
        with serving(replica.generate) as server, Client(server.address) as client:
            client.stream("ROMEO:", **options).read()  # type: ignore[arg-type]
        assert [request.checkpoint_chars for request in replica.requests] == expected


@both
def test_after_a_break_the_times_are_the_callers(kind: str) -> None:
    """A server knows of its own request only: its first character is not the reader's, and its seconds are not all."""
    replica = Replica([Fault("unavailable", 20)], chunk=1)

    def slow(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        for message in replica.generate(request, context):
            if message.HasField("started"):
                time.sleep(0.3)
            yield message

    with serving(slow) as server:
        finish = read(kind, server.address, "stream", "ROMEO:", **OPTIONS).stream.finish
    assert 0.3 <= finish.first_char_seconds < 0.6 <= finish.total_seconds < 10


@both
def test_a_checkpoint_at_the_very_end_does_not_hide_how_it_ended(kind: str) -> None:
    replica = Replica([Fault("unavailable", CHARS)], chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", checkpoint_chars=CHARS // 3, **OPTIONS)
    assert_whole(outcome)
    assert outcome.stream.replayed_chars == CHARS // 3
    assert (outcome.stream.finish.reason, outcome.stream.finish.generated_chars) == ("length", CHARS)


@both
def test_without_checkpoints_the_whole_text_is_sent_back(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)], chunk=1)
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", checkpoint_chars=0, **OPTIONS))
    assert not replica.requests[0].HasField("checkpoint_chars")
    assert replica.requests[1].received == TEXT[:30]


@both
def test_a_refused_token_costs_time_and_no_text(kind: str) -> None:
    faults = [Fault("unavailable", 30), Fault("token refused"), Fault("unavailable", 15)]
    replica = Replica(faults, chunk=1)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", checkpoint_chars=8, **OPTIONS)
    assert_whole(outcome)
    assert [bool(request.resume_token) for request in replica.requests] == [False, True, False, True]
    assert outcome.stream.finish.generated_chars == CHARS


@both
def test_a_text_goes_on_only_where_it_would_be_the_same(kind: str) -> None:
    """The first address is lost; the second computes otherwise; the first one comes back."""
    replica = Replica([Fault("unavailable", 30), Fault("failed_precondition"), Fault("unavailable")], chunk=1)
    with serving(replica.generate) as one, serving(replica.generate) as two:
        assert_whole(read(kind, [one.address, two.address], "stream", "ROMEO:", **OPTIONS))


@both
def test_when_no_replica_is_equal_that_is_said_at_once(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30), *[Fault("failed_precondition")] * 100], chunk=1)
    with serving(replica.generate) as one, serving(replica.generate) as two:
        begin = time.monotonic()
        error = read_error(kind, [one.address, two.address], "stream", "ROMEO:", checkpoint_chars=8, **OPTIONS)
    assert isinstance(error, WrongReplica)
    assert time.monotonic() - begin < 3
    assert error.text == TEXT[:30]
    assert not replica.requests[-1].resume_token, "what stood in the way may have been the token alone"


@both
@pytest.mark.parametrize("how", ["shutting down", "failed_precondition", "unavailable"])
@pytest.mark.parametrize("after", [0, 30])
def test_behind_one_address_there_may_be_others_that_answer(kind: str, how: str, after: int) -> None:
    """A proxy, or a name with several records: those asked first drain, differ, or are lost with the call."""
    faults = [*[Fault("unavailable", after)] * (after > 0), Fault(how), Fault(how), Fault(how)]
    replica = Replica(faults, chunk=1)
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", **OPTIONS))


@both
def test_who_accepts_other_numerics_is_pinned_to_the_model_only(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)], chunk=1)
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", other_numerics=True, **OPTIONS))
    assert replica.requests[1].replica == pb.Replica(digest=REPLICA.digest)


@both
@pytest.mark.parametrize(
    ("how", "error"),
    [("internal", ServerError), ("invalid_argument", InvalidRequest), ("unauthenticated", NotAllowed)],
)
def test_what_would_fail_again_is_not_tried_again(kind: str, how: str, error: type[Exception]) -> None:
    replica = Replica([Fault(how, 30)], chunk=1)
    with serving(replica.generate) as server:
        raised = read_error(kind, server.address, "stream", "ROMEO:", **OPTIONS)
    assert type(raised) is error
    assert raised.text == TEXT[:30]
    assert len(replica.requests) == 1


@both
def test_without_resume_the_first_failure_is_raised(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)], chunk=1)
    with serving(replica.generate) as server:
        error = read_error(kind, [server.address] * 2, "stream", "ROMEO:", resume=False, **OPTIONS)
    assert isinstance(error, Unavailable)
    assert not replica.requests[0].HasField("checkpoint_chars")


@both
def test_a_text_from_a_token_goes_on_too(kind: str) -> None:
    replica = Replica()
    with serving(replica.generate) as server:
        first = read(kind, server.address, "stream", "ROMEO:", return_token=True, **OPTIONS).stream.finish
        replica.faults = [Fault("unavailable", 20), Fault("unavailable", 20)]
        again = {"resume_token": first.resume_token, "echo": True, "max_chars": 50}
        outcome = read(kind, server.address, "stream", "And:", checkpoint_chars=16, **again)
    assert_whole(outcome, "And:" + expected_text(50, SEED, "ROMEO:" + TEXT + "And:"))
    assert replica.requests[-1].seed == SEED
    finish = outcome.stream.finish
    assert (finish.prompt_chars, finish.generated_chars, finish.seed) == (4, 50, SEED)
    assert finish.position == 6 + CHARS + 4 + 50


@both
def test_the_time_limit_counts_from_the_first_request(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)], chunk=1)
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", time_limit=20.0, **OPTIONS))
    first, second = (request.time_limit.ToMilliseconds() for request in replica.requests)
    assert first == 20_000
    assert 0 < second < first


@both
def test_the_timeout_holds_while_it_waits_for_a_server(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)] + [Fault("unavailable")] * 100, chunk=1)
    begin = time.monotonic()
    with serving(replica.generate) as server:
        error = read_error(kind, server.address, "stream", "ROMEO:", timeout=1.5, **OPTIONS)
    assert isinstance(error, DeadlineExceeded)
    assert 1.4 < time.monotonic() - begin < 4
    assert error.text == TEXT[:30]


@both
def test_the_timeout_holds_where_a_server_wants_to_be_left_alone_for_longer(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30), Fault("overloaded for long")], chunk=1)
    begin = time.monotonic()
    with serving(replica.generate) as server:
        error = read_error(kind, server.address, "stream", "ROMEO:", timeout=1.0, **OPTIONS)
    assert isinstance(error, DeadlineExceeded)
    assert time.monotonic() - begin < 4


@both
def test_patience_is_with_a_text_that_stands_still_not_with_one_that_breaks_often(kind: str) -> None:
    with serving(Replica([Fault("unavailable", 1)] * (CHARS - 1), chunk=1).generate) as server:
        outcome = read(kind, server.address, "stream", "ROMEO:", patience=0.5, **OPTIONS)
    assert_whole(outcome)
    assert outcome.stream.resumes == CHARS - 1


@both
def test_what_was_given_up_goes_on_elsewhere_and_later(kind: str) -> None:
    replica = Replica([Fault("unavailable", 20)] + [Fault("unavailable")] * 1000, chunk=1)
    options = {"logprobs": 0, "checkpoint_chars": 8, **OPTIONS}
    with serving(replica.generate) as server:
        error = read_error(kind, server.address, "stream", "ROMEO:", patience=0.5, **options)
    assert isinstance(error, Unavailable)
    assert "go_on" in "".join(traceback.format_exception_only(error))
    assert error.text == TEXT[:20]
    progress = pickle.loads(pickle.dumps(error.progress))
    replica = Replica(chunk=2)
    with serving(replica.generate) as server:
        outcome = read(kind, server.address, "go_on", progress, timeout=10)
    assert outcome.error is None
    assert "".join(outcome.items) == TEXT[20:]
    assert outcome.stream.text == TEXT
    assert outcome.stream.logprobs == [logprob_at(7 + i) for i in range(CHARS)]
    assert (outcome.stream.finish.prompt_chars, outcome.stream.finish.generated_chars) == (6, CHARS)
    assert replica.requests[0].received == TEXT[16:20]


def test_a_progress_that_an_earlier_client_pickled_is_still_taken() -> None:
    pickled = (
        b"ccopy_reg\n_reconstructor\n(cclient.progress\nProgress\nc__builtin__\nobject\nNtR(dVrequest\nc_codecs\nencode\n"
        b"(V\\u000a\x06ROMEO:\nVlatin1\ntRsVstarted\nccopy_reg\n_reconstructor\n(cclient.values\nStarted\n"
        b"c__builtin__\nobject\nNtR(dVseed\nI7\nsVmax_chars\nI40\nsVreplica\nccopy_reg\n_reconstructor\n"
        b"(cclient.values\nReplica\nc__builtin__\nobject\nNtR(dVdigest\nVd\nsbsbsVtext\nVhalf\nsVlogprobs\n(tsVcheckpoint\n"
        b"ccopy_reg\n_reconstructor\n(cclient.progress\nPlace\nc__builtin__\nobject\nNtR(dVtext_chars\nI2\nsbsb."
    )
    progress = pickle.loads(pickled)
    assert isinstance(progress, Progress)
    assert progress.text == "half"
    assert (progress.started, progress.checkpoint.text_chars) == (Started(7, 40, progress.started.replica), 2)
    assert b"client.results" not in pickle.dumps(progress)  # nor can an earlier client read that


@both
def test_an_error_with_all_it_has_can_be_pickled(kind: str) -> None:
    with serving(Replica([Fault("internal", 20)], chunk=1).generate) as server:
        error = read_error(kind, server.address, "stream", "ROMEO:", **OPTIONS)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.text, again.progress) == (str(error), error.text, error.progress)


@both
def test_a_server_that_does_not_know_how_to_go_on_is_not_asked_to(kind: str) -> None:
    """It would begin again, and its text would come twice."""

    def old(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        requests.append(request)
        yield from text("so", " far")

    requests: list[pb.GenerateRequest] = []
    with serving(old) as server:
        error = read_error(kind, server.address, "stream", "ROMEO:")
    assert isinstance(error, Unavailable)
    assert (error.text, error.progress, len(requests)) == ("so far", None, 1)


@both
def test_a_text_never_goes_on_at_such_a_server(kind: str) -> None:
    replica, answers = Replica([Fault("unavailable", 30)], chunk=1), 0

    def updated(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        nonlocal answers
        answers += 1
        yield from [*text(TEXT), finish(CHARS)] if answers == 2 else replica.generate(request, context)

    with serving(updated) as one, serving(updated) as two:
        assert_whole(read(kind, [one.address, two.address], "stream", "ROMEO:", **OPTIONS))
    assert answers == 3


@both
def test_a_busy_server_is_left_alone_as_long_as_it_says(kind: str) -> None:
    replica = Replica([Fault("unavailable", 30)] + [Fault("overloaded")] * 3, chunk=1)
    begin = time.monotonic()
    with serving(replica.generate) as server:
        assert_whole(read(kind, server.address, "stream", "ROMEO:", **OPTIONS))
    assert time.monotonic() - begin > 0.03


@both
def test_a_dead_address_costs_nothing_where_another_one_lives(kind: str) -> None:
    replica, dead = Replica(), dead_address()
    with serving(replica.generate) as server:
        for _ in range(4):
            outcome = read(kind, [dead, server.address], "stream", "ROMEO:", patience=0, **OPTIONS)
            assert_whole(outcome)
            assert outcome.stream.resumes == 0


@both
def test_a_wrong_address_does_not_hang(kind: str) -> None:
    begin = time.monotonic()
    assert isinstance(read_error(kind, [dead_address(), dead_address()], "stream", "ROMEO:"), Unavailable)
    assert time.monotonic() - begin < 5


@both
def test_at_first_a_busy_server_is_left_for_another_one_and_otherwise_said_to_be_busy(kind: str) -> None:
    busy = Replica([Fault("overloaded")] * 100)
    with serving(busy.generate) as one, serving(Replica().generate) as two:
        for _ in range(3):
            assert_whole(read(kind, [one.address, two.address], "stream", "ROMEO:", **OPTIONS))
    with serving(busy.generate) as server:
        for addresses in (server.address, [server.address, dead_address()]):
            error = read_error(kind, addresses, "stream", "ROMEO:")
            assert isinstance(error, Overloaded)
            assert error.retry_after == 0.01


def test_texts_begin_at_one_address_after_the_other() -> None:
    replicas = [Replica(), Replica(), Replica()]
    with (
        serving(replicas[0].generate) as one,
        serving(replicas[1].generate) as two,
        serving(replicas[2].generate) as three,
        Client([one.address, two.address, three.address]) as client,
    ):
        for _ in range(6):
            client.stream("ROMEO:").read()
    assert [len(replica.requests) for replica in replicas] == [2, 2, 2]


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_nobody_waits_for_a_server_after_the_end(how: str) -> None:
    replica = Replica([Fault("unavailable", 30)] + [Fault("unavailable")] * 100, chunk=1)
    with serving(replica.generate) as server:
        client = Client(server.address)
        stream = client.stream("ROMEO:", **OPTIONS)  # type: ignore[arg-type]
        threading.Timer(0.7, stream.cancel if how == "cancel" else client.close).start()
        begin = time.monotonic()
        if how == "cancel":
            assert stream.read() == TEXT[:30]
        else:
            with pytest.raises(Unavailable, match="closed"):
                stream.read()
        assert time.monotonic() - begin < 4
        client.close()
