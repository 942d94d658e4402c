"""Requests as the engine takes them. Every field is checked; an error names it, what came and what is allowed."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.duration_pb2 import Duration

from bundle.manifest import Manifest
from bundle.vocabulary import MAX_PARTIAL_SYMBOLS
from protos import charstream_pb2 as pb
from server.engine.messages import Begun, Chunking, Repeat, Request, StopRule
from server.errors import InvalidField, WrongReplica
from server.limits import LONGEST_REPEAT
from server.service.fields import Tokens, known_symbols, numbers_of
from server.service.resume_state import place_of
from server.service.sampling import merge_sampling, sampling_of
from server.service.token_pb2 import TextState
from server.settings import ServerSettings

__all__ = ["ResponseDetails", "generation_request", "scoring_request"]

MIN_DELAY, MAX_DELAY = 0.005, 10.0  # seconds
MAX_TIME_LIMIT = 86_400.0  # seconds
MAX_ALTERNATIVES = 20
MIN_CHECKPOINT_CHARS = 64
# Seeds that are chosen for the caller stay exact in every language's numbers.
CHOSEN_SEED_BITS = 53


@dataclass(frozen=True)
class ResponseDetails:
    """The facts that the responses to a request need, and the engine does not.

    Attributes:
        replica: decides the text beside its request.
        sampling: all of it, the resume token's included.
        continuations: the index of each text that is wanted.
        max_chars: the request's `max_chars`, received characters included.
        preceding: symbols before the first that is sent.
        unknown_chars: symbols of the prompt, or the scored text, that were left out or replaced.
    """

    manifest: Manifest
    replica: pb.Replica
    sampling: pb.Sampling
    continuations: Sequence[int]
    prompt_chars: int = 0
    max_chars: int = 0
    preceding: str = ""
    unknown_chars: int = 0


def generation_request(
    message: pb.GenerateRequest, token: TextState | None, manifest: Manifest, ours: pb.Replica, settings: ServerSettings
) -> tuple[Request, ResponseDetails]:
    """Return the request of the first continuation that is wanted. Raises InvalidField or WrongReplica."""
    _check_replica(message, token, ours)
    prompt, unknown_chars = known_symbols(message.prompt, message.unknown, manifest)
    known = _received_symbols(message, token, manifest)
    max_chars = _max_chars(message, settings)
    known_generated = _generated_part(message, prompt, known, max_chars)
    sampling = merge_sampling(message.sampling, token)
    origin, origin_tokens = place_of(token, manifest)
    max_prompt = settings.max_prompt_chars
    forced = np.concatenate(
        [
            origin_tokens,
            _tokens("prompt", prompt, manifest, max_prompt),
            _tokens(_received_field(message), known_generated, manifest, max_prompt),
        ]
    )
    unfinished = token.unfinished if token else ""
    continuations = _continuations(message, token, settings.most_continuations)
    request = Request(
        forced=forced,
        silent=len(origin_tokens) + len(known) if message.echo else len(forced),
        max_chars=max_chars - len(known_generated),
        sampling=sampling_of(sampling, manifest),
        seed=_seed(message, token),
        continuation=continuations[0],
        stops=StopRule(
            _stop_strings(message.stop, manifest, settings),
            message.include_stop,
            skip=_min_chars(message, max_chars),
            tail=token.tail if token and not prompt else "",
            repeat=_repeat(message, manifest),
        ),
        begun=Begun(known_generated, len(known), (unfinished + prompt + known_generated)[-MAX_PARTIAL_SYMBOLS:]),
        chunking=Chunking(_max_delay(message.chunking, settings), _max_chunk_chars(message.chunking)),
        alternatives=_alternatives("logprobs", message.logprobs) if message.HasField("logprobs") else None,
        origin=origin,
        checkpoint_chars=_checkpoint_chars(message),
        snapshot=message.return_token,
        time_limit=_time_limit(message, settings),
    )
    # The first symbols sent may complete the token's unfinished character, unless an echoed prompt comes first.
    preceding = known if message.echo and prompt else unfinished + ("" if message.echo else prompt) + known
    return request, ResponseDetails(
        manifest, ours, sampling, continuations, len(prompt), max_chars, preceding, unknown_chars
    )


def scoring_request(
    message: pb.ScoreRequest, token: TextState | None, manifest: Manifest, ours: pb.Replica, settings: ServerSettings
) -> tuple[Request, ResponseDetails]:
    """Return the request of a text that is forced and sent, with scores. Raises InvalidField or WrongReplica."""
    _check_replica(message, token, ours)
    prompt_symbols, in_prompt = known_symbols(message.prompt, message.unknown, manifest)
    symbols, in_text = known_symbols(message.text, message.unknown, manifest)
    is_part = token is not None or message.return_token
    if not symbols and not (in_text and is_part):
        reason = f"has {in_text} characters, none of them known to {manifest.name}" if in_text else "is empty"
        raise InvalidField("text", f"{reason}, there is nothing to score")
    max_prompt = settings.max_prompt_chars
    prompt = _tokens("prompt", prompt_symbols, manifest, max_prompt)
    text = _tokens("text", symbols, manifest, max_prompt)
    origin, origin_tokens = place_of(token, manifest)
    sampling = merge_sampling(pb.Sampling(), token)
    request = Request(
        forced=np.concatenate([origin_tokens, prompt, text]),
        silent=len(origin_tokens) + len(prompt),
        max_chars=0,
        sampling=sampling_of(sampling, manifest),
        seed=token.seed if token else secrets.randbits(CHOSEN_SEED_BITS),
        continuation=token.continuation if token else 0,
        chunking=Chunking(settings.chunk_seconds),
        alternatives=_alternatives("alternatives", message.alternatives),
        origin=origin,
        snapshot=message.return_token,
    )
    unknown_chars = in_prompt + in_text
    return request, ResponseDetails(manifest, ours, sampling, [request.continuation], unknown_chars=unknown_chars)


def _check_replica(message: pb.GenerateRequest | pb.ScoreRequest, token: TextState | None, ours: pb.Replica) -> None:
    """Raise WrongReplica if it began on a replica that could generate another text."""
    for what in ("digest", "precision", "numerics"):
        _check_equal("replica", what, message.replica, ours)
        if token and (what == "digest" or not message.other_numerics):
            _check_equal("resume_token", what, token.replica, ours)


def _check_equal(field: str, what: str, theirs: pb.Replica, ours: pb.Replica) -> None:
    if getattr(theirs, what) not in ("", getattr(ours, what)):
        raise WrongReplica(field, what, getattr(theirs, what), getattr(ours, what))


def _tokens(field: str, symbols: str, manifest: Manifest, limit: int) -> Tokens:
    if len(symbols) > limit:
        size = f"{len(symbols)} {manifest.unit}"
        raise InvalidField(field, f"has {size}, allowed are at most {limit} (--max-prompt-chars)")
    return numbers_of(field, symbols, manifest)


def _received_field(message: pb.GenerateRequest) -> str:
    return "received_raw" if message.received_raw else "received"


def _received_symbols(message: pb.GenerateRequest, token: TextState | None, manifest: Manifest) -> str:
    """Return the symbols of this text that the caller has."""
    vocabulary = manifest.vocabulary
    if not message.received_raw:
        if message.received and token and token.unfinished and not message.prompt:
            raise InvalidField(
                "received", "began in the middle of a character, where the token stands: use `received_raw`"
            )
        return vocabulary.text_to_symbols(message.received)
    if vocabulary.unit != "bytes":
        raise InvalidField("received_raw", f"is for models of bytes, and {manifest.name} is none: use `received`")
    if message.received:
        raise InvalidField("received_raw", "is the same text as `received`: give one of them")
    return message.received_raw.decode("latin-1")


def _generated_part(message: pb.GenerateRequest, prompt: str, received: str, max_chars: int) -> str:
    """Return the generated symbols among those that the caller has."""
    if message.echo:
        known = min(len(received), len(prompt))
        if received[:known] != prompt[:known]:
            raise InvalidField(_received_field(message), "with echo it begins with the prompt, which this one does not")
        received = received[known:]
    if len(received) > max_chars:
        reason = f"has {len(received)} generated characters, more than max_chars, {max_chars}"
        raise InvalidField(_received_field(message), reason)
    return received


def _continuations(message: pb.GenerateRequest, token: TextState | None, most: int) -> Sequence[int]:
    """Return the indices of the continuations that are wanted."""
    if not message.HasField("n") or message.n == 1:
        return [message.continuation if message.HasField("continuation") or not token else token.continuation]
    if not 1 <= message.n <= most:
        raise InvalidField(
            "n",
            f"is {message.n}, allowed are 1 to {most} (the least of --max-continuations, "
            "--identity-streams, and --max-rows + --max-waiting)",
        )
    given = {
        "continuation": message.HasField("continuation"),
        "received": bool(message.received),
        "received_raw": bool(message.received_raw),
    }
    for field, is_given in given.items():
        if is_given:
            raise InvalidField(field, "is for one continuation: ask for it by `continuation`, without `n`")
    return range(message.n)


def _seed(message: pb.GenerateRequest, token: TextState | None) -> int:
    if message.HasField("seed"):
        return message.seed
    return token.seed if token else secrets.randbits(CHOSEN_SEED_BITS)


def _max_chars(message: pb.GenerateRequest, settings: ServerSettings) -> int:
    if not message.HasField("max_chars"):
        return min(settings.default_chars, settings.max_chars)
    if not 1 <= message.max_chars <= settings.max_chars:
        raise InvalidField("max_chars", f"is {message.max_chars}, allowed are 1 to {settings.max_chars} (--max-chars)")
    return message.max_chars


def _min_chars(message: pb.GenerateRequest, max_chars: int) -> int:
    if message.min_chars > max_chars:
        raise InvalidField("min_chars", f"is {message.min_chars}, more than max_chars, {max_chars}")
    return message.min_chars


def _stop_strings(given: Sequence[str], manifest: Manifest, settings: ServerSettings) -> tuple[str, ...]:
    if len(given) > settings.max_stops:
        raise InvalidField("stop", f"has {len(given)} strings, allowed are at most {settings.max_stops} (--max-stops)")
    stops = [manifest.vocabulary.text_to_symbols(stop) for stop in given]
    for number, stop in enumerate(stops):
        if not 1 <= len(stop) <= settings.max_stop_chars:
            allowed = f"allowed are 1 to {settings.max_stop_chars} (--max-stop-chars)"
            raise InvalidField(f"stop[{number}]", f"has {len(stop)} {manifest.unit}, {allowed}")
    return tuple(stops)


def _repeat(message: pb.GenerateRequest, manifest: Manifest) -> Repeat | None:
    if not message.HasField("stop_on_repeat"):
        return None
    given = message.stop_on_repeat
    repeat = Repeat(given.max_period, given.times, given.min_period or 1)
    if repeat.max_period < 1:
        raise InvalidField("stop_on_repeat.max_period", "is 0, allowed are numbers from 1")
    if not 2 <= repeat.times <= LONGEST_REPEAT:
        raise InvalidField("stop_on_repeat.times", f"is {repeat.times}, allowed are 2 to {LONGEST_REPEAT}")
    most = LONGEST_REPEAT // repeat.times
    if repeat.max_period > most:
        reason = f"is {repeat.max_period}, {repeat.times} times that is more than {LONGEST_REPEAT} {manifest.unit}"
        raise InvalidField("stop_on_repeat.max_period", f"{reason}: allowed are 1 to {most}")
    if repeat.min_period > repeat.max_period:
        raise InvalidField(
            "stop_on_repeat.min_period", f"is {repeat.min_period}, more than max_period, {repeat.max_period}"
        )
    return repeat


def _alternatives(field: str, value: int) -> int:
    if value > MAX_ALTERNATIVES:
        raise InvalidField(field, f"is {value}, allowed are at most {MAX_ALTERNATIVES}")
    return value


def _checkpoint_chars(message: pb.GenerateRequest) -> int:
    if not message.HasField("checkpoint_chars"):
        return 0
    if message.checkpoint_chars < MIN_CHECKPOINT_CHARS:
        raise InvalidField(
            "checkpoint_chars", f"is {message.checkpoint_chars}, allowed are numbers from {MIN_CHECKPOINT_CHARS}"
        )
    return message.checkpoint_chars


def _time_limit(message: pb.GenerateRequest, settings: ServerSettings) -> float | None:
    if not message.HasField("time_limit"):
        return settings.default_seconds or None
    seconds = _seconds(message.time_limit)
    if not 0 < seconds <= MAX_TIME_LIMIT:
        raise InvalidField("time_limit", f"is {seconds:g} s, allowed are lengths up to {MAX_TIME_LIMIT:g} s")
    return seconds


def _max_delay(chunking: pb.Chunking, settings: ServerSettings) -> float:
    if not chunking.HasField("max_delay"):
        return settings.chunk_seconds
    seconds = _seconds(chunking.max_delay)
    if not MIN_DELAY <= seconds <= MAX_DELAY:
        raise InvalidField("chunking.max_delay", f"is {seconds:g} s, allowed are {MIN_DELAY} to {MAX_DELAY} s")
    return seconds


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9


def _max_chunk_chars(chunking: pb.Chunking) -> int | None:
    if not chunking.HasField("max_chars"):
        return None
    if chunking.max_chars < 1:
        raise InvalidField("chunking.max_chars", "is 0, allowed are numbers from 1")
    return chunking.max_chars
