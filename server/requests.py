"""GenerateRequest -> Generation. Every field is checked; an error names it, what came and what is allowed."""

import math
import secrets
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import UnknownCharacter
from protos import charstream_pb2 as pb
from server.catalog import ServedModel
from server.errors import InvalidField
from server.settings import ServerSettings
from server.values import Generation, Sampling

__all__ = ["generation_of"]

MAX_STOPS, MAX_STOP_CHARS = 16, 128
MIN_DELAY, MAX_DELAY = 0.005, 10.0  # seconds
# Seeds that are chosen for the caller stay exact in every language's numbers.
CHOSEN_SEED_BITS = 53


def generation_of(request: pb.GenerateRequest, model: ServedModel, settings: ServerSettings) -> Generation:
    """Raises InvalidField."""
    return Generation(
        prompt=_prompt(request.prompt, model, settings.max_prompt_chars),
        max_chars=_max_chars(request, settings),
        sampling=_sampling(request.sampling, len(model.manifest.symbols)),
        seed=request.seed if request.HasField("seed") else secrets.randbits(CHOSEN_SEED_BITS),
        stop=_stop(request.stop),
        max_delay=_max_delay(request.chunking, settings),
        max_chunk_chars=_max_chunk_chars(request.chunking),
    )


def _prompt(prompt: str, model: ServedModel, limit: int) -> NDArray[np.int64]:
    if len(prompt) > limit:
        raise InvalidField("prompt", f"has {len(prompt)} characters, allowed are at most {limit}")
    try:
        return model.manifest.vocabulary.encode(prompt)
    except UnknownCharacter as error:
        raise InvalidField("prompt", f"{error} of {model.manifest.name}") from None


def _max_chars(request: pb.GenerateRequest, settings: ServerSettings) -> int:
    if not request.HasField("max_chars"):
        return min(settings.default_chars, settings.max_chars)
    if not 1 <= request.max_chars <= settings.max_chars:
        raise InvalidField("max_chars", f"is {request.max_chars}, allowed are 1 to {settings.max_chars}")
    return request.max_chars


def _sampling(sampling: pb.Sampling, vocab: int) -> Sampling:
    return Sampling(
        temperature=_temperature(sampling),
        top_k=_top_k(sampling, vocab),
        top_p=_share("top_p", sampling, unset=1.0),
        min_p=_share("min_p", sampling, unset=0.0),
    )


def _top_k(sampling: pb.Sampling, vocab: int) -> int:
    """0 for no limit, as many that are no fewer than the characters."""
    if not sampling.HasField("top_k"):
        return 0
    if sampling.top_k < 1:
        raise InvalidField("sampling.top_k", "is 0, allowed are numbers from 1; leave it unset for no limit")
    return sampling.top_k if sampling.top_k < vocab else 0


def _share(name: Literal["top_p", "min_p"], sampling: pb.Sampling, unset: float) -> float:
    if not sampling.HasField(name):
        return unset
    value: float = getattr(sampling, name)
    if not (0 < value <= 1 if name == "top_p" else 0 <= value <= 1):
        allowed = "numbers above 0 and at most 1" if name == "top_p" else "numbers from 0 to 1"
        raise InvalidField(f"sampling.{name}", f"is {value:g}, allowed are {allowed}")
    return value


def _temperature(sampling: pb.Sampling) -> float:
    if not sampling.HasField("temperature"):
        return 1.0
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidField(
            "sampling.temperature", f"is {sampling.temperature}, allowed are finite numbers from 0 (greedy)"
        )
    return sampling.temperature


def _stop(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise InvalidField("stop", f"has {len(stops)} strings, allowed are at most {MAX_STOPS}")
    for number, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidField(f"stop[{number}]", f"has {len(stop)} characters, allowed are 1 to {MAX_STOP_CHARS}")
    return tuple(stops)


def _max_delay(chunking: pb.Chunking, settings: ServerSettings) -> float:
    if not chunking.HasField("max_delay"):
        return settings.chunk_seconds
    seconds = chunking.max_delay.seconds + chunking.max_delay.nanos * 1e-9
    if not MIN_DELAY <= seconds <= MAX_DELAY:
        raise InvalidField("chunking.max_delay", f"is {seconds:g} s, allowed are {MIN_DELAY} to {MAX_DELAY} s")
    return seconds


def _max_chunk_chars(chunking: pb.Chunking) -> int | None:
    if not chunking.HasField("max_chars"):
        return None
    if chunking.max_chars < 1:
        raise InvalidField("chunking.max_chars", "is 0, allowed are numbers from 1")
    return chunking.max_chars
