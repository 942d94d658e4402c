"""Sequences that outlive their server: a replica takes them from the others, and hands its own over when it drains."""

import asyncio
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc

from server.access.reloading import Reloaded, read, read_secret
from server.catalog.loaded_model import ServedModel
from server.errors import RequestError, ShuttingDown
from server.oip.sequence_tokens import SequenceTokens, key_of
from server.service.resume_tokens import Keys
from server.service.rpcs import REPLICAS
from server.settings import ServerSettings
from server.streaming.sequences import HeldSequence, Key, state_bytes

__all__ = ["Replicas"]

log = logging.getLogger("charstream.replicas")

TAKE, GIVE = f"/{REPLICAS}/Take", f"/{REPLICAS}/Give"
# A claim waits for a hand-over that has begun: it has to have more time.
TAKE_SECONDS, GIVE_SECONDS = 3.0, 1.0
RESOLVED_SECONDS = 2.0
SILENT_SECONDS = 5.0  # that a replica is not asked which did not answer in time: every step would wait for it
ROUNDS = 3  # of questions, while the sequence is on its way
# A replica that comes back is asked soon.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
MESSAGE_BYTES = 64 << 10  # every server takes as much, and beside it a resume token
NAME_BYTES = 1024  # of a sequence, its identity and the bundle
YES, NO = b"\x01", b""


class Models(Protocol):
    """The models; see server/catalog/catalog.py."""

    @property
    def loader(self) -> Iterable[ServedModel]: ...

    def use(self, wanted: str, digest: str) -> AbstractAsyncContextManager[ServedModel]: ...


