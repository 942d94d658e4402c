"""Surfaces of the RPCs' messages and of resume tokens, as far as the engine's request."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from benchmarks.fuzzing.mutations import change_bytes, change_message
from benchmarks.fuzzing.surface import Fault, Surface
from bundle.manifest import Manifest
from protos import charstream_pb2 as pb
from server.engine.messages import Request
from server.errors import RequestError
from server.service.interceptors.errors import status_of
from server.service.requests import ResponseContext, generation_request, scoring_request
from server.service.resume_tokens import Keys
from server.service.token_pb2 import TextState
from server.settings import ServerSettings

__all__ = ["ALLOWED", "KEY", "LIMITS", "request_surfaces"]

KEY = b"a key that the fuzzer knows, too".ljust(32)
# The server's flags, so that no text takes long.
LIMITS = {
    "max_chars": 64,
    "default_chars": 16,
    "max_prompt_chars": 400,
    "max_continuations": 4,
    "max_rows": 32,
    "max_waiting": 200,
    "max_token_bytes": 16_384,
}
ALLOWED = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
# A status is in a call's trailers, of which clients take 8 KB without asking.
MOST_STATUS_BYTES = 4096

REPLICA = pb.Replica(digest="d" * 64, precision="fp32", numerics="e" * 16)
GENERATION, MODELS = "/charstream.v1.TextGeneration/", "/charstream.v1.Models/"


@dataclass(frozen=True)
class Requests:
    """A server's checks of requests, without the server."""

    manifest: Manifest
    keys: Keys
    settings: ServerSettings

    def generate(self, data: bytes) -> str:
        return self._outcome(pb.GenerateRequest, data, lambda request: self._parse(request, generation_request))

    def score(self, data: bytes) -> str:
        return self._outcome(pb.ScoreRequest, data, lambda request: self._parse(request, scoring_request))

    def token(self, data: bytes) -> str:
        """Use the bytes as a resume token in both kinds of requests."""
        outcomes = (
            self.generate(pb.GenerateRequest(resume_token=data, logprobs=3, stop=["ab"]).SerializeToString()),
            self.score(pb.ScoreRequest(resume_token=data, text="ab").SerializeToString()),
        )
        if len(set(outcomes)) > 1:
            raise Fault(f"the same token is {' and '.join(outcomes)}")
        return outcomes[0]

    def seal(self, data: bytes) -> bytes:
        """Return a resume token of a serialised `TextState`; b"" for bytes that are none."""
        try:
            return self.keys.seal(TextState.FromString(data))
        except DecodeError:
            return b""

    def plain(self, kind: type[Message]) -> Callable[[bytes], str]:
        return lambda data: self._outcome(kind, data, lambda request: None)

    def _outcome(self, kind: type[Message], data: bytes, use: Callable[[Any], None]) -> str:
        try:
            request = kind.FromString(data)
        except DecodeError:
            return "INVALID_ARGUMENT"
        try:
            use(request)
        except RequestError as error:
            size = status_of(error).ByteSize()
            if size > MOST_STATUS_BYTES:
                raise Fault(f"a status of {size} bytes, which clients refuse") from None
            return error.code.name
        return "OK"

    def _parse(self, message: Any, parse: Callable[..., tuple[Request, ResponseContext]]) -> None:
        token = self.keys.open(message.resume_token, self.settings.max_token_bytes) if message.resume_token else None
        self._check(*parse(message, token, self.manifest, REPLICA, self.settings))

    def _check(self, wanted: Request, context: ResponseContext) -> None:
        """Check everything that the engine takes for granted."""
        vocab = len(self.manifest.symbols)
        origin, sampling = wanted.origin, wanted.sampling
        holds = {
            "characters": not len(wanted.forced) or 0 <= wanted.forced.min() <= wanted.forced.max() < vocab,
            "silent": 0 <= wanted.silent <= len(wanted.forced),
            "max_chars": 0 <= wanted.max_chars <= self.settings.max_chars,
            "texts": 1 <= len(context.continuations) <= self.settings.max_continuations,
            "seed": 0 <= wanted.seed < 2**64,
            "temperature": 0 <= sampling.temperature < np.inf,
            "bias": all(0 <= char < vocab and not value > 100 for char, value in sampling.bias),
            "times": wanted.chunking.max_delay > 0 and (wanted.time_limit is None or wanted.time_limit > 0),
            "origin": origin is None or (0 <= origin.token < vocab and 0 <= origin.position < 2**63),
            "state": origin is None or all(np.isfinite(array).all() for array in origin.state),
        }
        for what, is_so in holds.items():
            if not is_so:
                raise Fault(f"{what}: {wanted}")


