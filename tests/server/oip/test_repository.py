"""What clients of the protocol learn of the server and its models, and what `--admin` lets them do."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from bundle.manifest import Manifest
from tests.conftest import ASCII, ServerProcess, ready, start_server, stop
from tests.server.oip.triton import inputs, result_text

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def admin_server(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--precision", "fp32", "--admin", "--sequence-memory", "1")
    yield ready(process)
    stop(process)


@pytest.fixture
def admin(admin_server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(admin_server.address) as client:
        yield client


def step(client: triton.InferenceServerClient) -> Any:
    token = triton.InferInput("token", [2], "INT64")
    token.set_data_from_numpy(np.zeros(2, np.int64))
    return client.infer("tiny.step", [token])


def test_the_server_and_its_models_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "charstream"
    assert [client.is_model_ready(name) for name in ("tiny", "tiny.step", "huge")] == [True, True, False]
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")


def test_the_metadata_of_a_text_model_is_what_it_takes(client: triton.InferenceServerClient) -> None:
    found = client.get_model_metadata("tiny")
    assert (found.name, list(found.versions), found.platform) == ("tiny", ["1"], "charstream")
    shown = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in found.inputs}
    assert shown["text_input"] == ("BYTES", [1])
    assert shown["streaming"] == ("BOOL", [1])
    assert shown["stop"] == ("BYTES", [-1])
    answered = client.infer("tiny", inputs("a", logprobs=2, return_token=True, max_chars=3)).get_response().outputs
    outputs = {tensor.name: tensor.datatype for tensor in found.outputs}
    assert {output.name: output.datatype for output in answered}.items() <= outputs.items()
    config = client.get_model_config("tiny").config
    assert config.model_transaction_policy.decoupled
    assert [one.name for one in config.input if not one.optional] == ["text_input"]
    assert config.parameters["vocabulary"].string_value == ASCII


def test_the_configuration_of_a_step_model_says_how_sequences_are_held(
    admin: triton.InferenceServerClient, tiny_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    found = admin.get_model_metadata("tiny.step", "1")
    assert {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in found.inputs} == {
        "token": ("INT64", [-1]),
        **{name: ("FP32", [-1, 64]) for name in ("h0", "c0", "h1", "c1")},
    }
    answered = step(admin).get_response().outputs
    assert {one.name: (one.datatype, one.shape[1]) for one in answered} == {
        one.name: (one.datatype, one.shape[1]) for one in found.outputs
    }
    config = admin.get_model_config("tiny.step").config
    assert config.sequence_batching.max_sequence_idle_microseconds == 600_000_000
    assert config.sequence_batching.oldest.max_candidate_sequences == 1_000_000 // (4 * 64 * 4)
    assert not config.model_transaction_policy.decoupled
    assert config.parameters["start_token"].string_value == str(ASCII.index("\n"))
    assert config.parameters["digest"].string_value


def test_statistics_count_what_was_done(admin: triton.InferenceServerClient) -> None:
    def counts(name: str) -> Any:
        (found,) = admin.get_inference_statistics(name).model_stats
        return found

    before, steps_before = counts("tiny"), counts("tiny.step")
    admin.infer("tiny", inputs("Hello", max_chars=50))
    with pytest.raises(InferenceServerException):
        admin.infer("tiny", inputs("Hello", max_chars=90_000), client_timeout=0.01)
    step(admin)
    text, steps = counts("tiny"), counts("tiny.step")
    assert text.inference_count == before.inference_count + 1
    assert text.inference_stats.success.count == text.inference_stats.queue.count == text.inference_count
    assert text.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert text.execution_count > before.execution_count
    assert sum(batch.compute_infer.count for batch in text.batch_stats) == text.execution_count
    assert abs(text.last_inference / 1000 - time.time()) < WAIT_SECONDS
    assert text.memory_usage[0].byte_size > 0
    assert steps.inference_count == steps_before.inference_count + 1
    assert [batch.batch_size for batch in steps.batch_stats] == [2]
    assert {one.name for one in admin.get_inference_statistics().model_stats} == {"tiny", "tiny.step"}


def test_a_model_is_unloaded_and_loaded_again(admin: triton.InferenceServerClient, admin_server: ServerProcess) -> None:
    def index() -> set[tuple[str, str, str]]:
        return {(one.name, one.state, one.reason) for one in admin.get_model_repository_index().models}

    assert index() == {("tiny", "READY", ""), ("tiny.step", "READY", "")}
    text = result_text(admin.infer("tiny", inputs("a", seed=1)))
    admin.unload_model("tiny")
    admin_server.wait_for("unloaded tiny 1")
    assert index() == {("tiny", "UNAVAILABLE", "unloaded"), ("tiny.step", "UNAVAILABLE", "unloaded")}
    assert not admin.is_model_ready("tiny")
    with pytest.raises(InferenceServerException, match="tiny 1 cannot be loaded: it was unloaded") as caught:
        admin.infer("tiny", inputs("a"))
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"
    admin.load_model("tiny")
    assert index() == {("tiny", "READY", ""), ("tiny.step", "READY", "")}
    assert result_text(admin.infer("tiny", inputs("a", seed=1))) == text
    for call in (admin.load_model, admin.unload_model):
        with pytest.raises(InferenceServerException, match="'huge' is not served"):
            call("huge")
    with pytest.raises(InferenceServerException, match="config: a bundle has all"):
        admin.load_model("tiny", config="{}")


def test_without_admin_nobody_loads_or_unloads(client: triton.InferenceServerClient) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="the server was started without --admin") as caught:
            call("tiny")
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


def test_what_is_not_offered_says_so_by_its_name(client: triton.InferenceServerClient) -> None:
    calls = {
        "SystemSharedMemoryStatus": client.get_system_shared_memory_status,
        "SystemSharedMemoryRegister": lambda: client.register_system_shared_memory("a", "b", 1),
        "SystemSharedMemoryUnregister": client.unregister_system_shared_memory,
        "CudaSharedMemoryStatus": client.get_cuda_shared_memory_status,
        "CudaSharedMemoryRegister": lambda: client.register_cuda_shared_memory("a", b"", 0, 1),
        "CudaSharedMemoryUnregister": client.unregister_cuda_shared_memory,
        "TraceSetting": client.get_trace_settings,
        "LogSettings": client.get_log_settings,
    }
    for name, call in calls.items():
        with pytest.raises(InferenceServerException, match=f"{name}: ") as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
