"""The RPCs that a server has: their names, and the objects that serve them."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2

from protos import charstream_pb2, inference_pb2
from protos import charstream_pb2_grpc as pb_grpc
from protos import inference_pb2_grpc as oip_grpc

__all__ = ["METHODS", "REPLICAS", "SERVICES", "add_services"]

# What replicas ask each other; see server/oip/replicas.py. It is for nobody else, so nothing describes it.
REPLICAS = "charstream.server.Replicas"

FILES = charstream_pb2.DESCRIPTOR, inference_pb2.DESCRIPTOR
SERVICES = {service.full_name: service for file in FILES for service in file.services_by_name.values()}


def _type_of(method: MethodDescriptor) -> str:
    return "bidi_stream" if method.client_streaming else "server_stream" if method.server_streaming else "unary"


# The type of each RPC, by "package.Service/Method".
METHODS = {
    f"{name}/{method.name}": _type_of(method) for name, service in SERVICES.items() for method in service.methods
}


def add_services(
    server: grpc.aio.Server,
    generation: pb_grpc.TextGenerationServicer,
    models: pb_grpc.ModelsServicer,
    inference: oip_grpc.GRPCInferenceServiceServicer,
    checks: HealthServicer,
) -> None:
    """Make the server serve these, and describe them by reflection."""
    pb_grpc.add_TextGenerationServicer_to_server(generation, server)  # type: ignore[no-untyped-call]
    pb_grpc.add_ModelsServicer_to_server(models, _Unregistered(server))  # type: ignore[no-untyped-call]
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(inference, _Unregistered(server))  # type: ignore[no-untyped-call]
    add_HealthServicer_to_server(checks, server)
    _describe(server, [*SERVICES, health.SERVICE_NAME])


class _Unregistered:
    """Adds the handlers of services whose methods grpc.aio looks up by name, when they are called.

    For each method that is registered it waits anew after every call, whatever that called.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register nothing."""


def _describe(server: grpc.aio.Server, names: list[str]) -> None:
    """Serve reflection as v1alpha, which is all that grpcio-reflection has, and as v1: the same under another name."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    renamed = text_format.Parse(str(alpha).replace("v1alpha", "v1"), descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    for file in (*FILES, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        _add_file(pool, file)
    pool.AddSerializedFile(renamed.SerializeToString())
    v1 = reflection.SERVICE_NAME.replace("v1alpha", "v1")
    servicer = reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME, v1], pool)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, v1):
        handlers = {"ServerReflectionInfo": method}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


def _add_file(pool: descriptor_pool.DescriptorPool, file: Any) -> None:
    """Add a file, after those that it imports: ours lie in two pools, and reflection asks one."""
    for imported in file.dependencies:
        _add_file(pool, imported)
    pool.AddSerializedFile(file.serialized_pb)
