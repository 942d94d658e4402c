"""Rows on a device join, move, leave and run as those in the host's memory do, bit for bit if kernels are the same."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Manifest
from server.engine.messages import Request, RowState, Sampling
from server.engine.plan import Area
from server.engine.rows import Rows
from server.engine.state_store import LOGPROBS, Store
from server.runtime.device_runner import DeviceRunner, check_placement
from server.runtime.device_states import DeviceStore, full_steps
from server.runtime.host_runner import CannotRun, Runner
from server.runtime.host_states import HostStore
from server.runtime.load import device_graphs

Files = tuple[Manifest, dict[str, bytes]]
SAMPLINGS = (Sampling(), Sampling(0.0), Sampling(1.5, top_k=5), Sampling(0.7, top_p=0.9, min_p=0.01, bias=((3, 2.0),)))


class Both:
    """The same rows in two stores; what they make and hold is compared.

    Attributes:
        rows: that are there, in the slots 0, 1, 2, ...
    """

    def __init__(self, manifest: Manifest, stores: Sequence[Store], rng: random.Random) -> None:
        self._vocab, self._shape = len(manifest.symbols), manifest.model
        self.runs = stores[-1].limits
        areas = [store.states[Area.DECODE] for store in stores]
        self._rows = [Rows(states, self._vocab, self.runs.max_rows) for states in areas]
        self._random, self.rows, self.staged = rng, 0, 0

    def join(self) -> None:
        state = np.random.default_rng(self._random.random().__hash__() % 2**32)
        arrays = [state.uniform(-1, 1, self._shape.hidden).astype(np.float32) for _ in self._shape.state_names]
        row = RowState(self._random.randrange(self._vocab), tuple(arrays), self._random.randrange(1000))
        wanted = Request(np.zeros(0, np.int64), 0, 1, self._random.choice(SAMPLINGS), self._random.randrange(2**64))
        for rows in self._rows:
            rows.put(self.rows, row, wanted)
        self.rows, self.staged = self.rows + 1, self.staged + 1

    def leave(self) -> None:
        slot = self._random.randrange(self.rows)
        self.compare("take", slot)
        self.rows -= 1
        if slot != self.rows:
            for rows in self._rows:
                rows.move(self.rows, slot)

    def run(self) -> None:
        full = self._random.random() < 0.4
        steps = self._random.choice(self.runs.full_steps if full else self.runs.steps)
        numbers = [self._random.choice([-1, -1, self._random.randrange(self._vocab)]) for _ in range(steps * self.rows)]
        forced = np.array(numbers, np.int64).reshape(steps, self.rows)
        made = [rows.run(rows.run_input(0, forced), full=full) for rows in self._rows]
        self.staged = 0
        np.testing.assert_array_equal(made[0].tokens, made[1].tokens)
        if full and self._random.random() < 0.5:
            np.testing.assert_array_equal(made[0].logprobs, made[1].logprobs)
        for slot in self._random.sample(range(self.rows), self._random.randint(0, self.rows)):
            self.compare("take_before", slot, steps)

    def compare(self, what: str, *arguments: int) -> None:
        first, second = (getattr(rows, what)(*arguments) for rows in self._rows)
        assert (first.token, first.position) == (second.token, second.position)
        for one, other in zip(first.state, second.state, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def device(device_files: Files) -> DeviceRunner:
    return DeviceRunner(device_graphs(device_files[1], "fp32-cuda"), threads=1, provider="cpu", tf32=False)


@pytest.fixture(scope="module")
def host(device_files: Files) -> Runner:
    manifest, files = device_files
    return Runner(files["decode.fp32.onnx"], files["full.fp32.onnx"], manifest.model, len(manifest.symbols), threads=1)


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from([(1,), (7,), (1, 2, 7), (3, 7), (2, 3, 4)]), st.integers(1, 7))
def test_whatever_rows_do_they_are_those_of_the_host(
    device_files: Files, device: DeviceRunner, host: Runner, seed: int, buckets: tuple[int, ...], staged: int
) -> None:
    manifest, most = device_files[0], buckets[-1]
    stores = [HostStore(host, manifest, most, most), DeviceStore(device, manifest, buckets, staged)]
    both = Both(manifest, stores, random.Random(seed))
    for _ in range(40):
        match both._random.choice(("join", "join", "leave", "run", "look")):
            case "join" if both.rows < most and both.staged < both.runs.newcomers:
                both.join()
            case "leave" if both.rows:
                both.leave()
            case "run" if both.rows:
                both.run()
            case "look" if both.rows:
                both.compare("take", both._random.randrange(both.rows))


def test_a_warmed_up_device_still_runs_rows_as_they_are(
    device_files: Files, device: DeviceRunner, host: Runner
) -> None:
    """Warm-up runs every kind of run, and knows what each takes."""
    manifest = device_files[0]
    store = DeviceStore(device, manifest, (2, 5))
    measured = []
    store.states[Area.DECODE].warm_up(lambda *what: measured.append(what))
    assert {what[:3] for what in measured} == {
        (rows, full, steps) for rows in (2, 5) for full in (False, True) for steps in DEVICE_STEPS
    }
    assert all(seconds > 0 for *_, seconds in measured)
    both = Both(manifest, [HostStore(host, manifest, 5, 5), store], random.Random(0))
    for _ in range(5):
        both.join()
    for _ in range(6):
        both.run()
        both.leave()
        both.join()


def test_log_probabilities_of_a_large_vocabulary_shorten_runs_of_the_full_graph() -> None:
    assert full_steps(1024, 96) == [4, 16]
    assert full_steps(8, 96) == [*DEVICE_STEPS]
    assert list(full_steps(1024, 20_000)) == [4]
    assert all(steps * 1024 * 96 <= LOGPROBS for steps in full_steps(1024, 96))


def test_an_operator_on_another_provider_is_named(device: DeviceRunner) -> None:
    session = device._sessions[False, 4]
    check_placement(session, "cpu")
    with pytest.raises(CannotRun, match=r"onnxruntime runs \w+ '\w+' on CPUExecutionProvider, not on CUDA"):
        check_placement(session, "cuda")


def test_a_wrong_array_is_no_input(device: DeviceRunner) -> None:
    """onnxruntime would copy its bytes, whatever they mean."""
    buffer = device.buffer((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"an array int32 \(2, 3\), expected float32 \(2, 3\)"):
        buffer.write(np.zeros((2, 3), np.int32))
    with pytest.raises(ValueError, match=r"float32 \(3, 2\)"):
        buffer.write(np.zeros((3, 2), np.float32))


def test_a_row_that_moves_beside_a_run_keeps_its_state_before_it(device_files: Files, device: DeviceRunner) -> None:
    """Else a token would hold the state of the text whose slot it got."""
    manifest = device_files[0]
    rows = Rows(DeviceStore(device, manifest, (4,)).states[Area.DECODE], len(manifest.symbols), 4)
    for slot in range(3):
        state = tuple(np.full(manifest.model.hidden, slot / 4, np.float32) for _ in manifest.model.state_names)
        rows.put(slot, RowState(slot, state, 0), Request(np.zeros(0, np.int64), 0, 1, Sampling(), slot))
    steps = np.full((4, 3), -1)
    rows.run(rows.run_input(0, steps), full=False)
    before = rows.take(2)
    rows.run(rows.run_input(0, steps), full=False, meanwhile=lambda: rows.move(2, 0))
    found = rows.take_before(0, 4)
    assert (found.token, found.position) == (before.token, before.position)
    for one, other in zip(found.state, before.state, strict=True):
        np.testing.assert_array_equal(one, other)
