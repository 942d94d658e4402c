"""How characters are drawn: the fields of Sampling, those of a token included, checked."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import UnknownCharacter
from protos import charstream_pb2 as pb
from server.catalog.loaded_model import ServedModel
from server.engine.messages import Sampling
from server.errors import InvalidField, shown
from server.service.token_pb2 import TextState

__all__ = ["encoded", "merged", "numbered", "sampling_of"]

MAX_BIAS = 100.0
# `allowed` and `banned` may name each character so often: as bytes, beginnings of characters repeat.
MAX_REPEATS = 4


def encoded(field: str, text: str, model: ServedModel) -> NDArray[np.int64]:
    """The numbers of the symbols that a field's text is made of. Raises InvalidField."""
    return numbered(field, model.manifest.vocabulary.text_to_symbols(text), model)


def numbered(field: str, symbols: str, model: ServedModel) -> NDArray[np.int64]:
    """The numbers of a field's symbols. Raises InvalidField."""
    if not symbols:
        return np.empty(0, np.int64)  # most fields of most requests
    try:
        return model.manifest.vocabulary.symbols_to_tokens(symbols)
    except UnknownCharacter as error:
        raise InvalidField(field, f"{error} of {model.manifest.name}") from None


def merged(sampling: pb.Sampling, token: TextState | None) -> pb.Sampling:
    """The token's, with what the request sets."""
    both = pb.Sampling()
    if token:
        both.CopyFrom(token.sampling)
        if sampling.HasField("bias"):
            both.ClearField("bias")
    both.MergeFrom(sampling)
    return both


def sampling_of(sampling: pb.Sampling, model: ServedModel) -> Sampling:
    """Raises InvalidField."""
    return Sampling(
        temperature=_temperature(sampling),
        top_k=_top_k(sampling, len(model.manifest.symbols)),
        top_p=_share("top_p", sampling, unset=1.0),
        min_p=_share("min_p", sampling, unset=0.0),
        bias=_bias(sampling, model),
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


def _bias(sampling: pb.Sampling, model: ServedModel) -> tuple[tuple[int, float], ...]:
    """What is added to the logits: -inf for characters that may not come."""
    bias = {_character(char, model): _bias_value(char, value) for char, value in sampling.bias.of.items()}
    if sampling.HasField("allowed"):
        allowed = set(_set("allowed", sampling.allowed, model))
        bias |= dict.fromkeys(set(range(len(model.manifest.symbols))) - allowed, -math.inf)
    bias |= dict.fromkeys(_set("banned", sampling.banned, model), -math.inf)
    if sum(value == -math.inf for value in bias.values()) == len(model.manifest.symbols):
        field = "allowed" if sampling.HasField("allowed") else "banned"
        raise InvalidField(f"sampling.{field}", "leaves no character that may come")
    return tuple((char, value) for char, value in sorted(bias.items()) if value)


def _set(name: Literal["allowed", "banned"], chars: str, model: ServedModel) -> list[int]:
    most = MAX_REPEATS * len(model.manifest.symbols)
    if len(chars) > most:
        raise InvalidField(f"sampling.{name}", f"has {len(chars)} characters, allowed are at most {most}")
    numbers: list[int] = encoded(f"sampling.{name}", chars, model).tolist()
    return numbers


def _character(char: str, model: ServedModel) -> int:
    if len(char) != 1:
        raise InvalidField("sampling.bias", f"has the key {shown(char)}, allowed are single characters")
    numbers = encoded("sampling.bias", char, model)
    if len(numbers) != 1:
        raise InvalidField("sampling.bias", f"has the key {shown(char)}, which is {len(numbers)} bytes: one has a bias")
    return int(numbers[0])


def _bias_value(char: str, value: float) -> float:
    if not -MAX_BIAS <= value <= MAX_BIAS:
        raise InvalidField(
            "sampling.bias", f"of {char!r} is {value:g}, allowed are numbers from {-MAX_BIAS:g} to {MAX_BIAS:g}"
        )
    return value
