"""Generate and Score: asks for texts, and writes their messages."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.access.quotas import Quota, Quotas
from server.catalog.catalog import Catalog
from server.catalog.loaded_model import ServedModel
from server.engine.messages import Output, Reason, Request
from server.errors import CallTooLong, RequestError, ShuttingDown
from server.observe.call import Call, current_call
from server.service.calls import Writer
from server.service.requests import generation_request, scoring_request
from server.service.responses import GenerateResponder, ScoreResponder
from server.service.resume_tokens import Keys
from server.service.token_pb2 import TextState
from server.settings import ServerSettings
from server.streaming.text_stream import Reader

__all__ = ["TextGenerationService"]

Chunks = AsyncGenerator[Output, None]


class TextGenerationService(pb_grpc.TextGenerationServicer):
    """Streams texts; refuses new ones from the moment `drain` is set."""

    def __init__(
        self, catalog: Catalog[ServedModel], settings: ServerSettings, keys: Keys, drain: asyncio.Event
    ) -> None:
        self._catalog, self._settings, self._keys, self._drain = catalog, settings, keys, drain
        self.quotas = Quotas(settings.identity_streams, settings.identity_chars)

    async def Generate(self, message: pb.GenerateRequest, context: Writer) -> None:
        async with self._model(message) as (model, token, quota):
            request, details = generation_request(message, token, model.manifest, _replica_of(model), self._settings)
            responders = [GenerateResponder(request, details, self._keys, index) for index in details.continuations]
            call = self._note(request, model, message.prompt)
            caller = _Caller(call, model, quota, context, self._settings.log_texts)
            if len(responders) == 1:
                complete = await self._send(request, responders[0], caller)
            else:
                complete = await self._send_all(request, responders, caller)
            if not complete:
                raise self._incomplete()

    async def Score(self, message: pb.ScoreRequest, context: Writer) -> None:
        async with self._model(message) as (model, token, quota):
            request, details = scoring_request(message, token, model.manifest, _replica_of(model), self._settings)
            responder = ScoreResponder(request, details, self._keys)
            call = self._note(request, model, message.prompt + message.text)
            caller = _Caller(call, model, quota, context, keep_text=False)
            async with caller.open(request) as chunks:
                async for chunk in chunks:
                    if chunk.finish and chunk.finish.reason is Reason.DRAINED:
                        raise self._incomplete()
                    await caller.write(responder.message(chunk))
                    if chunk.finish:
                        call.note_finish(chunk.finish)

    @asynccontextmanager
    async def _model(
        self, message: pb.GenerateRequest | pb.ScoreRequest
    ) -> AsyncIterator[tuple[ServedModel, TextState | None, Quota]]:
        """Give the model (kept loaded), the token's contents, the quota.

        Raises before the request is read if no text more may be open.
        """
        with self.quotas.of(current_call().identity) as quota:
            if self._drain.is_set():
                raise ShuttingDown
            token = None
            if message.resume_token:
                token = self._keys.open(message.resume_token, self._settings.max_token_bytes)
            name = message.model or (token.model if token else "")
            digest = token.replica.digest if token else message.replica.digest
            async with AsyncExitStack() as stack:
                with quota.text():  # who waits for a model counts
                    model = await stack.enter_async_context(self._catalog.use(name, digest))
                model.streams.check_capacity(1)
                yield model, token, quota

    def _note(self, request: Request, model: ServedModel, prompt: str) -> Call:
        """Note the request in the call's record, and return that."""
        call = current_call()
        call.model = f"{model.manifest.name} {model.manifest.version}"
        call.forced_chars = len(request.forced)
        call.resumed = request.origin is not None or bool(request.begun.received)
        if self._settings.log_texts:
            call.prompt = prompt
        return call

    def _incomplete(self) -> RequestError:
        """Return why a text is incomplete: it can go on in another call, here or elsewhere."""
        return ShuttingDown() if self._drain.is_set() else CallTooLong(self._settings.max_seconds)

    async def _send(self, request: Request, responder: GenerateResponder, caller: "_Caller") -> bool:
        """Send the text; return whether it is complete."""
        reason, last = None, None
        async with caller.open(request) as chunks:
            async for chunk in chunks:
                message = responder.message(chunk)
                await caller.write(message)
                last = caller.note_sent(chunk, message.text, last)
                reason = chunk.finish and chunk.finish.reason
        return reason is not Reason.DRAINED

    async def _send_all(self, request: Request, responders: list[GenerateResponder], caller: "_Caller") -> bool:
        """Run the prompt once, generate all continuations from its end; return whether all are complete."""
        caller.model.streams.check_capacity(len(responders))
        caller.quota.check_capacity(len(responders))
        if len(request.forced):
            end = await self._prefill(request, responders, caller)
            if not end.snapshot:
                return await self._end_all(end, responders, caller)
            request = request.after(end.snapshot)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = [
                    tasks.create_task(self._send(replace(request, continuation=responder.index), responder, caller))
                    for responder in responders
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return all(task.result() for task in sending)

    async def _prefill(self, request: Request, responders: list[GenerateResponder], caller: "_Caller") -> Output:
        """Send each continuation what is to be echoed; return the last chunk, with the place after the prompt."""
        async with caller.open(request.prefill_only()) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    await self._echo(chunk, responders, caller)
        return replace(chunk, text="", scores=None)

    async def _echo(self, chunk: Output, responders: list[GenerateResponder], caller: "_Caller") -> None:
        """Send a part of the prompt to all; one text is charged for already."""
        caller.quota.charge((len(responders) - 1) * len(chunk.text))
        for responder in responders:
            message = responder.message(chunk, last=False)
            await caller.write(message)
            caller.note_sent(replace(chunk, finish=None), message.text, None)

    async def _end_all(self, end: Output, responders: list[GenerateResponder], caller: "_Caller") -> bool:
        """Send the end to all, if it came before the prompt had run."""
        for responder in responders:
            await caller.write(responder.message(end))
        caller.note_sent(end, "", None)
        return end.finish is not None and end.finish.reason is not Reason.DRAINED


def _replica_of(model: ServedModel) -> pb.Replica:
    """Return the part of the server that decides a text, beside its request."""
    return pb.Replica(digest=model.digest, precision=model.precision, numerics=model.numerics)


class _Caller:
    """Who waits for texts: of which model, within which quota, where to write to, and the record of the call."""

    def __init__(self, call: Call, model: ServedModel, quota: Quota, writer: Writer, keep_text: bool) -> None:
        self.model, self.quota = model, quota
        self._call, self._writer, self._keep_text = call, writer, keep_text
        self._turn = asyncio.Lock()
        self._reader: Reader = getattr(writer, "reader", None) or Reader()

    def open(self, request: Request) -> AbstractAsyncContextManager[Chunks]:
        """Open a text; give its chunks."""
        return self.model.streams.open(request, self._call.began, self.quota, self._reader)

    async def write(self, message: pb.GenerateResponse | pb.ScoreResponse) -> None:
        async with self._turn:
            await self._writer.write(message)
            self._reader.took = time.monotonic()

    def note_sent(self, chunk: Output, text: str, last: float | None) -> float:
        """Note a message with some text, of which the message before was written at `last`; return now."""
        now = time.monotonic()
        self._call.note_message(len(chunk.text), None if last is None else now - last)
        if self._keep_text:
            self._call.text += text
        if chunk.finish:
            self._call.note_finish(chunk.finish)
        return now
