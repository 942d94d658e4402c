"""Each field of a request does what charstream.proto says, over gRPC."""

import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import torch

from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.engine.messages import Repeat
from tests.conftest import ASCII, ServerProcess
from tests.server.engine.test_repeats import end_by_definition

R, S = pb.GenerateRequest, pb.Sampling
PROMPT = "To be, or not to be"


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[rpc.TextGenerationStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield rpc.TextGenerationStub(channel)


def read(stub: rpc.TextGenerationStub, **fields: object) -> tuple[str, pb.Finish]:
    """The text of one continuation."""
    messages = list(stub.Generate(R(**{"prompt": PROMPT, "seed": 7, "max_chars": 200} | fields)))  # type: ignore[arg-type]
    assert [message.HasField("finish") for message in messages] == [False] * (len(messages) - 1) + [True]
    return "".join(message.text for message in messages), messages[-1].finish


def test_the_first_message_says_what_was_chosen(server: ServerProcess, stub: rpc.TextGenerationStub) -> None:
    with grpc.insecure_channel(server.address) as channel:
        model = rpc.ModelsStub(channel).GetModel(pb.GetModelRequest(name="tiny"))
    first, *others = stub.Generate(R(prompt="a"))
    assert first.started.max_chars == 256
    assert (first.started.replica.digest, first.started.replica.numerics) == (model.digest, model.numerics)
    assert first.started.replica.precision == "fp32"
    assert not any(message.HasField("started") for message in others)
    text = first.text + "".join(message.text for message in others)
    again, _ = read(stub, prompt="a", seed=first.started.seed, max_chars=256, replica=first.started.replica)
    assert again == text


@pytest.mark.parametrize("what", ["digest", "precision", "numerics"])
def test_another_replica_does_not_answer(stub: rpc.TextGenerationStub, what: str) -> None:
    with pytest.raises(grpc.RpcError, match=f"replica: the text began with {what} 'other'") as caught:
        read(stub, replica=pb.Replica(**{what: "other"}))  # type: ignore[arg-type]
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_characters_that_are_not_allowed_never_come(stub: rpc.TextGenerationStub) -> None:
    text, _ = read(stub, sampling=S(allowed="etaoin \n", banned="o"), max_chars=500)
    assert len(text) == 500
    assert set(text) <= set("etain \n")
    assert len(set(text)) > 3


def test_a_bias_is_added_to_the_logits(stub: rpc.TextGenerationStub, tiny: Trained) -> None:
    """Greedy: the most probable character after the bias, at every place."""
    of = {"x": 8.0, "q": 6.5, "Z": -100.0}
    text, _ = read(stub, sampling=S(temperature=0, bias=pb.Bias(of=of)), max_chars=60)
    ids = torch.from_numpy(tiny.vocabulary.encode(tiny.start_text + PROMPT + text))
    bias = torch.zeros(len(ASCII))
    for char, value in of.items():
        bias[ASCII.index(char)] = value
    with torch.inference_mode():
        logits, _ = tiny.model(ids[:-1, None], tiny.model.initial_state(1))
    best = (logits[len(PROMPT) :, 0] + bias).argmax(1)
    assert text == tiny.vocabulary.decode(best.numpy())
    assert {"x", "q"} & set(text), "the bias decides nothing here"


def test_the_stop_string_is_part_of_the_text_if_asked_for(stub: rpc.TextGenerationStub) -> None:
    whole, _ = read(stub)
    stop = whole[50:53]
    before, finish = read(stub, stop=[stop])
    after, included = read(stub, stop=[stop], include_stop=True)
    assert after == before + stop
    assert (finish.stop, included.stop) == (stop, stop)
    assert (finish.generated_chars, included.generated_chars) == (len(before), len(after))


def test_no_stop_string_begins_before_min_chars(stub: rpc.TextGenerationStub) -> None:
    whole, _ = read(stub)
    char = whole[3]
    place = whole.index(char, 40)
    text, _ = read(stub, stop=[char], min_chars=40)
    assert text == whole[:place]


# Rows of one letter, of which this text has many, are no loop.
LOOP = Repeat(max_period=200, times=3, min_period=20)
GREEDY = S(temperature=0)


@pytest.fixture(scope="module")
def loop(stub: rpc.TextGenerationStub) -> tuple[str, int, int]:
    """The most probable text, which comes to a loop; where that has come LOOP.times times, and its period."""
    whole, _ = read(stub, sampling=GREEDY, max_chars=1500)
    end, period = end_by_definition(whole, LOOP)
    assert 20 < end < 700
    return whole, end, period


def read_to_repeat(stub: rpc.TextGenerationStub, **fields: object) -> tuple[str, pb.Finish]:
    repeat = pb.Repeat(max_period=LOOP.max_period, times=LOOP.times, min_period=LOOP.min_period)
    return read(stub, **{"sampling": GREEDY, "max_chars": 1500, "stop_on_repeat": repeat} | fields)


@pytest.mark.parametrize("chunking", [{"max_chars": 1}, {"max_chars": 7}, {"max_delay": {"nanos": 500_000_000}}])
def test_a_text_ends_when_it_repeats_itself(
    stub: rpc.TextGenerationStub, loop: tuple[str, int, int], chunking: dict[str, object]
) -> None:
    whole, end, period = loop
    text, finish = read_to_repeat(stub, chunking=chunking, return_token=True)
    assert text == whole[:end]
    assert (finish.reason, finish.repeat_period, finish.stop) == (pb.FINISH_REASON_REPEAT, period, "")
    assert (finish.generated_chars, finish.position) == (end, len(PROMPT) + end)
    assert read(stub, prompt="", sampling=GREEDY, resume_token=finish.resume_token)[0] == whole[end : end + 200]


def test_only_generated_characters_repeat_themselves(stub: rpc.TextGenerationStub, loop: tuple[str, int, int]) -> None:
    """Not the prompt, and not the first min_chars."""
    whole, end, _ = loop
    later, _ = end_by_definition(whole[end:], LOOP)
    assert read_to_repeat(stub, prompt=PROMPT + whole[:end])[0] == whole[end : end + later]
    assert read_to_repeat(stub, min_chars=end)[0] == whole[: end + later]


def test_a_text_repeats_itself_across_calls(stub: rpc.TextGenerationStub, loop: tuple[str, int, int]) -> None:
    """Whether the first part is received text or a token's; what came after its end adds nothing."""
    whole, end, period = loop
    for chars in (1, end - 1, end):
        text, finish = read_to_repeat(stub, received=whole[:chars])
        assert (text, finish.reason, finish.repeat_period) == (whole[chars:end], pb.FINISH_REASON_REPEAT, period)
    token = read_to_repeat(stub, max_chars=end - 1, return_token=True)[1].resume_token
    text, finish = read_to_repeat(stub, prompt="", resume_token=token, return_token=True)
    assert (text, finish.reason) == (whole[end - 1 : end], pb.FINISH_REASON_REPEAT)
    again, _ = read_to_repeat(stub, prompt="", resume_token=finish.resume_token)
    assert again == whole[end : end + 1], "it still repeats itself"
    later, _ = end_by_definition(whole[end + 1 :], LOOP)
    anew, _ = read_to_repeat(stub, prompt="", resume_token=finish.resume_token, min_chars=1)
    assert anew == whole[end : end + 1 + later], "with min_chars what came before does not count"


def test_each_continuation_repeats_itself(stub: rpc.TextGenerationStub) -> None:
    cold, loop = S(temperature=0.4), Repeat(30, 3, min_period=3)
    wanted = pb.Repeat(max_period=30, times=3, min_period=3)
    request = R(prompt=PROMPT, seed=1, max_chars=400, n=3, sampling=cold, stop_on_repeat=wanted)
    texts, reasons = [""] * 3, [0] * 3
    for message in stub.Generate(request):
        texts[message.index] += message.text
        reasons[message.index] = message.finish.reason
    for index in range(3):
        whole, _ = read(stub, seed=1, max_chars=400, continuation=index, sampling=cold)
        end, period = end_by_definition(whole, loop)
        assert period, "none here: the test needs another seed"
        assert (texts[index], reasons[index]) == (whole[:end], pb.FINISH_REASON_REPEAT)
    assert len({len(text) for text in texts}) > 1


def test_the_prompt_comes_first_with_echo(stub: rpc.TextGenerationStub) -> None:
    whole, _ = read(stub)
    text, finish = read(stub, echo=True)
    assert text == PROMPT + whole
    assert (finish.prompt_chars, finish.generated_chars) == (len(PROMPT), 200)


CHANGED = {pb.UNKNOWN_SKIP: "To be? tobe", pb.UNKNOWN_REPLACE: "To be? ?to??be"}


@pytest.mark.parametrize("how", CHANGED)
def test_unknown_characters_are_left_out_or_replaced_and_counted(stub: rpc.TextGenerationStub, how: pb.Unknown) -> None:
    """As if the prompt had been the changed one; so too where a text goes on, whose request has the one that came."""
    prompt = "To be? \u00fcto\u4e00\U0001f600be"
    fields = {"seed": 3, "max_chars": 40, "echo": True}
    whole, _ = read(stub, prompt=CHANGED[how], **fields)
    messages = list(stub.Generate(R(prompt=prompt, unknown=how, **fields)))  # type: ignore[arg-type]
    assert "".join(message.text for message in messages) == whole
    assert messages[0].started.unknown_chars == 3
    assert messages[-1].finish.prompt_chars == len(CHANGED[how])
    received = len(CHANGED[how]) + 20
    assert read(stub, prompt=prompt, unknown=how, received=whole[:received], **fields)[0] == whole[received:]
    scored, plain = (
        list(stub.Score(pb.ScoreRequest(prompt="\u00fc" + text, text=text, unknown=how)))[-1].summary
        for text in (prompt, CHANGED[how])
    )
    assert (scored.nats, scored.chars) == (plain.nats, len(CHANGED[how]))
    assert (scored.unknown_chars, plain.unknown_chars) == (7, 1)


def test_a_prompt_of_unknown_characters_alone_is_none_where_a_text_goes_on(stub: rpc.TextGenerationStub) -> None:
    """A stop string that began before the place counts, as without a prompt."""
    whole, _ = read(stub)
    token = read(stub, max_chars=100, return_token=True)[1].resume_token
    fields = {"resume_token": token, "stop": [whole[97:103]], "max_chars": 100}
    text, finish = read(stub, prompt="\u00fc\u4e00", unknown=pb.UNKNOWN_SKIP, **fields)
    plain, expected = read(stub, prompt="", **fields)
    assert finish.reason == expected.reason == pb.FINISH_REASON_STOP
    assert text == plain


@pytest.mark.parametrize("unknown", [pb.UNKNOWN_UNSPECIFIED, pb.UNKNOWN_REFUSE])
def test_unknown_characters_are_refused_unless_asked_for(stub: rpc.TextGenerationStub, unknown: pb.Unknown) -> None:
    with pytest.raises(grpc.RpcError, match=r"prompt: character 'ü' \(U\+00FC\) at place 1 is not in the vocabulary"):
        read(stub, prompt="aü", unknown=unknown)


def test_a_part_to_score_of_which_nothing_is_left_passes_on_the_place(stub: rpc.TextGenerationStub) -> None:
    fields = {"unknown": pb.UNKNOWN_SKIP, "return_token": True}
    token, total = b"", 0.0
    for part, left in (("üß", ""), ("to be", "to be"), ("ü", ""), ("ß or", " or")):
        *parts, last = stub.Score(pb.ScoreRequest(text=part, resume_token=token, **fields))  # type: ignore[arg-type]
        assert "".join(message.text for message in [*parts, last]) == (left if left != part else "")
        assert sum(len(message.logprobs.chosen) for message in [*parts, last]) == len(left)
        token, total = last.summary.resume_token, total + last.summary.nats
    assert total == pytest.approx(list(stub.Score(pb.ScoreRequest(text="to be or")))[-1].summary.nats)


def test_a_text_to_score_of_unknown_characters_alone_is_refused(stub: rpc.TextGenerationStub) -> None:
    with pytest.raises(grpc.RpcError, match="text: has 2 characters, none of them known to tiny"):
        list(stub.Score(pb.ScoreRequest(text="üß", unknown=pb.UNKNOWN_SKIP)))


def test_a_time_limit_ends_a_text_in_order(stub: rpc.TextGenerationStub) -> None:
    begin = time.monotonic()
    text, finish = read(stub, max_chars=100_000, time_limit={"nanos": 300_000_000}, return_token=True)
    assert finish.reason == pb.FINISH_REASON_DEADLINE
    assert 0 < len(text) == finish.generated_chars < 100_000
    assert time.monotonic() - begin < 10
    rest, _ = read(stub, prompt="", seed=7, resume_token=finish.resume_token, max_chars=50)
    whole, _ = read(stub, max_chars=len(text) + 50)
    assert text + rest == whole


def test_what_may_begin_a_stop_string_is_sent_when_the_time_is_over(stub: rpc.TextGenerationStub) -> None:
    """All that is generated begins the stop string: nothing comes until the time is over, and then all of it."""
    stop = "a" * 128
    limit = {"nanos": 50_000_000}
    text, finish = read(stub, sampling=S(allowed="a"), stop=[stop], max_chars=127, time_limit=limit)
    assert text == "a" * 127
    text, finish = read(stub, sampling=S(allowed="a"), stop=[stop], max_chars=1000)
    assert (text, finish.reason) == ("", pb.FINISH_REASON_STOP)


def test_continuations_are_those_that_each_index_gives_alone(stub: rpc.TextGenerationStub) -> None:
    for prompt in ("", "a", PROMPT * 5):
        messages = list(stub.Generate(R(prompt=prompt, seed=1, max_chars=90, n=4, logprobs=1, echo=True)))
        texts = ["".join(m.text for m in messages if m.index == index) for index in range(4)]
        assert len(set(texts)) == 4
        for index, text in enumerate(texts):
            own = [message for message in messages if message.index == index]
            assert own[0].HasField("started")
            assert own[-1].HasField("finish")
            alone = list(
                stub.Generate(R(prompt=prompt, seed=1, max_chars=90, continuation=index, logprobs=1, echo=True))
            )
            assert "".join(message.text for message in alone) == text
            assert {message.index for message in alone} == {index}
            scores = [[x for m in ms for x in m.logprobs.chosen] for ms in (own, alone)]
            np.testing.assert_array_equal(scores[0], scores[1])
            assert len(scores[0]) == len(text)


def test_checkpoints_of_continuations_count_the_echo(stub: rpc.TextGenerationStub) -> None:
    messages = list(stub.Generate(R(prompt=PROMPT, seed=1, max_chars=300, n=2, echo=True, checkpoint_chars=64)))
    places = [message.checkpoint for message in messages if message.HasField("checkpoint")]
    assert places
    for place in places:
        assert place.text_chars == len(PROMPT) + place.generated_chars
        assert place.position == place.text_chars


def test_continuations_whose_prompt_takes_too_long_end_in_order(stub: rpc.TextGenerationStub) -> None:
    request = R(prompt=PROMPT * 1000, n=3, max_chars=10, time_limit={"nanos": 1_000_000}, return_token=True)
    messages = list(stub.Generate(request))
    assert sorted(message.index for message in messages) == [0, 1, 2]
    assert {message.finish.reason for message in messages} == {pb.FINISH_REASON_DEADLINE}


def test_tokens_stay_small_while_text_is_held_back(stub: rpc.TextGenerationStub) -> None:
    """All of it may begin the stop string, and more than a run is always held back."""
    request = R(seed=1, max_chars=8000, stop=["a" * 127 + "b"], checkpoint_chars=64, sampling=S(allowed="a"))
    messages = list(stub.Generate(request))
    places = [message.checkpoint for message in messages if message.HasField("checkpoint")]
    assert len(places) > 20
    assert max(len(place.resume_token) for place in places) < len(places[0].resume_token) + 600
    last = places[-1]
    rest, _ = read(
        stub,
        prompt="",
        seed=1,
        resume_token=last.resume_token,
        max_chars=8000 - last.generated_chars,
        stop=request.stop,
    )
    assert last.text_chars + len(rest) == 8000


def test_continuations_have_tokens_and_checkpoints_of_their_own(stub: rpc.TextGenerationStub) -> None:
    request = R(prompt=PROMPT * 5, seed=1, max_chars=1000, n=3, return_token=True, checkpoint_chars=300)
    messages = list(stub.Generate(request))
    for index in range(3):
        own = [message for message in messages if message.index == index]
        text = "".join(message.text for message in own)
        whole, _ = read(stub, prompt=request.prompt, seed=1, max_chars=1100, continuation=index)
        rest, finish = read(stub, prompt="", seed=1, resume_token=own[-1].finish.resume_token, max_chars=100)
        assert text + rest == whole
        assert finish.position == len(request.prompt) + 1100
        places = [message.checkpoint for message in own if message.HasField("checkpoint")]
        assert places  # a busy event loop sends longer messages, so a short text could end before one is due
        for place in places:
            left = 1000 - place.generated_chars
            rest, _ = read(stub, prompt="", seed=1, resume_token=place.resume_token, max_chars=left)
            assert text[: place.text_chars] + rest == text


def test_checkpoints_come_as_often_as_asked_for(stub: rpc.TextGenerationStub) -> None:
    messages = list(stub.Generate(R(prompt=PROMPT, seed=1, max_chars=3000, checkpoint_chars=256)))
    places = [message.checkpoint for message in messages if message.HasField("checkpoint")]
    # A run has at most 64 characters; a message may cover several checkpoints, of which it has the newest.
    assert 3000 // (256 + 64) - 3 <= len(places) <= 3000 // 256
    sent = 0
    for message in messages:
        sent += len(message.text)
        if message.HasField("checkpoint"):
            assert message.checkpoint.text_chars == message.checkpoint.generated_chars <= sent
            assert message.checkpoint.position == len(PROMPT) + message.checkpoint.generated_chars


def test_a_received_text_is_not_sent_again(stub: rpc.TextGenerationStub) -> None:
    whole, _ = read(stub)
    for chars in (0, 1, 63, 199, 200):
        rest, finish = read(stub, received=whole[:chars])
        assert rest == whole[chars:]
        assert (finish.reason, finish.generated_chars) == (pb.FINISH_REASON_LENGTH, 200)


def test_a_received_text_that_has_its_stop_string_is_at_its_end(stub: rpc.TextGenerationStub) -> None:
    """The last message was lost; there is nothing more."""
    whole, _ = read(stub)
    stop = whole[50:53]
    text, finish = read(stub, stop=[stop], include_stop=True)
    rest, again = read(stub, stop=[stop], include_stop=True, received=text)
    assert (rest, again.stop, again.reason) == ("", stop, pb.FINISH_REASON_STOP)
    assert again.generated_chars == finish.generated_chars
    assert again.position == finish.position
    text, ended = read(stub, stop=[stop], include_stop=True, received=text, return_token=True)
    assert read(stub, prompt="", resume_token=ended.resume_token, max_chars=200 - 53)[0] == whole[53:]
