"""Ask a server by grpc.health.v1 whether it serves: exit code 0 if it does, 1 if not. For containers and scripts."""

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from charstream.settings import fail, parse
from client.commands.common import Tls, addresses, one_line_errors

COMMAND = "python -m client.commands.health"
ENVIRONMENT = "CHARSTREAM_HEALTH_"  # a container also has the server's variables, which mean other things


class HealthSettings(Tls):
    """Exit code 0 if the server says that it serves, 1 otherwise."""

    host: str = Field(
        default_factory=lambda: addresses()[0],
        min_length=1,
        description="the server's host:port; the first one of the variable CHARSTREAM_ADDRESS changes the default",
    )
    tls_name: str = Field(
        "", description="the name that the server's certificate has to have, where it is not the one in --host"
    )
    timeout: float = Field(3.0, gt=0, description="seconds to wait for the answer")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(HealthSettings, argv, command=COMMAND, environment=ENVIRONMENT)
    try:
        with one_line_errors(COMMAND), _channel(settings) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.timeout)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        fail(COMMAND, f"{settings.host}: {error.code().name}", code=1)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{settings.host}: {name}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(settings: HealthSettings) -> grpc.Channel:
    credentials = settings.credentials()
    if credentials is None:
        return grpc.insecure_channel(settings.host)
    options = (("grpc.ssl_target_name_override", settings.tls_name),) if settings.tls_name else ()
    return grpc.secure_channel(settings.host, credentials, options)


if __name__ == "__main__":
    sys.exit(main())
