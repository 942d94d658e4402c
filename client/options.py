"""The options of a text and the request that they become."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from google.protobuf.duration_pb2 import Duration

from client.results import Replica
from protos import charstream_pb2 as pb

__all__ = ["GenerateOptions", "check_names", "check_range", "check_text", "generate_request"]

# After a break, a text is replayed from its last checkpoint: at most this much is computed twice. Most texts are
# shorter and have no checkpoint.
CHECKPOINT_CHARS = 16_384

SEED_BITS = 53  # a seed that is chosen here stays exact in every language's numbers
LARGEST_DURATION = 315_576_000_000.0  # seconds: what google.protobuf.Duration may hold

# Least and greatest value that the message can hold; the server decides whether a value makes sense.
RANGES = {
    "max_chars": (1, 2**32 - 1),
    "min_chars": (0, 2**32 - 1),
    "top_k": (0, 2**32 - 1),
    "seed": (0, 2**64 - 1),
    "continuation": (0, 2**32 - 1),
    "logprobs": (0, 2**32 - 1),
    "max_chunk_chars": (1, 2**32 - 1),
    "checkpoint_chars": (0, 2**32 - 1),
}

# Options that the message takes as they are.
SAME = (
    "model",
    "max_chars",
    "min_chars",
    "continuation",
    "include_stop",
    "echo",
    "logprobs",
    "resume_token",
    "return_token",
    "other_numerics",
)


class SamplingOptions(TypedDict, total=False):
    """The part of `GenerateOptions` that says which text is drawn, from which model."""

    # Name of the model; may be left out if only one is served.
    model: str
    # Generate at most this many characters.
    max_chars: int | None
    # Stop strings are searched for only in what follows this many generated characters.
    min_chars: int | None
    # Divides the logits: below 1 safer, above 1 wilder; 0 is greedy.
    temperature: float | None
    # Only this many characters: the most probable ones.
    top_k: int | None
    # Among those, only the fewest most probable ones whose shares reach this sum.
    top_p: float | None
    # Only characters whose probability is at least this share of the most probable one's.
    min_p: float | None
    # Only these characters.
    allowed: str | None
    # None of these characters.
    banned: str | None
    # Numbers from -100 to 100, by character, that are added to its logit.
    bias: Mapping[str, float] | None
    # Same seed, same text. Absent: a random one, which `started` and `finish` hold.
    seed: int | None
    # Which of the texts of a seed: `continuations(prompt, n=3)` gives those of 0, 1 and 2. Default 0.
    continuation: int | None


class GenerateOptions(SamplingOptions, total=False):
    """The options of a text. One that is absent or None is left to the server, unless its comment says otherwise."""

    # What becomes of the prompt's characters that the model doesn't know: "refuse" (default) fails, "skip" leaves them
    # out, "replace" takes U+FFFD, "?", a space or the start character for each. `started.unknown_chars` counts them.
    unknown: Literal["refuse", "skip", "replace"] | None
    # Strings before which the text ends; only generated text is searched for them.
    stop: str | Sequence[str]
    # The text ends after the stop string, not before it.
    include_stop: bool
    # The text begins with the prompt.
    echo: bool
    # The stream's `logprobs` get each character's log-probability, its `alternatives` this many of the most probable
    # characters at each place.
    logprobs: int | None
    # At most this many characters in one chunk.
    max_chunk_chars: int | None
    # Seconds that a character may wait for others of the same chunk.
    max_chunk_delay: float | None
    # Seconds after which the text ends well, with the reason "deadline". (`timeout` fails it instead.)
    time_limit: float | None
    # The token of an earlier `finish`: the text goes on from there, with `prompt` in between.
    resume_token: bytes
    # `finish` gets a resume token.
    return_token: bool
    # About how many characters are replayed at most after a break; 0: always from the beginning. Default 16,384.
    checkpoint_chars: int | None
    # Only a replica that equals this one may answer.
    replica: Replica | None
    # After a break or from a token, go on also on servers that compute with another precision or other numerics, though
    # the text may differ from the one that would have come.
    other_numerics: bool


def generate_request(prompt: str, options: GenerateOptions, *, checkpoints: bool) -> pb.GenerateRequest:
    """Build the message. `checkpoints` says whether the text has checkpoints if the options don't.

    Raises:
        TypeError: an option that doesn't exist.
        ValueError: a value that the message can't hold.
    """
    given: Mapping[str, Any] = {name: value for name, value in options.items() if value is not None}
    check_names(options, GenerateOptions)
    _check(prompt, given)
    seed = given.get("seed")
    if seed is None and not given.get("resume_token"):  # a token has the seed of its text
        seed = secrets.randbits(SEED_BITS)
    return pb.GenerateRequest(
        prompt=prompt,
        sampling=_sampling(given),
        seed=seed,
        stop=_stops(given),
        chunking=pb.Chunking(
            max_chars=given.get("max_chunk_chars"),
            max_delay=_duration("max_chunk_delay", given.get("max_chunk_delay")),
        ),
        time_limit=_duration("time_limit", given.get("time_limit")),
        unknown=_unknown(given),
        checkpoint_chars=given.get("checkpoint_chars", CHECKPOINT_CHARS if checkpoints else 0) or None,
        replica=given["replica"].message() if "replica" in given else None,
        **{name: given[name] for name in SAME if name in given},
    )


def check_names(options: Iterable[str], kind: type) -> None:
    """Raise TypeError for a name that `kind`, a TypedDict, has not: it checks nothing at run time itself."""
    known = kind.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r}; options are {', '.join(known)}")


def check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {text!r} is no text that UTF-8 can carry (character {error.start})") from None


def check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not in {least}..{most}")


def _check(prompt: str, given: Mapping[str, Any]) -> None:
    check_text("prompt", prompt)
    for name, text in _texts(given):
        check_text(name, text)
    for name, (least, most) in RANGES.items():
        if name in given:
            check_range(name, given[name], least, most)


def _texts(given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield from ((name, given[name]) for name in ("model", "allowed", "banned") if name in given)
    yield from (("stop", stop) for stop in _stops(given))
    yield from (("bias", char) for char in given.get("bias", ()))


def _stops(given: Mapping[str, Any]) -> list[str]:
    stop = given.get("stop", ())
    return [stop] if isinstance(stop, str) else list(stop)


def _sampling(given: Mapping[str, Any]) -> pb.Sampling:
    bias = pb.Bias(of=given["bias"]) if given.get("bias") else None
    names = ("temperature", "top_k", "top_p", "min_p", "allowed", "banned")
    return pb.Sampling(bias=bias, **{name: given[name] for name in names if name in given})


def _unknown(given: Mapping[str, Any]) -> str | None:
    if "unknown" not in given:
        return None
    names = ("refuse", "skip", "replace")
    if given["unknown"] not in names:
        raise ValueError(f"unknown: {given['unknown']!r} is none of {', '.join(names)}")
    return f"UNKNOWN_{given['unknown'].upper()}"


def _duration(name: str, seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not abs(seconds) <= LARGEST_DURATION:
        raise ValueError(f"{name}: {seconds} is no length of time: seconds up to {LARGEST_DURATION:.0f} are")
    whole = math.trunc(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
