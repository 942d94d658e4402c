"""The same as on the CPU, on a GPU; and what only a GPU can show."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bundle.manifest import Manifest, Precision
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from server.engine.messages import Request, RowState, Sampling
from server.engine.plan import Area
from server.engine.rows import Rows
from server.runtime.device_runner import DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import has_cuda
from server.runtime.load import device_graphs
from tests.conftest import ready, start_server, stop
from tests.server.engine_driver import EngineDriver, WatchedRunner, generation
from tests.server.reference import assert_is_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda(), reason="this onnxruntime has no CUDA")]

Files = tuple[Manifest, dict[str, bytes]]
PROMPTS = ("", "To be", "To be, or not to be. " * 15)


@pytest.fixture(scope="module", params=["fp32-cuda", "fp16-cuda"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param  # type: ignore[no-any-return]


def texts(runner: WatchedRunner, manifest: Manifest, *, alone: bool) -> list[str]:
    """Of a dozen requests; all at once with readers that pause and texts that leave, or one after the other."""
    found = []
    with EngineDriver(runner, manifest, warm=True) as driver:
        for number, prompt in enumerate(PROMPTS * 4):
            sampling = Sampling(1.0, top_k=5 if number % 4 == 0 else 0)
            wanted = generation(manifest, prompt, 150, seed=number, sampling=sampling, checkpoint_chars=64)
            window = 4096 if alone else (16, 4096)[number % 2]
            found.append(driver.ask(wanted, window=window, at=0 if alone else number, pause=number % 3))
            if alone:
                driver.finish()
        driver.finish()
    return [str(text) for text in found]


def test_a_text_alone_is_the_one_among_others(device_files: Files, precision: Precision) -> None:
    """With one bucket, whatever else joins, leaves, pauses and moves."""
    runner = WatchedRunner(*device_files, precision, provider="cuda")
    assert texts(runner, device_files[0], alone=False) == texts(runner, device_files[0], alone=True)


def test_float32_texts_are_those_of_torch(tiny: Trained, device_files: Files) -> None:
    runner = WatchedRunner(*device_files, "fp32-cuda", provider="cuda")
    with EngineDriver(runner, device_files[0], warm=True) as driver:
        asked = [driver.ask(generation(device_files[0], prompt, 150, seed=n)) for n, prompt in enumerate(PROMPTS)]
        driver.finish()
    for seed, (prompt, text) in enumerate(zip(PROMPTS, asked, strict=True)):
        assert_is_reference(tiny, pb.GenerateRequest(prompt=prompt, max_chars=150, seed=seed), str(text))


def test_captured_runs_have_the_bits_of_plain_ones(device_files: Files, precision: Precision) -> None:
    """The probe's runs are plain, those of texts are captured."""
    manifest, files = device_files
    vocab, shape = len(manifest.symbols), manifest.model
    runner = DeviceRunner(device_graphs(files, precision), threads=1, provider="cuda", tf32=False)
    made = []
    for captured in (False, True):
        store = DeviceStore(runner, manifest, (16,))
        states = store.states[Area.DECODE]
        if captured:
            states.warm_up(lambda *what: None)
        rows, rng = Rows(states, vocab, 16), np.random.default_rng(0)
        for slot in range(16):
            state = tuple(rng.uniform(-1, 1, shape.hidden).astype(np.float32) for _ in shape.state_names)
            rows.put(slot, RowState(slot, state, 0), Request(np.zeros(0, np.int64), 0, 1, Sampling(), slot))
        for steps, full in product(store.limits.steps, (False, True)):
            outcomes = rows.run(rows.run_input(0, np.full((steps, 16), -1)), full=full)
            made.append(outcomes.tokens.tobytes() + (outcomes.logprobs.tobytes() if full else b""))
        made.extend(array.tobytes() for slot in range(16) for array in rows.take(slot).state)
    assert made[: len(made) // 2] == made[len(made) // 2 :]


def test_a_server_takes_cuda_by_itself_and_says_so(device_bundles: Path) -> None:
    server = start_server(device_bundles, "--max-rows", "64")
    try:
        ready(server)
        server.wait_for(r"serves tiny 1 .*fp(16|32)-cuda, onnxruntime [\d.]+, CUDAExecutionProvider, cuda:0, at most")
    finally:
        stop(server)
