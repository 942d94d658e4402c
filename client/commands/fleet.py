"""`charstream fleet`: what each of several servers serves, and who differs from the others."""

import asyncio
import re
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from pydantic import Field

from charstream.protos import charstream_pb2 as pb
from charstream.protos import inference_pb2 as oip
from charstream.settings import Positional, parse
from client.channels import bearer, host_and_port, is_ip, open_channel
from client.commands.common import Address, Connection, hint, one_line, one_line_errors
from client.commands.models import table
from client.commands.printing import json_line, write
from client.errors import from_rpc_error
from client.results import ModelInfo, to_model

__all__ = ["FleetSettings", "main"]

COMMAND = "charstream fleet"
HEADER = (
    *("server", "health", "charstream", "model", "version", "state", "precision", "numerics", "digest", "rows"),
    "waiting",
)
# The facts of a version by which texts, or places, differ.
SAME = ("digest", "precision", "numerics", "provider", "max_rows")


class FleetSettings(Connection):
    """Asks every server what it serves, and says in what it differs from most others. Of a name with several records
    each is asked. Exit code 0 if all serve, and serve the same; 1 if not."""

    host: Annotated[tuple[Address, ...], Positional()] = Field(
        description="the servers' host:port, or host for port 50051"
    )
    timeout: float = Field(5.0, gt=0, description="seconds to wait for each server")
    json_: bool = Field(False, description="everything that they say, and the differences, as a JSON object")


@dataclass(frozen=True)
class Member:
    """A server, and what it says of itself."""

    server: str
    error: str = ""
    health: str = "-"
    charstream: str = "-"  # its version
    models: list[ModelInfo] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if all servers serve, and serve the same; otherwise 1."""
    settings = parse(FleetSettings, argv, command=COMMAND)
    with one_line_errors(COMMAND, settings):
        members = asyncio.run(_ask_all(settings))
    differences = find_differences(members)
    if settings.json_:
        write(json_line({"servers": [asdict(member) for member in members], "differences": differences}, indent=2))
    else:
        print(table([HEADER, *(row for member in members for row in _rows(member))]))
        print("\n".join(differences) or f"{len(members)} server{'s serve' if len(members) > 1 else ' serves'} the same")
    return 1 if differences else 0


async def _ask_all(settings: FleetSettings) -> list[Member]:
    places = [place for address in settings.host for place in await _records(address)]
    return list(await asyncio.gather(*(_ask(settings, *place) for place in dict.fromkeys(places))))


async def _records(address: str) -> list[tuple[str, str, str]]:
    """Return what to call a server, its address, and the name of its certificate; for each record of a name."""
    place = host_and_port(address)
    if place is None or is_ip(place[0]) or place[0] == "localhost":
        return [(address, address, "")]
    host, port = place
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:  # the call will say so
        return [(address, address, "")]
    ips = sorted({str(sockaddr[0]) for *_, sockaddr in found})
    return [(f"{host} {ip}", f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", host) for ip in ips]


async def _ask(settings: FleetSettings, name: str, address: str, tls_name: str) -> Member:
    credentials, token = settings.credentials(), settings.token()
    metadata = bearer([address], token, protected=credentials is not None)
    tls_name = settings.tls_name or (tls_name if credentials else "")
    async with open_channel(grpc.aio, address, credentials, tls_name=tls_name) as channel:

        async def call(method: str, request: Any, kind: Any) -> Any:
            ask = channel.unary_unary(
                method, request_serializer=type(request).SerializeToString, response_deserializer=kind.FromString
            )
            return await ask(request, timeout=settings.timeout, metadata=metadata)

        try:
            check = await call(
                "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse
            )
            listed = await call("/charstream.v1.Models/ListModels", pb.ListModelsRequest(), pb.ListModelsResponse)
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            return Member(name, one_line(failure) + hint(failure, settings.model_copy(update={"host": (address,)})))
        try:
            about = await call(
                "/inference.GRPCInferenceService/ServerMetadata",
                oip.ServerMetadataRequest(),
                oip.ServerMetadataResponse,
            )
        except grpc.RpcError:  # from before it had that
            about = oip.ServerMetadataResponse(version="-")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(check.status)
    return Member(name, health=status, charstream=about.version, models=[to_model(model) for model in listed.models])


def find_differences(members: Sequence[Member]) -> list[str]:
    """Return a line for each server that does not serve, and for each fact in which servers differ."""
    found = [f"{member.server}: no answer: {member.error}" for member in members if member.error]
    alive = [member for member in members if not member.error]
    found += [f"{member.server}: {member.health}" for member in alive if member.health != "SERVING"]
    found += _compare("charstream", {member.server: member.charstream for member in alive})
    models = {member.server: {(each.name, each.version): each for each in member.models} for member in alive}
    for name in sorted({name for each in models.values() for name, _ in each}):
        versions = {server: sorted(v for n, v in each if n == name) for server, each in models.items()}
        found += _compare(f"{name}: versions", {server: ", ".join(each) or "none" for server, each in versions.items()})
    for name, version in sorted({key for each in models.values() for key in each}):
        serving = {server: each[name, version] for server, each in models.items() if (name, version) in each}
        for fact in SAME:
            # Of one that is not loaded some are not known.
            values = {server: str(getattr(model, fact)) for server, model in serving.items() if getattr(model, fact)}
            consequence = ": texts do not go on from one to the other" if fact in SAME[:3] else ""
            found += [f"{line}{consequence}" for line in _compare(f"{name} {version}: {fact}", values)]
    return found


def _compare(what: str, values: dict[str, str]) -> list[str]:
    """Return a line for each server whose value is not that of most."""
    if len(set(values.values())) < 2:
        return []
    usual, count = Counter(values.values()).most_common(1)[0]
    others = [server for server, value in values.items() if value == usual]
    where = others[0] if count == 1 else f"{count} others"
    return [
        f"{server}: {what} {_short(value)}, at {where} {_short(usual)}"
        for server, value in values.items()
        if value != usual
    ]


def _short(value: str) -> str:
    """Return the beginning of a digest, and any other value as it is."""
    found = re.fullmatch(r"(?:sha256:)?([0-9a-f]{12})[0-9a-f]{52}", value)
    return found[1] if found else value


def _rows(member: Member) -> list[tuple[str, ...]]:
    if member.error:
        return [(member.server, "no answer")]
    head = (member.server, member.health, member.charstream)
    return [head + _facts(model) for model in member.models] or [head]


def _facts(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.name,
        f"{model.version} (default)" if model.is_server_default else model.version,
        model.state,
        model.precision or "-",
        model.numerics or "-",
        _short(model.digest),
        f"{min(model.texts, model.max_rows)} of {model.max_rows}",
        str(max(0, model.texts - model.max_rows)),
    )


if __name__ == "__main__":
    sys.exit(main())
