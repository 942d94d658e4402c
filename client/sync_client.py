"""The blocking client: for scripts, threads, notebooks, gevent."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self, Unpack

import grpc

from charstream.protos import charstream_pb2 as pb

from .channels import DEFAULT_ADDRESS, Servers
from .errors import from_rpc_error
from .generation_task import ContinuationsTask, TextTask
from .hedging.counters import Counts
from .options import GenerateOptions, chooses_checkpoints, documents, generate_request
from .results import ModelInfo, Progress, to_model
from .retry import UnaryTask
from .score_task import PART_CHARS, ScoreOptions, ScoreTask, score_request
from .stream_base import start_recovery
from .sync_streams import Continuations, ScoreStream, TextStream

__all__ = ["Client"]


class Client:
    """A connection to one server, or to each of several replicas; calls may come from several threads.

    Args:
        addresses: "host:port", "host" (port 50051), or any other target that gRPC resolves; or several. Each text
            begins at another one, and goes on at another one if its server is lost.
        credentials: for TLS, as `grpc.ssl_channel_credentials` makes them.
        token: is sent as `authorization: Bearer TOKEN`; without credentials only to this machine.
        tls_name: the name that the servers' certificate must have, where it is not that of the address.
        patience: seconds without a new character or checkpoint after which a broken text is given up.
        service_config: gRPC's, as JSON. Default: calls to a name with several records take turns among them.
        hedge_after: seconds, or a percentile ("p95") of the times that this client's texts took. Where the first
            character is later, the next address is asked for the same text; the answer that comes first counts, and the
            other call is given up. At most one text in 25 is asked for twice. Default: never.

    Raises:
        ValueError: no address, or none that can be asked; a token that can't be sent; another argument that is wrong.
    """

    _kind: ClassVar[Any] = grpc  # the module that makes channels

    def __init__(
        self,
        addresses: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        tls_name: str = "",
        patience: float = 30.0,
        service_config: str = "",
        hedge_after: float | str | None = None,
    ) -> None:
        self._servers = Servers(
            self._kind,
            addresses,
            credentials=credentials,
            token=token,
            tls_name=tls_name,
            patience=patience,
            service_config=service_config,
            hedge_after=hedge_after,
        )

    @documents(GenerateOptions)
    def stream(
        self, prompt: str, *, timeout: float | None = None, resume: bool = True, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """Ask for the characters that follow `prompt`.

        Args:
            timeout: seconds for the whole text.
            resume: if the stream breaks, the text goes on by itself, at the same or another address, so that each
                character comes once. False: the first failure is raised.
            options: see below, or `GenerateOptions`.

        Raises:
            TypeError, ValueError: an option doesn't exist, or can't be sent. The stream raises the server's errors.
        """
        request = generate_request(prompt, options, checkpoints=resume)
        return TextStream(
            self._servers, TextTask(request, spaced=chooses_checkpoints(options)), timeout=timeout, resume=resume
        )

    def go_on(self, progress: Progress, *, timeout: float | None = None) -> TextStream:
        """Ask for the rest of a text that was given up, from its error's `progress`; the stream has the whole text."""
        return TextStream(self._servers, TextTask.from_progress(progress, time.monotonic()), timeout=timeout)

    @documents(GenerateOptions)
    def continuations(
        self,
        prompt: str,
        *,
        n: int,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> Continuations:
        """Ask for `n` texts that follow `prompt`, which the server reads once: see `stream`."""
        request = generate_request(prompt, options, checkpoints=resume)
        texts = ContinuationsTask(request, n, spaced=chooses_checkpoints(options))
        return Continuations(self._servers, texts, timeout=timeout, resume=resume)

    @documents(ScoreOptions)
    def score(
        self,
        text: str,
        *,
        part_chars: int = PART_CHARS,
        timeout: float | None = None,
        **options: Unpack[ScoreOptions],
    ) -> ScoreStream:
        """Ask how probable each character of `text` is.

        Args:
            part_chars: longer texts are sent in parts of this many characters, each when the one before is scored.
            timeout: seconds for the whole text.
            options: see below, or `ScoreOptions`.

        Raises:
            TypeError, ValueError: as `stream`.
        """
        return ScoreStream(self._servers, ScoreTask(score_request(options), text, part_chars), timeout=timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Return the served models. `timeout` is in seconds. Raises CharstreamError."""
        return [to_model(model) for model in self._answer("ListModels", pb.ListModelsRequest(), timeout).models]

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Return one served model. `timeout` is in seconds. Raises ModelNotFound, or another CharstreamError."""
        return to_model(self._answer("GetModel", pb.GetModelRequest(name=name), timeout))

    def _answer(self, method: str, message: Any, timeout: float | None) -> Any:
        recovery = start_recovery(self._servers, UnaryTask(message), timeout=timeout)
        while True:
            call, seconds = self._servers.method(method, recovery.address), recovery.seconds_left(time.monotonic())
            try:
                return call(message, timeout=seconds, metadata=self._servers.metadata)
            except grpc.RpcError as error:
                time.sleep(recovery.handle_failure(from_rpc_error(error), time.monotonic()))

    @property
    def counts(self) -> Counts:
        """How often calls failed, texts were asked for again, and second servers were asked, since the beginning."""
        return self._servers.counters.counts()

    def close(self) -> None:
        """End the connections and all calls on them."""
        self._servers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
