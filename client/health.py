"""Asks a server whether it serves, by grpc.health.v1: exit code 0 if it does, 1 if not. For containers and scripts."""

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from charstream.settings import fail, parse
from client.command import Connection

COMMAND = "python -m client.health"


class HealthSettings(Connection):
    """Exit code 0 if the server says that it serves, 1 otherwise."""

    timeout: float = Field(3.0, gt=0, description="seconds to wait for the answer")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(HealthSettings, argv, command=COMMAND)
    try:
        with grpc.insecure_channel(settings.host) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.timeout)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        fail(COMMAND, f"{settings.host}: {error.code().name}", code=1)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{settings.host}: {name}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