class Replicas:
    """The other servers, as far as sequences go. A sequence is held by one of them at a time.

    Args:
        keys: of resume tokens. Who has one of them is a replica: no other token is asked for.
        drain: is set when this server takes no more calls.

    Raises:
        FileError: the certificates cannot be used.
    """

    def __init__(self, settings: ServerSettings, keys: Keys, models: Models, drain: asyncio.Event) -> None:
        self._tokens, self._models, self._drain = SequenceTokens(keys, secrets.token_bytes(8)), models, drain
        self._links = _Links(settings)
        self._batch_bytes = MESSAGE_BYTES + settings.max_token_bytes

    def serve(self, server: grpc.aio.Server) -> None:
        """Let the server answer the others."""
        handlers: dict[str, Any] = {
            "Take": grpc.unary_unary_rpc_method_handler(self._give_up, request_deserializer=bytes),
            "Give": grpc.unary_unary_rpc_method_handler(self._adopt, request_deserializer=bytes),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REPLICAS, handlers),))

    async def take(self, model: ServedModel, key: Key) -> HeldSequence | None:
        """Return the sequence as the other replicas gave it up, if one of them had it. Raises ShuttingDown."""
        if self._drain.is_set():
            raise ShuttingDown  # what this server holds goes away, and nothing comes any more
        found: HeldSequence | None = None
        for _ in range(ROUNDS):
            channels = await self._links.channels()
            claim = self._tokens.claim(model.digest, key)
            asking = (self._links.ask(channel, TAKE, claim, TAKE_SECONDS) for channel in channels)
            answers = await asyncio.gather(*asking)
            read = [self._tokens.read_answer(answer, model.manifest) for answer in answers if answer]
            held = [sequence for sequence, _ in read if sequence]
            if held:
                found = max(held, key=lambda sequence: sequence.age)
            if found or not any(is_moving for _, is_moving in read):
                break
        return found

    async def hand_over(self) -> None:
        """Give all sequences to other replicas; what nobody takes is lost with this server."""
        for model in list(self._models.loader):
            keys = list(model.sequences.keys)
            size = state_bytes(model.manifest.model) + NAME_BYTES
            taken = 0
            for batch in _batches(keys, max(1, self._batch_bytes // size)):
                async with model.sequences.lend(batch) as loan:
                    loan.is_taken = await self._give(model, loan.sequences)
                    taken += loan.is_taken * len(loan.sequences)
            if keys:
                log.info("%s: %d of %d sequences went to other replicas", model.manifest.name, taken, len(keys))

    async def _give(self, model: ServedModel, held: Sequence[HeldSequence]) -> bool:
        """Return whether a replica took the sequences: each is asked once, until one does."""
        signed = self._tokens.states(model.digest, held)
        for channel in self._links.in_turn(await self._links.channels()):
            if await self._links.ask(channel, GIVE, signed, GIVE_SECONDS) == YES:
                return True
        return False

    async def _give_up(self, claim: bytes, context: Any) -> bytes:
        """Answer a claim: the sequence is the other server's from now on."""
        name = self._tokens.read_claim(claim)
        model = next((one for one in self._models.loader if name and one.digest == name.digest), None)
        if name is None or model is None or key_of(name) not in model.sequences:
            return self._tokens.answer("", None, is_moving=False)
        async with model.sequences.lend([key_of(name)]) as loan:
            loan.is_taken = True
            found = next(iter(loan.sequences), None)
            return self._tokens.answer(model.digest, found, is_moving=found is None)

    async def _adopt(self, states: bytes, context: Any) -> bytes:
        """Take sequences that another server hands over, unless this one drains, too, or has no such model."""
        given = self._tokens.read_states(states)
        if not given or self._drain.is_set():
            return NO
        try:
            async with self._models.use("", given[0].sequence.digest) as model:
                if model.digest != given[0].sequence.digest:
                    return NO
                for state in given:
                    await model.sequences.adopt(self._tokens.held(state, model.manifest))
        except RequestError:
            return NO
        return YES


class _Links:
    """Channels to all addresses that the replicas' names have."""

    def __init__(self, settings: ServerSettings) -> None:
        self._places = [place.rpartition(":") for place in settings.replicas]
        self._credentials = _credentials(settings)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._silent: dict[grpc.aio.Channel, float] = {}  # until when
        self._names: dict[str, str] = {}
        self._used: grpc.ChannelCredentials | None = None
        self._resolved = -RESOLVED_SECONDS
        self._turn = 0

    async def channels(self) -> Sequence[grpc.aio.Channel]:
        credentials = self._credentials.current() if self._credentials else None
        if credentials is not self._used or time.monotonic() - self._resolved >= RESOLVED_SECONDS:
            await self._resolve(credentials)
        now = time.monotonic()
        return [channel for channel in self._channels.values() if self._silent.get(channel, 0.0) <= now]

    async def ask(self, channel: grpc.aio.Channel, method: str, request: bytes, seconds: float) -> bytes:
        """Return the answer; none if the replica cannot be reached or refuses."""
        try:
            ask: Any = channel.unary_unary(method)
            return bytes(await ask(request, timeout=seconds))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._silent[channel] = time.monotonic() + SILENT_SECONDS
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                log.warning("a replica refused: %s", error.details())
            return b""
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls.
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return b""

    def in_turn(self, channels: Sequence[grpc.aio.Channel]) -> Iterator[grpc.aio.Channel]:
        """Iterate over the channels, from another one each time: so what is given away spreads."""
        self._turn += 1
        return (channels[(self._turn + place) % len(channels)] for place in range(len(channels)))

    async def _resolve(self, credentials: grpc.ChannelCredentials | None) -> None:
        found: dict[str, str] = {}  # by address, the name that its certificate has
        for host, _, port in self._places:
            name = host.strip("[]")
            # A name that cannot be resolved at the moment keeps its addresses.
            addresses = await _addresses(name, port) or [one for one, named in self._names.items() if named == name]
            found |= dict.fromkeys(addresses, name)
        self._names = found
        before, is_same = self._channels, credentials is self._used
        self._channels = {
            address: before[address] if is_same and address in before else _channel(address, name, credentials)
            for address, name in found.items()
        }
        self._resolved, self._used = time.monotonic(), credentials
        self._silent = {channel: until for channel, until in self._silent.items() if until > self._resolved}
        # Calls on those that are left out come to their end.
        for channel in set(before.values()) - set(self._channels.values()):
            await channel.close(TAKE_SECONDS)


async def _addresses(host: str, port: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("--replicas %s: %s", host, error.strerror)
        return []
    addresses = [str(address[0]) for *_, address in found]
    return [f"[{one}]:{port}" if ipaddress.ip_address(one).version == 6 else f"{one}:{port}" for one in addresses]


def _credentials(settings: ServerSettings) -> Reloaded[grpc.ChannelCredentials] | None:
    """Return what to connect with: TLS if this server has it, with its own certificate. Raises FileError."""
    cert, key, authorities = settings.tls_cert, settings.tls_key, settings.replicas_ca
    if cert is None or key is None:
        return None

    def load() -> grpc.ChannelCredentials:
        roots = read(authorities) if authorities else None
        return grpc.ssl_channel_credentials(roots, read_secret(key), read(cert))

    return Reloaded("certificates for replicas", [path for path in (cert, key, authorities) if path], load)


def _channel(address: str, name: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return grpc.aio.secure_channel(address, credentials, [*OPTIONS, ("grpc.ssl_target_name_override", name)])


def _batches(keys: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    return (keys[begin : begin + size] for begin in range(0, len(keys), size))
