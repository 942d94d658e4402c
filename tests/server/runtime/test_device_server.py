"""A server that runs the graphs for a device, here on the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from bundle.manifest import Manifest
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.catalog.model_factory import memory_of
from server.settings import ServerSettings
from tests.conftest import ServerProcess, ready, start_server, stop

Start = Callable[..., ServerProcess]
ON_CPU = ("--provider", "cpu", "--max-rows", "8")
REQUESTS = [
    pb.GenerateRequest(prompt="To be, or not to be. " * 4, max_chars=100, seed=1),
    pb.GenerateRequest(max_chars=70, seed=2, n=3, sampling=pb.Sampling(temperature=0.7, top_k=10)),
    pb.GenerateRequest(prompt="x", max_chars=90, seed=3, logprobs=2),
]


def answers(server: ServerProcess) -> list[tuple[str, list[float]]]:
    """Text and log-probabilities, of each request and continuation."""
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)
        found = []
        for request in REQUESTS:
            messages = list(stub.Generate(request))
            for index in range(request.n or 1):
                own = [message for message in messages if message.index == index]
                scores = [score for message in own for score in message.logprobs.chosen]
                found.append(("".join(message.text for message in own), scores))
    return found


def numerics(server: ServerProcess) -> str:
    with grpc.insecure_channel(server.address) as channel:
        return rpc.ModelsStub(channel).GetModel(pb.GetModelRequest(name="tiny")).numerics  # type: ignore[no-any-return]


@pytest.fixture
def start(device_bundles: Path) -> Iterator[Start]:
    """Starts servers, which end with the test."""
    processes = list[ServerProcess]()

    def started(*flags: str) -> ServerProcess:
        processes.append(start_server(device_bundles, *flags))
        return processes[-1]

    yield started
    for process in processes:
        stop(process)


@pytest.fixture(scope="module")
def device(device_bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(device_bundles, *ON_CPU, "--precision", "fp32-cuda")
    yield ready(process)
    stop(process)


def test_a_device_serves_the_texts_of_the_host_and_says_where_it_runs(start: Start, device: ServerProcess) -> None:
    host = start("--precision", "fp32")
    device.wait_for(r"fp32-cuda is for CUDA; the CPU runs it slowly")
    device.wait_for(r"serves tiny 1 \(lstm 2x64, fp32-cuda, onnxruntime [\d.]+, CPUExecutionProvider, the CPU, at most")
    expected = answers(ready(host))
    assert [text for text, _ in expected] == [text for text, _ in answers(device)]
    for (_, scores), (_, other) in zip(expected, answers(device), strict=True):
        assert other == pytest.approx(scores, abs=1e-5)


def test_half_precision_is_served_too(start: Start) -> None:
    server = ready(start(*ON_CPU, "--precision", "fp16-cuda"))
    assert [len(text) for text, _ in answers(server)] == [100, 70, 70, 70, 90]


def test_equal_numerics_are_promised_with_one_bucket_only(start: Start, device: ServerProcess) -> None:
    """With several a text may depend on how many run beside it; so no other server takes it over unasked."""
    one = [device, start(*ON_CPU, "--precision", "fp32-cuda")]
    several = [start(*ON_CPU, "--precision", "fp32-cuda", "--buckets", "2,8") for _ in range(2)]
    several[0].wait_for("tiny: with several --buckets a text may depend on how many run beside it")
    found = [numerics(ready(server)) for server in (*one, *several)]
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert "--buckets" not in one[0].log


def test_nothing_for_a_device_is_taken_unless_asked_for_where_there_is_no_cuda(start: Start) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    server = start()
    server.wait_for("serves tiny 1 .*, fp32, onnxruntime")
    assert "WARNING" not in server.log


def test_what_a_device_takes_grows_with_its_rows_and_buckets(device_files: tuple[Manifest, dict[str, bytes]]) -> None:
    def memory(**settings: object) -> int:
        return memory_of(device_files[0], ServerSettings.model_validate({"precision": "fp32-cuda", **settings}))

    assert memory(max_rows=64) < memory(max_rows=256) < memory(max_rows=256, buckets="64,256")
    assert memory(max_rows=64) == memory(max_rows=64, max_batch=1, prefix_cache=0)
    cuda = ServerSettings(provider="cuda")
    assert memory_of(device_files[0], cuda) == memory_of(device_files[0], cuda, "fp16-cuda")
