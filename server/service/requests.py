"""Requests -> what the engine is asked. Every field is checked; an error names it, what came and what is allowed."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from protos import charstream_pb2 as pb
from server.catalog.loaded_model import ServedModel
from server.engine.messages import Generation, RowState
from server.engine.whole import MOST_UNFINISHED
from server.errors import InvalidField, WrongReplica
from server.service.resume_state import forced_of, origin_of
from server.service.sampling import merged, numbered, sampling_of
from server.service.token_pb2 import TextState
from server.settings import ServerSettings

__all__ = ["Asked", "generation_of", "scoring_of"]

MIN_DELAY, MAX_DELAY = 0.005, 10.0  # seconds
MAX_TIME_LIMIT = 86_400.0  # seconds
MAX_ALTERNATIVES = 20
MIN_CHECKPOINT_CHARS = 64
# Seeds that are chosen for the caller stay exact in every language's numbers.
CHOSEN_SEED_BITS = 53

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What a request comes to.

    Attributes:
        continuations: the index of each text that is wanted.
        sampling: all of it, the token's included.
        max_chars: of the request.
        before: symbols before the first that is sent.
    """

    generation: Generation
    continuations: Sequence[int]
    sampling: pb.Sampling
    prompt_chars: int
    max_chars: int
    before: str = ""


def generation_of(
    request: pb.GenerateRequest, token: TextState | None, model: ServedModel, settings: ServerSettings
) -> Asked:
    """Raises InvalidField or WrongReplica."""
    _check_replica(request, token, model)
    prompt, has = model.manifest.vocabulary.text_to_symbols(request.prompt), _has(request, token, model)
    max_chars = _max_chars(request, settings)
    received = _received(request, prompt, has, max_chars)
    sampling = merged(request.sampling, token)
    origin, led = _place(token, model)
    most = settings.max_prompt_chars
    forced = np.concatenate(
        [led, _numbered("prompt", prompt, model, most), _numbered(_has_field(request), received, model, most)]
    )
    unfinished = token.unfinished if token else ""
    continuations = _continuations(request, token, settings.most_continuations)
    generation = Generation(
        forced=forced,
        silent=len(led) + len(has) if request.echo else len(forced),
        max_chars=max_chars - len(received),
        sampling=sampling_of(sampling, model),
        seed=_seed(request, token),
        continuation=continuations[0],
        stop=_stop(request.stop, model, settings),
        include_stop=request.include_stop,
        stop_skips=_min_chars(request, max_chars),
        received=received,
        sent_chars=len(has),
        tail=token.tail if token and not request.prompt else "",
        recent=(unfinished + prompt + received)[-MOST_UNFINISHED:],
        max_delay=_max_delay(request.chunking, settings),
        max_chunk_chars=_max_chunk_chars(request.chunking),
        alternatives=_alternatives("logprobs", request.logprobs) if request.HasField("logprobs") else None,
        origin=origin,
        checkpoint_chars=_checkpoint_chars(request),
        snapshot=request.return_token,
        time_limit=_time_limit(request, settings),
    )
    # What is given back first goes on after the unfinished character, but for a prompt, which begins anew.
    before = has if request.echo and prompt else unfinished + ("" if request.echo else prompt) + has
    return Asked(generation, continuations, sampling, len(prompt), max_chars, before)


def scoring_of(
    request: pb.ScoreRequest, token: TextState | None, model: ServedModel, settings: ServerSettings
) -> Asked:
    """A text that is given; all of its characters are sent, with scores. Raises InvalidField or WrongReplica."""
    _check_replica(request, token, model)
    if not request.text:
        raise InvalidField("text", "is empty, there is nothing to score")
    spelled, most = model.manifest.vocabulary.text_to_symbols, settings.max_prompt_chars
    prompt = _numbered("prompt", spelled(request.prompt), model, most)
    text = _numbered("text", spelled(request.text), model, most)
    origin, led = _place(token, model)
    given = [led, prompt, text]
    sampling = merged(pb.Sampling(), token)
    generation = Generation(
        forced=np.concatenate(given),
        silent=len(given[0]) + len(prompt),
        max_chars=0,
        sampling=sampling_of(sampling, model),
        seed=token.seed if token else secrets.randbits(CHOSEN_SEED_BITS),
        continuation=token.continuation if token else 0,
        max_delay=settings.chunk_seconds,
        alternatives=_alternatives("alternatives", request.alternatives),
        origin=origin,
        snapshot=request.return_token,
    )
    return Asked(generation, [generation.continuation], sampling, len(prompt), 0)


def _check_replica(request: pb.GenerateRequest | pb.ScoreRequest, token: TextState | None, model: ServedModel) -> None:
    """Raises WrongReplica if the text began where another one may come out."""
    ours = model.replica
    for what in ("digest", "precision", "numerics"):
        _check_equal("replica", what, request.replica, ours)
        if token and (what == "digest" or not request.other_numerics):
            _check_equal("resume_token", what, token.replica, ours)


def _check_equal(field: str, what: str, theirs: pb.Replica, ours: pb.Replica) -> None:
    if getattr(theirs, what) not in ("", getattr(ours, what)):
        raise WrongReplica(field, what, getattr(theirs, what), getattr(ours, what))


