"""How characters are drawn: the fields of Sampling, those of a token included, checked."""

import math
from typing import Literal

from bundle.manifest import Manifest
from protos import charstream_pb2 as pb
from server.engine.messages import Sampling
from server.errors import InvalidField, quote
from server.service.fields import encode
from server.service.token_pb2 import TextState

__all__ = ["merge_sampling", "sampling_of"]

MAX_BIAS = 100.0
# How often `allowed` and `banned` may name each character: as bytes, beginnings of characters repeat.
MAX_REPEATS = 4


def merge_sampling(sampling: pb.Sampling, token: TextState | None) -> pb.Sampling:
    """Return the sampling of the resume token, with what the request sets."""
    both = pb.Sampling()
    if token:
        both.CopyFrom(token.sampling)
        if sampling.HasField("bias"):
            both.ClearField("bias")
    both.MergeFrom(sampling)
    return both


def sampling_of(sampling: pb.Sampling, manifest: Manifest) -> Sampling:
    """Return the sampling that the engine uses. Raises InvalidField."""
    return Sampling(
        temperature=_temperature(sampling),
        top_k=_top_k(sampling, len(manifest.symbols)),
        top_p=_share("top_p", sampling, unset=1.0),
        min_p=_share("min_p", sampling, unset=0.0),
        bias=_bias(sampling, manifest),
    )


def _top_k(sampling: pb.Sampling, vocab: int) -> int:
    """Return top_k, or 0 where it limits nothing."""
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


def _bias(sampling: pb.Sampling, manifest: Manifest) -> tuple[tuple[int, float], ...]:
    """Return what is added to the logits: -inf for characters that may not come."""
    bias = {_token(char, manifest): _bias_value(char, value) for char, value in sampling.bias.of.items()}
    if sampling.HasField("allowed"):
        allowed = set(_tokens("allowed", sampling.allowed, manifest))
        bias |= dict.fromkeys(set(range(len(manifest.symbols))) - allowed, -math.inf)
    bias |= dict.fromkeys(_tokens("banned", sampling.banned, manifest), -math.inf)
    if sum(value == -math.inf for value in bias.values()) == len(manifest.symbols):
        field = "allowed" if sampling.HasField("allowed") else "banned"
        raise InvalidField(f"sampling.{field}", "leaves no character that may come")
    return tuple((char, value) for char, value in sorted(bias.items()) if value)


def _tokens(name: Literal["allowed", "banned"], chars: str, manifest: Manifest) -> list[int]:
    most = MAX_REPEATS * len(manifest.symbols)
    if len(chars) > most:
        raise InvalidField(f"sampling.{name}", f"has {len(chars)} characters, allowed are at most {most}")
    numbers: list[int] = encode(f"sampling.{name}", chars, manifest).tolist()
    return numbers


def _token(char: str, manifest: Manifest) -> int:
    if len(char) != 1:
        raise InvalidField("sampling.bias", f"has the key {quote(char)}, allowed are single characters")
    numbers = encode("sampling.bias", char, manifest)
    if len(numbers) != 1:
        raise InvalidField("sampling.bias", f"has the key {quote(char)}, which is {len(numbers)} bytes: one has a bias")
    return int(numbers[0])


def _bias_value(char: str, value: float) -> float:
    if not -MAX_BIAS <= value <= MAX_BIAS:
        raise InvalidField(
            "sampling.bias", f"of {char!r} is {value:g}, allowed are numbers from {-MAX_BIAS:g} to {MAX_BIAS:g}"
        )
    return value