def request_surfaces(manifest: Manifest) -> list[Surface]:
    requests = Requests(manifest, Keys.of([KEY]), ServerSettings(**LIMITS))
    states = [state.SerializeToString() for state in _states(manifest)]
    generate = [message.SerializeToString() for message in _generate_seeds(requests.seal(states[0]))]
    score = [message.SerializeToString() for message in _score_seeds(requests.seal(states[0]))]
    tokens = [requests.seal(state) for state in states]
    listing, naming = pb.ListModelsRequest, pb.GetModelRequest
    names = [naming(name=name).SerializeToString() for name in ("", manifest.name, "a" * 64)]

    def take_content(data: bytes) -> str:
        return requests.token(requests.seal(data))

    def request_with(token: bytes) -> bytes:
        return pb.GenerateRequest(resume_token=token, max_chars=16, logprobs=3, stop=["ab"]).SerializeToString()

    return [
        Surface("generate", generate, requests.generate, _change_as(pb.GenerateRequest), f"{GENERATION}Generate"),
        Surface("score", score, requests.score, _change_as(pb.ScoreRequest), f"{GENERATION}Score"),
        Surface("list_models", [b""], requests.plain(listing), _change_as(listing), f"{MODELS}ListModels"),
        Surface("get_model", names, requests.plain(naming), _change_as(naming), f"{MODELS}GetModel"),
        Surface("tokens", tokens, requests.token, change_bytes, f"{GENERATION}Generate", request_with),
        Surface(
            "signed_tokens",
            states,
            take_content,
            _change_as(TextState),
            f"{GENERATION}Generate",
            lambda data: request_with(requests.seal(data)),
        ),
    ]


def _change_as(kind: type[Message]) -> Callable[[bytes, Random], bytes]:
    def change(data: bytes, rng: Random) -> bytes:
        try:
            message = kind.FromString(data)
        except DecodeError:
            return change_bytes(data, rng)
        return change_message(message, rng).SerializeToString() if rng.random() < 0.7 else change_bytes(data, rng)

    return change


def _generate_seeds(token: bytes) -> list[pb.GenerateRequest]:
    sampling = pb.Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.05, allowed="abcdefgh", banned="c")
    sampling.bias.of["a"] = 1.5
    common: dict[str, Any] = {"prompt": "abc", "seed": 1, "max_chars": 12}
    timed = pb.GenerateRequest(**common, n=3, return_token=True, echo=True)
    timed.time_limit.FromMilliseconds(500)
    timed.chunking.max_delay.FromMilliseconds(10)
    return [
        pb.GenerateRequest(),
        pb.GenerateRequest(**common, sampling=sampling, stop=["ab", "b"], include_stop=True, min_chars=2),
        pb.GenerateRequest(**common, logprobs=3, checkpoint_chars=64, received="ab", chunking=pb.Chunking(max_chars=2)),
        pb.GenerateRequest(resume_token=token, max_chars=5, other_numerics=True, replica=pb.Replica(precision="fp32")),
        timed,
    ]


def _score_seeds(token: bytes) -> list[pb.ScoreRequest]:
    return [
        pb.ScoreRequest(text="abc", prompt="cab", alternatives=3, return_token=True),
        pb.ScoreRequest(text="a", resume_token=token, other_numerics=True, replica=pb.Replica(precision="fp32")),
    ]


def _states(manifest: Manifest) -> list[TextState]:
    shape = manifest.model
    state = bytes(4 * shape.hidden * len(shape.state_names))
    sampling = pb.Sampling(temperature=0.5, top_k=3)
    sampling.bias.of["b"] = 0.5
    return [
        TextState(state=state, position=5, forced=[1, 2, 0], character=1),
        TextState(model=manifest.name, state=state, seed=2**64 - 1, continuation=2, tail="a", sampling=sampling),
    ]