def _numbered(field: str, symbols: str, model: ServedModel, limit: int) -> Ids:
    if len(symbols) > limit:
        has = f"{len(symbols)} {model.manifest.unit}"
        raise InvalidField(field, f"has {has}, allowed are at most {limit} (--max-prompt-chars)")
    return numbered(field, symbols, model)


def _place(token: TextState | None, model: ServedModel) -> tuple[RowState | None, Ids]:
    """A state, and the characters that lead from it to the token's place."""
    return (origin_of(token, model), forced_of(token, model)) if token else (None, np.empty(0, np.int64))


def _has_field(request: pb.GenerateRequest) -> str:
    return "received_raw" if request.received_raw else "received"


def _has(request: pb.GenerateRequest, token: TextState | None, model: ServedModel) -> str:
    """The symbols of this text that the caller has."""
    vocabulary = model.manifest.vocabulary
    if not request.received_raw:
        if request.received and token and token.unfinished and not request.prompt:
            raise InvalidField(
                "received", "began in the middle of a character, where the token stands: use `received_raw`"
            )
        return vocabulary.text_to_symbols(request.received)
    if vocabulary.unit != "bytes":
        raise InvalidField("received_raw", f"is for models of bytes, and {model.manifest.name} is none: use `received`")
    if request.received:
        raise InvalidField("received_raw", "is the same text as `received`: give one of them")
    return request.received_raw.decode("latin-1")


def _received(request: pb.GenerateRequest, prompt: str, has: str, max_chars: int) -> str:
    """The generated symbols among those that the caller has."""
    received = has
    if request.echo:
        known = min(len(received), len(prompt))
        if received[:known] != prompt[:known]:
            raise InvalidField(_has_field(request), "with echo it begins with the prompt, which this one does not")
        received = received[known:]
    if len(received) > max_chars:
        has = f"has {len(received)} generated characters, more than max_chars, {max_chars}"
        raise InvalidField(_has_field(request), has)
    return received


def _continuations(request: pb.GenerateRequest, token: TextState | None, most: int) -> Sequence[int]:
    """The indices that are wanted."""
    if not request.HasField("n") or request.n == 1:
        return [request.continuation if request.HasField("continuation") or not token else token.continuation]
    if not 1 <= request.n <= most:
        raise InvalidField(
            "n",
            f"is {request.n}, allowed are 1 to {most} (the least of --max-continuations, "
            "--identity-streams, and --max-rows + --max-waiting)",
        )
    given = {
        "continuation": request.HasField("continuation"),
        "received": bool(request.received),
        "received_raw": bool(request.received_raw),
    }
    for field, is_given in given.items():
        if is_given:
            raise InvalidField(field, "is for one continuation: ask for it by `continuation`, without `n`")
    return range(request.n)


def _seed(request: pb.GenerateRequest, token: TextState | None) -> int:
    if request.HasField("seed"):
        return request.seed
    return token.seed if token else secrets.randbits(CHOSEN_SEED_BITS)


def _max_chars(request: pb.GenerateRequest, settings: ServerSettings) -> int:
    if not request.HasField("max_chars"):
        return min(settings.default_chars, settings.max_chars)
    if not 1 <= request.max_chars <= settings.max_chars:
        raise InvalidField("max_chars", f"is {request.max_chars}, allowed are 1 to {settings.max_chars} (--max-chars)")
    return request.max_chars


def _min_chars(request: pb.GenerateRequest, max_chars: int) -> int:
    if request.min_chars > max_chars:
        raise InvalidField("min_chars", f"is {request.min_chars}, more than max_chars, {max_chars}")
    return request.min_chars


def _stop(given: Sequence[str], model: ServedModel, settings: ServerSettings) -> tuple[str, ...]:
    if len(given) > settings.max_stops:
        raise InvalidField("stop", f"has {len(given)} strings, allowed are at most {settings.max_stops} (--max-stops)")
    stops = [model.manifest.vocabulary.text_to_symbols(stop) for stop in given]
    for number, stop in enumerate(stops):
        if not 1 <= len(stop) <= settings.max_stop_chars:
            allowed = f"allowed are 1 to {settings.max_stop_chars} (--max-stop-chars)"
            raise InvalidField(f"stop[{number}]", f"has {len(stop)} {model.manifest.unit}, {allowed}")
    return tuple(stops)


def _alternatives(field: str, value: int) -> int:
    if value > MAX_ALTERNATIVES:
        raise InvalidField(field, f"is {value}, allowed are at most {MAX_ALTERNATIVES}")
    return value


def _checkpoint_chars(request: pb.GenerateRequest) -> int:
    if not request.HasField("checkpoint_chars"):
        return 0
    if request.checkpoint_chars < MIN_CHECKPOINT_CHARS:
        raise InvalidField(
            "checkpoint_chars", f"is {request.checkpoint_chars}, allowed are numbers from {MIN_CHECKPOINT_CHARS}"
        )
    return request.checkpoint_chars


def _time_limit(request: pb.GenerateRequest, settings: ServerSettings) -> float | None:
    if not request.HasField("time_limit"):
        return settings.default_seconds or None
    seconds = _seconds(request.time_limit)
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
