"""The RPCs that a server has: their names, and the objects that serve them."""

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from protos import charstream_pb2
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["METHODS", "SERVICES", "add_services"]

SERVICES = {service.full_name: service for service in charstream_pb2.DESCRIPTOR.services_by_name.values()}
# The type of each RPC, by "package.Service/Method".
METHODS = {
    f"{name}/{method.name}": "server_stream" if method.server_streaming else "unary"
    for name, service in SERVICES.items()
    for method in service.methods
}


def add_services(
    server: grpc.aio.Server,
    generation: pb_grpc.TextGenerationServicer,
    models: pb_grpc.ModelsServicer,
    checks: HealthServicer,
) -> None:
    """Make the server serve these, and describe them by reflection."""
    pb_grpc.add_TextGenerationServicer_to_server(generation, server)  # type: ignore[no-untyped-call]
    pb_grpc.add_ModelsServicer_to_server(models, server)  # type: ignore[no-untyped-call]
    add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
