"""The client for code that waits: scripts, threads, notebooks, gevent."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from client.channels import DEFAULT_ADDRESS, Servers
from client.errors import from_rpc_error
from client.generation_task import Text
from client.options import GenerateOptions, generate_request
from client.progress import Progress
from client.results import ModelInfo, to_model
from client.retry import Question
from client.score_task import PART_CHARS, ScoreOptions, Scores, score_request
from client.sync_streams import Continuations, ScoreStream, TextStream
from client.texts import Texts
from protos import charstream_pb2 as pb

__all__ = ["Client"]


class Client:
    """A connection to one server, or to each of several replicas; calls may come from several threads.

    Args:
        addresses: "host:port", or any other target that gRPC resolves; or several. Each text begins at another one,
            and goes on at another one where its server is lost.
        credentials: for TLS, as `grpc.ssl_channel_credentials` makes them.
        token: is sent as `authorization: Bearer TOKEN`; without credentials to this machine only.
        patience: seconds without a new character after which a broken text is not asked for again.

    Raises:
        ValueError: no address, or a token that can't be sent.
    """

    def __init__(
        self,
        addresses: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        patience: float = 30.0,
    ) -> None:
        self._servers = Servers(grpc, addresses, credentials=credentials, token=token, patience=patience)

    def stream(
        self, prompt: str, *, timeout: float | None = None, resume: bool = True, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """Asks for the characters that follow `prompt`.

        Args:
            timeout: seconds for the whole text.
            resume: the text goes on by itself where its stream breaks, here or at another address, so that each
                character comes once. False: the first failure is raised.
            options: see `GenerateOptions`.

        Raises:
            TypeError, ValueError: an option doesn't exist, or can't be sent. The server's errors come from the stream.
        """
        request = generate_request(prompt, options, checkpoints=resume)
        return TextStream(self._servers, Text(request), timeout=timeout, resume=resume)

    def go_on(self, progress: Progress, *, timeout: float | None = None) -> TextStream:
        """The rest of a text that was given up: `progress` is the error's. Its `text` is the whole."""
        return TextStream(self._servers, Text.of(progress, time.monotonic()), timeout=timeout)

    def continuations(
        self,
        prompt: str,
        *,
        n: int,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> Continuations:
        """Asks for `n` texts that follow `prompt`, which is read once: see `stream`."""
        texts = Texts(generate_request(prompt, options, checkpoints=resume), n)
        return Continuations(self._servers, texts, timeout=timeout, resume=resume)

    def score(
        self,
        text: str,
        *,
        part_chars: int = PART_CHARS,
        timeout: float | None = None,
        **options: Unpack[ScoreOptions],
    ) -> ScoreStream:
        """Asks how probable each character of `text` is.

        Args:
            part_chars: longer texts are sent in parts of so many characters, each when the one before is through.
            timeout: seconds for the whole text.
            options: see `ScoreOptions`.

        Raises:
            TypeError, ValueError: as `stream`.
        """
        return ScoreStream(self._servers, Scores(score_request(options), text, part_chars), timeout=timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """What is served. `timeout` is in seconds. Raises CharstreamError."""
        return [to_model(model) for model in self._answer("ListModels", pb.ListModelsRequest(), timeout).models]

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One served model. `timeout` is in seconds. Raises ModelNotFound, or another CharstreamError."""
        return to_model(self._answer("GetModel", pb.GetModelRequest(name=name), timeout))

    def _answer(self, method: str, message: Any, timeout: float | None) -> Any:
        recovery = self._servers.recovery(Question(message), timeout=timeout, resume=True, now=time.monotonic())
        while True:
            call, seconds = self._servers.method(method, recovery.address), recovery.seconds_left(time.monotonic())
            try:
                return call(message, timeout=seconds, metadata=self._servers.metadata)
            except grpc.RpcError as error:
                recovery.failed(from_rpc_error(error), time.monotonic())

    def close(self) -> None:
        """Ends the connections and what still runs on them."""
        self._servers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
