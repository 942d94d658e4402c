"""GenerateRequest -> Generation. Every field is checked; an error names it, what came and what is allowed."""

import math
import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import UnknownCharacter
from protos import charstream_pb2 as pb
from server.catalog import ServedModel
from server.errors import InvalidField
from server.settings import ServerSettings
from server.values import Generation

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
        temperature=_temperature(request.sampling),
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
