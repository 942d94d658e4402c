"""Our stubs beside tritonclient's: both define the package `inference`."""

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from protos import inference_pb2 as oip

OURS_ONLY = {"Unused"}


def theirs(name: str) -> Any:
    known = service_pb2.DESCRIPTOR.message_types_by_name
    return known[name] if name in known else model_config_pb2.DESCRIPTOR.message_types_by_name[name]


def facts(field: Any) -> tuple[int, int, bool]:
    return field.number, field.type, field.is_repeated


def compare(ours: Any, published: Any) -> None:
    for field in ours.fields:
        assert facts(field) == facts(published.fields_by_name[field.name]), field.full_name
    for nested in ours.nested_types:
        compare(nested, published.nested_types_by_name[nested.name])
    for enum in ours.enum_types:
        check_values(enum, published.enum_types_by_name[enum.name])


def check_values(ours: Any, published: Any) -> None:
    assert {value.name: value.number for value in ours.values}.items() <= {
        value.name: value.number for value in published.values
    }.items()


def test_both_live_in_one_process_and_agree_on_names_and_numbers() -> None:
    for name, message in oip.DESCRIPTOR.message_types_by_name.items():
        if name not in OURS_ONLY:
            compare(message, theirs(name))
    types = "DataType"
    check_values(oip.DESCRIPTOR.enum_types_by_name[types], model_config_pb2.DESCRIPTOR.enum_types_by_name[types])
    assert oip.DESCRIPTOR.pool is not service_pb2.DESCRIPTOR.pool


def test_each_rpc_of_theirs_is_there() -> None:
    ours, published = (
        {(method.name, method.client_streaming, method.server_streaming) for method in service.methods}
        for service in (
            oip.DESCRIPTOR.services_by_name["GRPCInferenceService"],
            service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        )
    )
    assert ours == published
