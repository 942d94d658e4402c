"""What a text is worth to the model: the same numbers from Score, from Generate and from torch."""

import asyncio
import math
import random

import grpc
import numpy as np
import pytest
import torch

from models.evaluation.losses import carried_nats
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ASCII, ServerProcess

# float32, two implementations, and logits that reach 20.
CLOSE = 1e-4
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"


def score(server: ServerProcess, **fields: object) -> tuple[pb.Logprobs, pb.ScoreSummary]:
    """All parts in one, and the summary."""
    with grpc.insecure_channel(server.address) as channel:
        messages = list(rpc.TextGenerationStub(channel).Score(pb.ScoreRequest(**fields)))  # type: ignore[arg-type]
    whole = pb.Logprobs()
    for message in messages:
        whole.MergeFrom(message.logprobs)
    assert [message.HasField("summary") for message in messages] == [False] * (len(messages) - 1) + [True]
    return whole, messages[-1].summary


def torch_logprobs(tiny: Trained, prompt: str, text: str) -> torch.Tensor:
    """Of all characters at the places of the text, [N, V]."""
    ids = torch.from_numpy(tiny.vocabulary.encode(tiny.start_text + prompt + text))
    with torch.inference_mode():
        logits, _ = tiny.model(ids[:-1, None], tiny.model.initial_state(1))
    return logits[len(prompt) :, 0].log_softmax(1)


@pytest.mark.parametrize("prompt", ["", "HAMLET:\n", TEXT])
@pytest.mark.parametrize("text", ["T", TEXT[:20], TEXT * 10])
def test_scores_are_those_of_torch(server: ServerProcess, tiny: Trained, prompt: str, text: str) -> None:
    logprobs, summary = score(server, prompt=prompt, text=text, alternatives=3)
    expected = torch_logprobs(tiny, prompt, text)
    chosen = expected[torch.arange(len(text)), torch.from_numpy(tiny.vocabulary.encode(text))]
    np.testing.assert_allclose(logprobs.chosen, chosen.numpy(), atol=CLOSE)
    best = expected.topk(3)
    np.testing.assert_allclose([one.logprobs for one in logprobs.alternatives], best.values.numpy(), atol=CLOSE)
    for place, one in enumerate(logprobs.alternatives):
        for char, value in zip(one.chars, best.values[place].tolist(), strict=True):
            assert abs(float(expected[place, ASCII.index(char)]) - value) < CLOSE
    nats = -float(chosen.double().sum())
    assert summary.chars == len(text)
    assert summary.nats == pytest.approx(nats, abs=CLOSE * len(text))
    assert summary.bits_per_char == pytest.approx(nats / len(text) / math.log(2), abs=CLOSE)
    assert summary.perplexity == pytest.approx(math.exp(nats / len(text)), rel=CLOSE)
    assert summary.position == len(prompt) + len(text)


def test_scores_do_not_depend_on_who_shares_the_batch(server: ServerProcess) -> None:
    """Twenty texts at once, beside generated ones, have the bits that each has alone."""
    rng = random.Random(1)
    texts = ["".join(rng.choice(ASCII) for _ in range(rng.choice((1, 10, 60, 700)))) for _ in range(20)]
    alone = [list(score(server, text=text)[0].chosen) for text in texts]

    async def together() -> list[list[float]]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)

            async def one(text: str) -> list[float]:
                return [x async for m in stub.Score(pb.ScoreRequest(text=text)) for x in m.logprobs.chosen]

            async def other(seed: int) -> None:
                async for _ in stub.Generate(pb.GenerateRequest(max_chars=500, seed=seed, logprobs=seed % 2)):
                    pass

            scored = asyncio.gather(*map(one, texts))
            await asyncio.gather(scored, *map(other, range(8)))
            return await scored

    assert asyncio.run(together()) == alone


def test_score_and_generate_agree(server: ServerProcess) -> None:
    """What was generated with log-probabilities has the same ones when it is scored, bit for bit."""
    request = pb.GenerateRequest(prompt="abc", max_chars=300, seed=1, logprobs=2)
    request.sampling.temperature, request.sampling.top_k = 0.7, 5
    with grpc.insecure_channel(server.address) as channel:
        messages = list(rpc.TextGenerationStub(channel).Generate(request))
    text = "".join(message.text for message in messages)
    generated = pb.Logprobs()
    for message in messages:
        assert len(message.logprobs.chosen) == len(message.logprobs.alternatives) == len(message.text)
        generated.MergeFrom(message.logprobs)
    scored, summary = score(server, prompt="abc", text=text, alternatives=2)
    assert generated == scored
    assert summary.nats == pytest.approx(-sum(generated.chosen))


def test_an_echoed_prompt_is_scored_too(server: ServerProcess) -> None:
    prompt = TEXT * 2
    with grpc.insecure_channel(server.address) as channel:
        request = pb.GenerateRequest(prompt=prompt, max_chars=50, seed=1, logprobs=1, echo=True)
        messages = list(rpc.TextGenerationStub(channel).Generate(request))
        request.received = prompt[:30]
        rest = list(rpc.TextGenerationStub(channel).Generate(request))
    text = "".join(message.text for message in messages)
    assert text.startswith(prompt)
    logprobs = [x for message in messages for x in message.logprobs.chosen]
    assert logprobs == list(score(server, text=text)[0].chosen)
    assert "".join(message.text for message in rest) == text[30:]
    assert [x for message in rest for x in message.logprobs.chosen] == logprobs[30:]


def test_a_long_text_is_scored_in_parts(server: ServerProcess) -> None:
    """Each from the token of the one before: the numbers of one call."""
    text = TEXT * 40
    whole, summary = score(server, text=text)
    found: list[float] = []
    token, nats = b"", 0.0
    for begin in range(0, len(text), 1000):
        part, end = score(server, text=text[begin : begin + 1000], resume_token=token, return_token=True)
        found += part.chosen
        token, nats = end.resume_token, nats + end.nats
    assert found == list(whole.chosen)
    assert nats == pytest.approx(summary.nats)
    assert end.position == len(text)


def test_score_is_the_loss_of_the_evaluation(server: ServerProcess, tiny: Trained) -> None:
    """Mean nats per character of a text as `charstream train` and `verify` state them, with a carried state."""
    text = TEXT * 5
    ids = tiny.vocabulary.encode(text)
    expected = carried_nats(tiny.model, ids, ASCII.index("\n"))
    _, summary = score(server, text=text)
    assert summary.nats / summary.chars == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "text: is empty"),
        ({"text": "na\u00efve"}, "text: .*U\\+00EF.*place 2"),
        ({"text": "a", "prompt": "\u00ef"}, "prompt: .*U\\+00EF"),
        ({"text": "a" * 20_001}, "text: has 20001 characters"),
        ({"text": "a", "alternatives": 21}, "alternatives: is 21, allowed are at most 20"),
        ({"text": "a", "resume_token": b"x"}, "resume_token: is no token"),
    ],
)
def test_what_cannot_be_scored_is_named(server: ServerProcess, fields: dict[str, object], words: str) -> None:
    with pytest.raises(grpc.RpcError, match=words) as caught:
        score(server, **fields)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
