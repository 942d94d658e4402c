"""The client for asyncio: the same as `client.blocking`, awaited."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from client import wire
from client.errors import Unavailable, from_rpc_error
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc

__all__ = ["AsyncClient", "AsyncTextStream"]


class AsyncClient:
    """One connection to a server, made and used within one event loop.

    Args:
        address: "host:port", or any other target that gRPC resolves.
    """

    def __init__(self, address: str = wire.DEFAULT_ADDRESS) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS)
        self._text = rpc.TextGenerationStub(self._channel)  # type: ignore[no-untyped-call]
        self._models = rpc.ModelsStub(self._channel)  # type: ignore[no-untyped-call]

    def stream(
        self,
        prompt: str,
        *,
        model: str = "",
        max_chars: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        max_chunk_chars: int | None = None,
        max_chunk_delay: float | None = None,
        timeout: float | None = None,
    ) -> "AsyncTextStream":
        """Asks for the characters that follow `prompt`: see `Client.stream`. There is nothing to await here."""
        message = wire.request(
            prompt,
            model=model,
            max_chars=max_chars,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop,
            max_chunk_chars=max_chunk_chars,
            max_chunk_delay=max_chunk_delay,
        )
        return AsyncTextStream(self._text.Generate(message, timeout=timeout))

    async def models(self, *, timeout: float | None = None) -> list[wire.ModelInfo]:
        """What is served. `timeout` is in seconds. Raises CharstreamError."""
        try:
            answer = await self._models.ListModels(pb.ListModelsRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return [wire.to_model(model) for model in answer.models]

    async def model(self, name: str, *, timeout: float | None = None) -> wire.ModelInfo:
        """One served model. `timeout` is in seconds. Raises ModelNotFound, or another CharstreamError."""
        try:
            return wire.to_model(await self._models.GetModel(pb.GetModelRequest(name=name), timeout=timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def close(self) -> None:
        """Ends the connection and what still runs on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncTextStream:
    """A text on its way: `async for` its chunks, then read `finish`.

    Leaving the `async with` block early, or the loop, cancels the call, which frees the server's row.
    """

    def __init__(self, call: Any) -> None:  # grpc.aio's call object: an async iterable of GenerateResponse
        self._call = call
        self._cancelled = False
        self._received = wire.Received()

    @property
    def text(self) -> str:
        """What has come so far."""
        return self._received.text

    @property
    def finish(self) -> wire.Finish | None:
        """How the text ended; None until it did, and for ever where it was cancelled."""
        return self._received.finish

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yields the chunks, each a string of at least one character.

        Raises:
            CharstreamError: with the text that came before it in `.text`.
        """
        try:
            async for response in self._call:
                if text := self._received.take(response):
                    yield text
            self._received.check_finished()
        except grpc.RpcError as error:
            if not self._cancelled:
                raise from_rpc_error(error, self.text) from error
        except asyncio.CancelledError:
            if _task_is_cancelled():
                raise
            if not self._cancelled:
                raise Unavailable("the client was closed", self.text) from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the call; the loop over the stream ends, and `finish` stays as it is."""
        self._cancelled = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def _task_is_cancelled() -> bool:
    """grpc.aio raises CancelledError for a cancelled call too: only the task knows who was meant."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
