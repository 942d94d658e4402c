"""The servers of a client: a channel for each address, its protection, and whose turn it is."""

import ipaddress
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from charstream.protos import charstream_pb2 as pb

from .hedging.counters import Counters
from .hedging.policy import Hedging

__all__ = ["DEFAULT_ADDRESS", "Servers", "bearer", "host_and_port", "is_ip", "open_channel", "to_target"]

DEFAULT_PORT = 50051
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"

CHANNEL_OPTIONS = (
    # Channels with equal options would share one connection, but each client needs its own.
    ("grpc.use_local_subchannel_pool", 1),
    # A dead server or a NAT that forgot the connection is noticed within 80 seconds; only calls send pings.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # retry.py decides when to try again: while gRPC itself waits, 1 to 120 s by default, calls fail unsent.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # In spite of its name, the time that connecting may take; a machine that is gone would cost 20 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)
# A name may have several records, each of a replica: calls take turns. With gRPC's default all go to the first one.
TAKE_TURNS = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


class Servers:
    """One connection to each address.

    Args:
        kind: the module that makes the channels, `grpc` or `grpc.aio`.
        patience, service_config, hedge_after: see `Client`.

    Attributes:
        hedging: None: no second server is asked.
        counters: of all that was asked.

    Raises:
        ValueError: there is no address, or what is given is none; or the token can't be sent, or anybody on the way
            could read it; or an argument is not of its form.
    """

    def __init__(
        self,
        kind: Any,
        addresses: str | Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None,
        token: str | None,
        tls_name: str,
        patience: float,
        service_config: str = "",
        hedge_after: float | str | None = None,
    ) -> None:
        names = [addresses] if isinstance(addresses, str) else list(addresses)
        if not names:
            raise ValueError("addresses: there is none; give at least one host:port")
        self.metadata = bearer(names, token, protected=credentials is not None)
        self.closed = False
        self.count = len(names)
        self.patience = patience
        self.counters = Counters()
        self.hedging = None if hedge_after is None else Hedging(hedge_after)
        self._channels = [
            open_channel(kind, name, credentials, tls_name=tls_name, service_config=service_config) for name in names
        ]
        self._methods = [dict(_methods(channel)) for channel in self._channels]
        # Many clients spread over the addresses, and so do the texts of one client.
        self._turns = itertools.count(random.randrange(len(names)))

    def next_address(self) -> int:
        """Return the number of the address at which the next task begins."""
        return next(self._turns) % self.count

    def method(self, name: str, number: int) -> Any:
        """Return gRPC's callable for an RPC, named as in charstream.proto, at the address of that number."""
        return self._methods[number][name]

    def close(self) -> list[Any]:
        """End all calls. Return the awaitables of `grpc.aio`'s channels."""
        self.closed = True
        return [channel.close() for channel in self._channels]


def open_channel(
    kind: Any,
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    tls_name: str = "",
    service_config: str = "",
) -> Any:
    """Return a channel to one address.

    For the arguments see `Client`; raises ValueError as `to_target` does, and for a service config that is no JSON.
    """
    # A proxy leads nowhere from this machine to itself, and would read a token.
    options: tuple[tuple[str, int | str], ...] = (
        *CHANNEL_OPTIONS,
        ("grpc.enable_http_proxy", int(not _is_loopback(address))),
    )
    if config := _check_service_config(service_config) or (TAKE_TURNS if _may_be_several(address) else ""):
        options += (("grpc.service_config", config),)
    if tls_name:
        options += (("grpc.ssl_target_name_override", tls_name),)
    if credentials is None:
        return kind.insecure_channel(to_target(address), options=options)
    return kind.secure_channel(to_target(address), credentials, options=options)


def _check_service_config(text: str) -> str:
    try:
        is_object = not text or isinstance(json.loads(text), dict)
    except ValueError:
        is_object = False
    if not is_object:  # gRPC would ignore it
        raise ValueError("service_config: it is no JSON object, see gRPC's grpc/service_config/service_config.proto")
    return text


def _may_be_several(address: str) -> bool:
    """Return whether an address may lead to several servers: a list, or a name that is none of this machine."""
    _, host, _ = _parts(address)
    if host is None:
        return bool(re.match("ipv[46]:.*,", address))
    return not is_ip(host) and host != "localhost"


def to_target(address: str) -> str:
    """Return an address as gRPC reads it, with the port where there is none: gRPC itself would take that of https.

    Raises:
        ValueError: it is no address, or a web address.
    """
    scheme, host, port = _parts(address)
    if host is None:
        return address
    return f"{scheme}{f'[{host}]' if ':' in host else host}:{port or DEFAULT_PORT}"


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the host and the port of an address, or None if it has none, as a socket's."""
    _, host, port = _parts(address)
    return (host, int(port or DEFAULT_PORT)) if host and (port or "0").isdecimal() else None


def _parts(address: str) -> tuple[str, str | None, str]:
    """Return scheme, host and port of an address; of one that has other parts, such as a socket's, no host."""
    if re.match(r"(unix|unix-abstract|vsock|xds|google-c2p):", address):
        return "", None, ""
    if (web := re.match(r"([a-z][a-z+.-]*)://", address, re.IGNORECASE)) and web[1].lower() != "dns":
        raise ValueError(
            f"the address {address!r} begins with {web[0]}, host:port alone is expected; TLS is asked for by "
            "credentials, on the command line by --tls or --tls-ca"
        )
    found = re.fullmatch(
        r"(?P<scheme>dns:(?:///|//[^/]*/)?|ipv[46]:)?"
        r"(?:\[(?P<v6>[^][]+)]|(?P<host>[^][:/,\s]+)|(?P<bare>[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*))(?::(?P<port>\w+))?",
        address,
        re.IGNORECASE,
    )
    if found:
        host = found["v6"] or found["host"] or found["bare"]
        if (not found["bare"] or is_ip(host)) and _is_port(found["port"]):
            return found["scheme"] or "", host, found["port"] or ""
    if re.match("ipv[46]:", address) and "," in address:  # several, which gRPC reads itself
        return "", None, ""
    raise ValueError(
        f"the address {address!r} is none: host:port is expected, such as {DEFAULT_ADDRESS} or [::1]:50051"
    )


def is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return False


def _is_port(port: str | None) -> bool:
    return port is None or not port.isdecimal() or 0 < int(port) < 65_536


def _methods(channel: Any) -> Iterator[tuple[str, Any]]:
    """Yield the RPCs of charstream.proto by name. The generated stubs would import `protos`, which may be another's."""
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            call = channel.unary_stream if method.server_streaming else channel.unary_unary
            yield (
                method.name,
                call(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=GetMessageClass(method.input_type).SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                ),
            )


def bearer(addresses: Sequence[str], token: str | None, *, protected: bool) -> tuple[tuple[str, str], ...]:
    """Return the header with the token. Raises ValueError: anybody on the way could read it, or it fits no header."""
    if token is None:
        return ()
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token: it is empty, or has characters that no header can carry (allowed is printable ASCII)")
    far = [address for address in addresses if not _is_loopback(address)]
    if far and not protected:
        raise ValueError(f"token: anybody on the way to {far[0]} could read it; give credentials for TLS as well")
    return (("authorization", f"Bearer {token}"),)


def _is_loopback(address: str) -> bool:
    """Return whether the address by itself says that what is sent there stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    scheme, host, _ = _parts(address)
    if not host or re.match("dns://[^/]", scheme, re.IGNORECASE):  # a name server that is asked may say anything
        return False
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)
