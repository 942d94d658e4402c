"""What a server says where CUDA's libraries are missing, and what it does without them."""

import logging
import weakref
from pathlib import Path

import pytest

from bundle.manifest import Manifest
from bundle.read import Bundle
from server.engine.engine import Engine
from server.engine.messages import Shutdown
from server.runtime import cuda, device_runner
from server.runtime import load as loading
from server.runtime.device_runner import DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import RuntimeMissing
from server.runtime.load import device_graphs, load
from server.settings import ServerSettings

Files = tuple[Manifest, dict[str, bytes]]
MISSING = "libcublasLt.so.13: cannot open shared object file: No such file or directory"


@pytest.fixture
def without_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime-gpu beside a CUDA that lacks a library."""
    monkeypatch.setattr(loading, "has_cuda", lambda: True)
    monkeypatch.setattr(device_runner, "has_cuda", lambda: True)
    monkeypatch.setattr(device_runner, "missing_library", lambda: MISSING)


@pytest.mark.usefixtures("without_cublas")
def test_a_missing_library_is_named(device_files: Files) -> None:
    bundle = Bundle(Path(), device_files[0], "", device_files[1])
    with pytest.raises(RuntimeMissing, match=r"provider cuda: libcublasLt\.so\.13: cannot open .*'charstream\[gpu\]'"):
        load(bundle, ServerSettings(provider="cuda", max_rows=4))


@pytest.mark.usefixtures("without_cublas")
def test_auto_warns_with_the_same_words_and_serves_the_cpu(
    device_files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle(Path(), device_files[0], "", device_files[1])
    with caplog.at_level(logging.WARNING):
        loaded = load(bundle, ServerSettings(max_rows=4, threads=1))
    assert (loaded.precision, loaded.provider) == ("fp32", "CPUExecutionProvider")
    assert f"provider cuda: {MISSING}" in caplog.text


def test_an_onnxruntime_that_is_too_old_for_captures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_runner, "has_cuda", lambda: True)
    monkeypatch.setattr(device_runner, "missing_library", lambda: None)
    monkeypatch.setattr(device_runner, "runtime_version", lambda: "1.30.2")
    with pytest.raises(
        RuntimeMissing, match=r"onnxruntime-gpu 1\.30\.2, expected at least 1\.31: pip install --upgrade"
    ):
        device_runner.require_cuda()
    monkeypatch.setattr(device_runner, "runtime_version", lambda: "1.31.0")
    device_runner.require_cuda()


def test_the_system_names_what_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "CUDNN", "libcudnn_is_not_there.so.9")
    assert "libcudnn_is_not_there.so.9: cannot open" in (cuda.why_unloadable(tmp_path) or "")
    monkeypatch.setattr(cuda, "CUDNN", "libc.so.6")
    assert "libonnxruntime_providers_shared.so: cannot open" in (cuda.why_unloadable(tmp_path) or "")


def test_what_an_ended_engine_held_on_a_device_is_free_though_the_engine_is_there(device_files: Files) -> None:
    """In the engine's own thread: elsewhere it could break another model's captures, or come after CUDA's end."""
    manifest, files = device_files
    runner = DeviceRunner(device_graphs(files, "fp32-cuda"), threads=1, provider="cpu", tf32=False)
    held = weakref.ref(runner)
    store = DeviceStore(runner, manifest, (2,))
    del runner
    settings = {"chunk_delay": 0.02, "prefix_bytes": 0, "max_wait": 10.0}
    engine = Engine(store, manifest, deliver=lambda outputs: None, failed=lambda error: None, **settings)
    engine.start_warm()
    assert held()
    engine.submit(Shutdown())
    engine.join(30)
    assert not held()
