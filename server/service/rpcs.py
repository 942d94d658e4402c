"""The RPCs that a server has: their names, and the objects that serve them."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2

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
    _describe(server, [*SERVICES, health.SERVICE_NAME])


def _describe(server: grpc.aio.Server, names: list[str]) -> None:
    """Serve reflection as v1alpha, which is all that grpcio-reflection has, and as v1: the same under another name."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    renamed = text_format.Parse(str(alpha).replace("v1alpha", "v1"), descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(renamed.SerializeToString())
    v1 = reflection.SERVICE_NAME.replace("v1alpha", "v1")
    servicer = reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME, v1])
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, v1):
        handlers = {"ServerReflectionInfo": method}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
