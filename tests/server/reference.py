"""The torch reference of a served text, and what may differ from it: nothing but a random number on an edge.

Two fp32 implementations round differently, by about 1e-7 of a cumulated probability. Where a random number falls
between two roundings the served character may be the neighbour's; from there on the text must be what the reference
makes of it.
"""

import torch

from bundle.philox import uniforms
from models.network.generate import generate
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb

EDGE = 1e-5


def temperature_of(request: pb.GenerateRequest) -> float:
    return request.sampling.temperature if request.sampling.HasField("temperature") else 1.0


def reference(tiny: Trained, request: pb.GenerateRequest) -> str:
    """The whole text, without stop strings."""
    parts = (tiny.model, tiny.vocabulary, tiny.start_text)
    temperature = temperature_of(request)
    return generate(*parts, request.prompt, request.max_chars, temperature=temperature, seed=request.seed)


def assert_is_reference(tiny: Trained, request: pb.GenerateRequest, text: str) -> None:
    """Fails unless the text is the reference's, but for at most one edge."""
    expected = reference(tiny, request)
    if text == expected:
        return
    assert len(text) == len(expected), request
    place = next(i for i, (served, wanted) in enumerate(zip(text, expected, strict=True)) if served != wanted)
    assert distance_to_edge(tiny, request, text[: place + 1]) < EDGE, (request, place, text, expected)
    # A character that was generated and one that is forced have the same position: the rest has the same numbers.
    rest = pb.GenerateRequest()
    rest.CopyFrom(request)
    rest.prompt, rest.max_chars = request.prompt + text[: place + 1], len(text) - place - 1
    assert text[place + 1 :] == reference(tiny, rest), request


def distance_to_edge(tiny: Trained, request: pb.GenerateRequest, text: str) -> float:
    """How far the random number of the text's last character lies outside that character's share; 0 inside."""
    given = tiny.vocabulary.encode(tiny.start_text + request.prompt + text)
    with torch.inference_mode():
        logits, _ = tiny.model(torch.from_numpy(given[:-1])[:, None], tiny.model.initial_state(1))
    if temperature_of(request) == 0:
        return float(logits[-1, 0].max() - logits[-1, 0, given[-1]])
    cdf = torch.softmax(logits[-1, 0].double() / temperature_of(request), 0).cumsum(0)
    uniform = float(uniforms([request.seed], [len(given) - 1], 1)[0, 0])
    low = float(cdf[given[-1] - 1]) if given[-1] else 0.0
    return max(low - uniform, uniform - float(cdf[given[-1]]), 0.0)
