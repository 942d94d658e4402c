"""Spans of a server's calls, as a collector gets them."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess, ready, start_server, stop

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

WITHOUT_THE_EXTRA = """
import sys

sys.modules["opentelemetry"] = None
from server.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


class Collector(TraceServiceServicer):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.requests: SimpleQueue[ExportTraceServiceRequest] = SimpleQueue()

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.requests.put(request)
        return ExportTraceServiceResponse()

    def span(self) -> Span:
        """The next one, which comes alone."""
        (resource,) = self.requests.get(timeout=30).resource_spans
        assert values(resource.resource.attributes)["service.name"] == "charstream"
        ((span,),) = [scope.spans for scope in resource.scope_spans]
        return span


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """With its URL."""
    kept, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def traced(bundles: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server that sends its spans twenty times a second."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    process = start_server(bundles, "--precision", "fp32", "--traces", url)
    try:
        yield ready(process)
    finally:
        stop(process)


def generate(address: str, metadata: list[tuple[str, str]], **fields: Any) -> list[pb.GenerateResponse]:
    with grpc.insecure_channel(address) as channel:
        return list(pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(**fields), metadata=metadata))


def test_a_call_is_a_span_under_its_callers(
    bundles: Path, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, url = collector
    with traced(bundles, url, monkeypatch) as process:
        parent = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        messages = generate(process.address, parent, prompt="abc", max_chars=100)
        span = kept.span()
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert (span.name, span.kind) == ("charstream.v1.TextGeneration/Generate", Span.SPAN_KIND_SERVER)
        attributes = values(span.attributes)
        assert attributes["rpc.system.name"] == "grpc"
        assert attributes["rpc.method"] == "charstream.v1.TextGeneration/Generate"
        assert attributes["rpc.response.status_code"] == "OK"
        assert attributes["charstream.model"] == "tiny 1"
        events = {event.name: event for event in span.events}
        finish = values(events["charstream.finish"].attributes)
        assert finish["charstream.reason"] == "length"
        assert finish["charstream.generated_chars"] == 100
        assert finish["charstream.forced_chars"] == 3
        chars = [
            values(event.attributes)["charstream.chars"] for event in span.events if event.name.endswith("message")
        ]
        assert chars == [len(message.text) for message in messages]
        names = ("charstream.queue_end", "charstream.first_char", "charstream.finish")
        times = [span.start_time_unix_nano, *(events[name].time_unix_nano for name in names), span.end_time_unix_nano]
        assert times == sorted(times)

        with pytest.raises(grpc.RpcError):
            generate(process.address, [("traceparent", "nonsense")], model="another")
        span = kept.span()
        assert not span.parent_span_id
        assert values(span.attributes)["rpc.response.status_code"] == "NOT_FOUND"
        assert span.status.code == Status.STATUS_CODE_UNSET  # the caller's fault


def test_a_server_that_ends_sends_its_last_spans(bundles: Path, collector: tuple[Collector, str]) -> None:
    kept, url = collector
    process = ready(start_server(bundles, "--traces", url))
    try:
        generate(process.address, [], max_chars=5)
        process.process.terminate()
        assert process.wait() == 0
        assert kept.span().name.endswith("Generate")
    finally:
        stop(process)


def test_a_collector_that_is_away_disturbs_nobody(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says anything
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with traced(bundles, url, monkeypatch) as process:
            for _ in range(20):
                assert len("".join(message.text for message in generate(process.address, [], max_chars=50))) == 50
            process.process.terminate()
            assert process.wait() == 0
            assert "Traceback" not in process.log


def test_without_the_extra_it_says_so(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT_THE_EXTRA)
    command = (sys.executable, str(tmp_path / "without.py"))
    process = start_server(bundles, "--traces", "http://127.0.0.1:4317", command=command)
    try:
        assert process.wait() == 1
        process.wait_for(r"charstream serve: --traces: .*the packages of charstream\[traces\] are not installed\n")
        assert "Traceback" not in process.log
    finally:
        stop(process)


def test_serving_without_traces_imports_nothing_of_it(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT_THE_EXTRA)
    process = start_server(bundles, command=(sys.executable, str(tmp_path / "without.py")))
    try:
        ready(process)
    finally:
        stop(process)
