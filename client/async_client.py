"""The client for asyncio: the same as `client.sync_client`, awaited."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from charstream.protos import charstream_pb2 as pb

from .async_streams import AsyncContinuations, AsyncScoreStream, AsyncTextStream
from .channels import DEFAULT_ADDRESS, Servers
from .errors import from_rpc_error
from .generation_task import ContinuationsTask, TextTask
from .hedging.counters import Counts
from .options import GenerateOptions, chooses_checkpoints, documents, generate_request
from .results import ModelInfo, Progress, to_model
from .retry import UnaryTask
from .score_task import PART_CHARS, ScoreOptions, ScoreTask, score_request
from .stream_base import start_recovery

__all__ = ["AsyncClient"]


class AsyncClient:
    """The same as `Client`, made and used within one event loop.

    `stream`, `go_on`, `continuations` and `score` are called without `await`; the streams that they return are awaited.
    """

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
            grpc.aio,
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
    ) -> AsyncTextStream:
        """See `Client.stream`."""
        request = generate_request(prompt, options, checkpoints=resume)
        return AsyncTextStream(
            self._servers, TextTask(request, spaced=chooses_checkpoints(options)), timeout=timeout, resume=resume
        )

    def go_on(self, progress: Progress, *, timeout: float | None = None) -> AsyncTextStream:
        """See `Client.go_on`."""
        return AsyncTextStream(self._servers, TextTask.from_progress(progress, time.monotonic()), timeout=timeout)

    @documents(GenerateOptions)
    def continuations(
        self,
        prompt: str,
        *,
        n: int,
        timeout: float | None = None,
        resume: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> AsyncContinuations:
        """See `Client.continuations`."""
        request = generate_request(prompt, options, checkpoints=resume)
        texts = ContinuationsTask(request, n, spaced=chooses_checkpoints(options))
        return AsyncContinuations(self._servers, texts, timeout=timeout, resume=resume)

    @documents(ScoreOptions)
    def score(
        self,
        text: str,
        *,
        part_chars: int = PART_CHARS,
        timeout: float | None = None,
        **options: Unpack[ScoreOptions],
    ) -> AsyncScoreStream:
        """See `Client.score`."""
        return AsyncScoreStream(self._servers, ScoreTask(score_request(options), text, part_chars), timeout=timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Return the served models. `timeout` is in seconds. Raises CharstreamError."""
        answer = await self._answer("ListModels", pb.ListModelsRequest(), timeout)
        return [to_model(model) for model in answer.models]

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Return one served model. `timeout` is in seconds. Raises ModelNotFound, or another CharstreamError."""
        return to_model(await self._answer("GetModel", pb.GetModelRequest(name=name), timeout))

    async def _answer(self, method: str, message: Any, timeout: float | None) -> Any:
        recovery = start_recovery(self._servers, UnaryTask(message), timeout=timeout)
        while True:
            call, seconds = self._servers.method(method, recovery.address), recovery.seconds_left(time.monotonic())
            try:
                return await call(message, timeout=seconds, metadata=self._servers.metadata)
            except grpc.RpcError as error:
                await asyncio.sleep(recovery.handle_failure(from_rpc_error(error), time.monotonic()))

    @property
    def counts(self) -> Counts:
        """See `Client.counts`."""
        return self._servers.counters.counts()

    async def close(self) -> None:
        """End the connections and all calls on them."""
        await asyncio.gather(*self._servers.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
