"""What Prometheus and the probes read from a running server, over HTTP."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.observe.engine_metrics import ModelInfo
from server.observe.metrics import Metrics
from tests.conftest import ServerProcess, ready, start_server, stop

METRICS = ("--metrics-port", "0")

HANGS_WITH_THE_FIRST_CALL = """
import sys, time
from server.__main__ import main
from server.service.generation import TextGenerationService

TextGenerationService.Generate = lambda *_: time.sleep(60)
sys.exit(main(sys.argv[1:]))
"""

LOADS_FOR_EVER = """
import sys, time
from server.catalog import model_factory
from server.__main__ import main

model_factory.load = lambda *_: time.sleep(60)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def watched(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--precision", "fp32", "--max-rows", "1", "--max-waiting", "1", *METRICS)
    yield ready(process)
    stop(process)


def address_of(process: ServerProcess) -> tuple[str, int]:
    found = process.wait_for(r"metrics on (\S+):(\d+)")
    return found[1], int(found[2])


def get(process: ServerProcess, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body."""
    with closing(HTTPConnection(*address_of(process), timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def samples(process: ServerProcess) -> dict[str, float]:
    """Values by NAME{LABEL="VALUE",...}, labels in alphabetical order."""
    text = get(process, "/metrics")[2].decode()
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {shown(sample.name, sample.labels): sample.value for sample in found}


def shown(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


def eventually(process: ServerProcess, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The samples as soon as they are as they should be."""
    end = time.monotonic() + 20
    while not holds(found := samples(process)):
        assert time.monotonic() < end, "\n".join(f"{name} {value}" for name, value in found.items())
        time.sleep(0.05)
    return found


def generate(process: ServerProcess, **fields: object) -> list[pb.GenerateResponse]:
    with grpc.insecure_channel(process.address) as channel:
        return list(pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(**fields)))  # type: ignore[arg-type]


GENERATE = 'grpc_method="Generate",grpc_service="charstream.v1.TextGeneration",grpc_type="server_stream"'


def handled(code: str) -> str:
    return f'grpc_server_handled_total{{grpc_code="{code}",{GENERATE}}}'


def test_a_call_is_counted_with_its_characters_and_its_times(watched: ServerProcess) -> None:
    before = samples(watched)
    messages = generate(watched, prompt="abcdef", max_chars=300, seed=1, return_token=True)
    after = eventually(watched, lambda found: found[handled("OK")] > before[handled("OK")])

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown(f"grpc_server_started_total{{{GENERATE}}}") == 1
    assert grown(f"grpc_server_handling_seconds_count{{{GENERATE}}}") == 1
    assert grown('charstream_chars_total{kind="generated",model="tiny"}') == 300
    assert grown('charstream_chars_total{kind="forced",model="tiny"}') == 6
    assert grown('charstream_chunk_chars_sum{model="tiny"}') == 300
    assert grown('charstream_chunk_chars_count{model="tiny"}') == len(messages)
    assert grown('charstream_time_to_first_char_seconds_count{model="tiny"}') == 1
    assert grown('charstream_inter_chunk_seconds_count{model="tiny"}') == len(messages) - 1
    assert grown('charstream_queue_seconds_count{model="tiny"}') == 1
    assert grown('charstream_finished_total{model="tiny",reason="length"}') == 1
    assert grown('charstream_step_seconds_count{model="tiny"}') == grown('charstream_batch_rows_sum{model="tiny"}') > 0
    assert after['charstream_rows{model="tiny"}'] == 0

    generate(watched, resume_token=messages[-1].finish.resume_token, max_chars=10)
    generate(watched, max_chars=300, seed=1, stop_on_repeat={"max_period": 1, "times": 2})
    eventually(watched, lambda found: found.get('charstream_finished_total{model="tiny",reason="repeat"}') == 1)

    resumed = 'charstream_resumed_total{model="tiny"}'
    eventually(watched, lambda found: found[resumed] == before.get(resumed, 0.0) + 1)


def test_calls_that_were_asked_for_before_are_counted_by_the_reason(watched: ServerProcess) -> None:
    """What a client makes up is no kind, and no line of the log."""
    with grpc.insecure_channel(watched.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        for attempt, tries, request in (("replay", "3", "11-22"), ("hedge", "1", ""), ("made up", "-1", "{a b}")):
            metadata = [("charstream-attempt", attempt), ("x-envoy-attempt-count", tries), ("x-request-id", request)]
            call = stub.Generate(pb.GenerateRequest(max_chars=3), metadata=metadata)
            list(call)
            line = watched.wait_for(f" id={dict(call.trailing_metadata())['charstream-call']} .*").group()
            assert ("request=11-22 attempt=replay" in line) == (attempt == "replay")
    assert "{a b}" not in watched.log
    assert "made up" not in watched.log
    name = "charstream_attempts_total"
    found = eventually(watched, lambda found: found.get(f'{name}{{kind="hedge",model="tiny"}}') == 1)
    counts = {sample: value for sample, value in found.items() if sample.startswith(name) and value}
    assert counts == {f'{name}{{kind="{kind}",model="tiny"}}': 1 for kind in ("replay", "proxy", "hedge")}


def test_what_runs_waits_and_is_refused_shows(watched: ServerProcess) -> None:
    """One row, one place in the queue; the third text is refused, and the setting that did it is named."""
    refused = 'charstream_refused_total{limit="max_waiting"}'
    before = samples(watched).get(refused, 0.0)
    with grpc.insecure_channel(watched.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        calls = [stub.Generate(pb.GenerateRequest(max_chars=1_000_000, seed=seed)) for seed in range(2)]
        eventually(watched, lambda found: waits_and_runs(found) == (1, 1))
        with pytest.raises(grpc.RpcError):
            generate(watched, max_chars=1)
        eventually(watched, lambda found: found.get(refused) == before + 1)
        for call in calls:
            call.cancel()
    eventually(watched, lambda found: waits_and_runs(found) == (0, 0))


def waits_and_runs(found: dict[str, float]) -> tuple[float, float]:
    return found['charstream_waiting{model="tiny"}'], (
        found['charstream_rows{model="tiny"}'] + found['charstream_paused_rows{model="tiny"}']
    )


def test_what_serves_is_named(watched: ServerProcess) -> None:
    with grpc.insecure_channel(watched.address) as channel:
        (model,) = pb_grpc.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models
    names = ("digest", "name", "numerics", "precision", "provider", "version")
    found = samples(watched)
    assert found[shown("charstream_model_info", {name: getattr(model, name) for name in names})] == 1
    assert found["charstream_ready"] == 1
    assert found["charstream_draining"] == 0
    assert found["charstream_log_lines_lost_total"] == 0
    assert any(name.startswith("charstream_build_info{") for name in found)
    assert found["process_resident_memory_bytes"] > 1e7
    assert found["process_open_fds"] > 3


def test_the_memory_of_engines_is_all_there_while_a_bundle_replaces_another_one_of_its_version() -> None:
    metrics = Metrics(lambda: 0, {}, 1)
    pools = [metrics.engines(ModelInfo("tiny", "1", digest, "fp32", "CPU", "")) for digest in ("old", "new")]
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        old, new = pools[0].engine(0, os.getpid()), pools[1].engine(0, sleeping.pid)
        labels = {"model": "tiny", "version": "1", "engine": "0"}
        for engine in (old, new):
            engine.on_start()
        both = metrics.registry.get_sample_value("charstream_engine_memory_bytes", labels)
        assert both
        old.on_end()
        one = metrics.registry.get_sample_value("charstream_engine_memory_bytes", labels)
        assert one
        assert one < 0.5 * both  # this process has far more than the other one
        new.on_end()
        assert metrics.registry.get_sample_value("charstream_engine_memory_bytes", labels) is None
        sleeping.kill()


def test_names_that_clients_make_up_are_no_labels(watched: ServerProcess) -> None:
    with grpc.insecure_channel(watched.address) as channel:
        for method in ("/charstream.v1.TextGeneration/MadeUp", "/made.up.Service/Generate"):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(b"", metadata=[("authorization", "Bearer made-up")])
    with pytest.raises(grpc.RpcError):
        generate(watched, model="made-up")
    text = get(watched, "/metrics")[2].decode()
    assert not re.search(r"made.?up", text, re.IGNORECASE)


def test_formats(watched: ServerProcess) -> None:
    plain = get(watched, "/metrics")
    assert plain[1]["Content-Type"].startswith("text/plain; version=0.0.4")
    other = get(watched, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert other[1]["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert other[2].endswith(b"# EOF\n")
    packed = get(watched, "/metrics", **{"Accept-Encoding": "gzip"})
    assert packed[1]["Content-Encoding"] == "gzip"
    assert packed[2].startswith(b"\x1f\x8b")
    head = get(watched, "/metrics", "HEAD")
    assert (head[0], head[2]) == (200, b"")
    assert int(head[1]["Content-Length"]) > 1000


NOTHING = [("GET", "/", 404), ("GET", "/metricsx", 404), ("POST", "/metrics", 501)]


@pytest.mark.parametrize(("method", "path", "status"), NOTHING)
def test_there_is_nothing_else(watched: ServerProcess, method: str, path: str, status: int) -> None:
    assert get(watched, path, method)[0] == status


def test_silent_and_slow_connections_hold_no_threads(watched: ServerProcess) -> None:
    """50 of them: some are closed at once, the others after some seconds; then the port answers again."""
    threads = Path(f"/proc/{watched.process.pid}/task")
    before = len(list(threads.iterdir()))
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address_of(watched), 20)) for _ in range(50)]
        for connection in silent[::2]:
            connection.send(b"GET /metrics HTTP/1.1\r\n")
        assert silent[-1].recv(1000) == b""
        assert not select.select(silent[:1], [], [], 0)[0], "the first one has some seconds"
        assert len(list(threads.iterdir())) <= before + 16
        assert {connection.recv(1000) for connection in silent} == {b""}
        assert get(watched, "/readyz")[0] == 200
    end = time.monotonic() + 20
    while len(list(threads.iterdir())) > before:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_probes_of_a_server_that_drains(bundles: Path) -> None:
    process = ready(start_server(bundles, *METRICS))
    try:
        assert get(process, "/healthz")[::2] == (200, b"ok\n")
        assert get(process, "/readyz")[::2] == (200, b"ready\n")
        with grpc.insecure_channel(process.address) as channel:
            call = pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(max_chars=1_000_000))
            next(call)
            process.signal(signal.SIGTERM)
            process.wait_for("drains")
            assert get(process, "/readyz")[::2] == (503, b"draining\n")
            assert get(process, "/healthz")[0] == 200
            assert samples(process)["charstream_draining"] == 1
            call.cancel()
        assert process.wait() == 0
    finally:
        stop(process)


def test_probes_of_a_server_whose_event_loop_hangs(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS_WITH_THE_FIRST_CALL)
    process = ready(start_server(bundles, *METRICS, command=(sys.executable, str(tmp_path / "hangs.py"))))
    try:
        assert get(process, "/healthz")[0] == 200
        with grpc.insecure_channel(process.address) as channel:
            call = pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest())
            end = time.monotonic() + 20
            while get(process, "/healthz")[::2] != (503, b"the event loop does not answer\n"):
                assert time.monotonic() < end
            call.cancel()
        assert b"charstream_ready" in get(process, "/metrics")[2]
    finally:
        stop(process)


def test_probes_of_a_server_that_loads(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "loads.py").write_text(LOADS_FOR_EVER)
    process = start_server(bundles, *METRICS, command=(sys.executable, str(tmp_path / "loads.py")))
    try:
        assert get(process, "/readyz")[::2] == (503, b"loading\n")
        assert get(process, "/healthz")[0] == 200
        assert samples(process)["charstream_ready"] == 0
    finally:
        stop(process)


def test_a_port_in_use_is_one_line(watched: ServerProcess, bundles: Path) -> None:
    host, port = address_of(watched)
    process = start_server(bundles, "--metrics-port", str(port))
    try:
        assert process.wait() == 1
        process.wait_for(f"charstream serve: --metrics-port: cannot listen on {host}:{port}: Address already in use\n")
        assert "Traceback" not in process.log
    finally:
        stop(process)
