"""The client for code that waits: scripts, threads, notebooks, gevent."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from client import wire
from client.errors import from_rpc_error
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc

__all__ = ["Client", "TextStream"]


class Client:
    """One connection to a server; calls may come from several threads.

    Args:
        address: "host:port", or any other target that gRPC resolves.
    """

    def __init__(self, address: str = wire.DEFAULT_ADDRESS) -> None:
        self._channel = grpc.insecure_channel(address, options=wire.CHANNEL_OPTIONS)
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
    ) -> "TextStream":
        """Asks for the characters that follow `prompt`; what is None or empty is left to the server.

        Args:
            model: may be empty where one model is served.
            max_chars: generate at most so many characters.
            temperature: 0 is greedy.
            top_k: only the so many most probable characters.
            top_p: of those, the fewest whose shares reach this sum.
            min_p: only characters at least this share as probable as the most probable one.
            seed: same seed, same text.
            stop: strings before which the text ends.
            max_chunk_chars: at most so many characters at a time.
            max_chunk_delay: seconds that a character may wait for others to travel with.
            timeout: seconds for the whole text.

        Raises:
            ValueError: an argument can't be sent. The server's errors come from the stream.
        """
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
        return TextStream(self._text.Generate(message, timeout=timeout))

    def models(self, *, timeout: float | None = None) -> list[wire.ModelInfo]:
        """What is served. `timeout` is in seconds. Raises CharstreamError."""
        try:
            return [wire.to_model(model) for model in self._models.ListModels(pb.ListModelsRequest(), timeout).models]
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def model(self, name: str, *, timeout: float | None = None) -> wire.ModelInfo:
        """One served model. `timeout` is in seconds. Raises ModelNotFound, or another CharstreamError."""
        try:
            return wire.to_model(self._models.GetModel(pb.GetModelRequest(name=name), timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def close(self) -> None:
        """Ends the connection and what still runs on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextStream:
    """A text on its way: iterate for its chunks, then read `finish`.

    Leaving the loop or the `with` block early cancels the call, which frees the server's row.
    """

    def __init__(self, call: Any) -> None:  # grpc's call object: an iterator of GenerateResponse with `cancel`
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

    def __iter__(self) -> Iterator[str]:
        """Yields the chunks, each a string of at least one character.

        Raises:
            CharstreamError: with the text that came before it in `.text`.
        """
        try:
            for response in self._call:
                if text := self._received.take(response):
                    yield text
            self._received.check_finished()
        except grpc.RpcError as error:
            if not self._cancelled:
                raise from_rpc_error(error, self.text) from error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the call, from any thread; the loop over the stream ends, and `finish` stays as it is."""
        self._cancelled = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
