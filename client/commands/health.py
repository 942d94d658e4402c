"""Ask servers by grpc.health.v1 whether they serve: exit code 0 if all do, 1 if not. For containers and scripts."""

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from charstream.settings import fail, parse
from client.channels import open_channel
from client.commands.common import Address, Hosts, addresses, hint, one_line_errors
from client.errors import from_rpc_error

COMMAND = "python -m client.commands.health"
ENVIRONMENT = "CHARSTREAM_HEALTH_"  # a container also has the server's variables, which mean other things


class HealthSettings(Hosts):
    """Exit code 0 if the server says that it serves, 1 otherwise; of several, if all say so."""

    host: tuple[Address, ...] = Field(
        default_factory=lambda: addresses()[:1],
        description="the server's host:port, or host for port 50051; given several times, all are asked. The first one "
        "of the variable CHARSTREAM_ADDRESS changes the default",
    )
    timeout: float = Field(3.0, gt=0, description="seconds to wait for each answer")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(HealthSettings, argv, command=COMMAND, environment=ENVIRONMENT)
    answers = [_ask(settings, address) for address in settings.host]
    for address, status in zip(settings.host, answers, strict=True):
        print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")
    return 0 if set(answers) == {health_pb2.HealthCheckResponse.SERVING} else 1


def _ask(settings: HealthSettings, address: str) -> int:
    """Return what the server says; end the process with code 1 if it says nothing."""
    with one_line_errors(COMMAND, settings):
        channel = open_channel(grpc, address, settings.credentials(), tls_name=settings.tls_name)
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.timeout)  # type: ignore[attr-defined]
            return int(answer.status)
        except grpc.RpcError as error:
            reason = hint(from_rpc_error(error), settings.model_copy(update={"host": (address,)}))
            fail(COMMAND, f"{address}: {error.code().name}{reason}", code=1)


if __name__ == "__main__":
    sys.exit(main())
