"""Limits hold for every character of a served text, as float64 and torch see them; limits that exclude nothing change
nothing. What is out of range is in test_bad_input.py."""

import asyncio

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bundle.philox import uniforms
from export.verification.expected_outcome import Choice, probabilities
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess
from tests.server.reference import EDGE, temperature_of
from tests.server.service.test_generate import read

PROMPT, CHARS = "To be, or not to be", 300
LIMITS = {
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.3},
    "all, hot": {"top_k": 12, "top_p": 0.85, "min_p": 0.05, "temperature": 1.7},
    "all, cold": {"top_k": 4, "top_p": 0.8, "min_p": 0.1, "temperature": 0.6},
    "one character's share": {"top_p": 1e-6},
}


def asked(seed: int = 1, **sampling: float) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=PROMPT, max_chars=CHARS, seed=seed, sampling=pb.Sampling(**sampling))  # type: ignore[arg-type]


async def texts_of(server: ServerProcess, *requests: pb.GenerateRequest) -> list[str]:
    """At the same time, in one batch."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        return [text for text, _ in await asyncio.gather(*(read(stub.Generate(request)) for request in requests))]


def float64_logits(tiny: Trained, text: str) -> NDArray[np.float64]:
    """Before each character of the text: [CHARS, V]."""
    given = torch.from_numpy(tiny.vocabulary.encode(tiny.start_text + PROMPT + text))
    model = type(tiny.model)(tiny.model.config).double().eval()
    model.load_state_dict(tiny.model.state_dict())
    with torch.inference_mode():
        logits, _ = model(given[:-1, None], model.initial_state(1))
    return logits[-len(text) :, 0].numpy()


def choices(tiny: Trained, request: pb.GenerateRequest) -> list[Choice]:
    """How each character of its text is decided."""
    sampling = request.sampling
    first = len(tiny.start_text + PROMPT)
    return [
        Choice(
            forced=-1,
            uniform=float(uniform),
            temperature=temperature_of(request),
            top_k=sampling.top_k,
            top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
            min_p=sampling.min_p,
        )
        for uniform in uniforms([request.seed], [first], CHARS)[:, 0]
    ]


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_character_is_within_the_limits(
    server: ServerProcess, tiny: Trained, limits: dict[str, float], seed: int
) -> None:
    request = asked(seed, **limits)
    (text,) = await texts_of(server, request)
    outcomes = tiny.vocabulary.encode(text)
    decided = [*zip(float64_logits(tiny, text), choices(tiny, request), outcomes, strict=True)]
    assert len(decided) == CHARS
    # A character whose probability lies on a limit may fall on either side of it.
    outside = [n for n, (logits, how, c) in enumerate(decided) if not probabilities(logits, how, -EDGE, EDGE)[c]]
    assert not outside
    # And of those within it is the one that the random number decides.
    accepted = [how.accepts(logits, int(c), EDGE) for logits, how, c in decided]
    assert all(may for _, may in accepted)
    assert sum(exact for exact, _ in accepted) >= CHARS - 2
    # What the same random number would have taken without limits is often excluded.
    free = [Choice(-1, how.uniform, how.temperature).accepts(logits, int(c), EDGE)[0] for logits, how, c in decided]
    assert sum(free) < CHARS * 0.9


async def test_the_most_probable_character_alone_is_greedy(server: ServerProcess) -> None:
    greedy, *others = await texts_of(
        server,
        asked(temperature=0),
        asked(top_k=1),
        asked(seed=5, top_k=1, temperature=1.5),
        asked(min_p=1),
        asked(top_p=1e-9),
        asked(temperature=0, top_k=7, top_p=0.4, min_p=0.2),
    )
    assert others == [greedy] * 5


async def test_limits_that_exclude_nothing_change_nothing(server: ServerProcess, tiny: Trained) -> None:
    """Whether they take the text to the other graph or not."""
    vocab = len(tiny.vocabulary)
    free, *others = await texts_of(
        server,
        asked(),
        asked(top_k=0),
        asked(top_k=vocab),
        asked(top_k=2**32 - 1),
        asked(top_p=1),
        asked(min_p=0),
        asked(min_p=1e-30),
        asked(top_k=vocab, top_p=1, min_p=0),
    )
    assert others == [free] * 7


async def test_one_text_s_limits_are_not_its_neighbours(server: ServerProcess) -> None:
    requests = [asked(seed, **limits) for seed in range(4) for limits in ({}, {"top_k": 2}, {"min_p": 0.5})]
    alone = [(await texts_of(server, request))[0] for request in requests]
    assert await texts_of(server, *requests) == alone
