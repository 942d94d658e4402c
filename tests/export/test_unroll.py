"""The graphs for a device: what the loop computes, from whatever rows a run begins with."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
import pytest
from allpairspy import AllPairs

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Manifest
from bundle.read import decode_file, full_file
from export.verification import compare
from export.verification.compare import reference_of_bundle, verify
from export.verification.device_loop import DeviceLoop
from export.verification.onnx_session import Arrays, OnnxSession
from export.verification.tolerance import Verification
from models.training.checkpoint import Trained
from tests.conftest import OTHER_CELLS, ExportOnce, Files, tiny_model, with_precisions

SOME_STEPS = (4,)
# It reads something else than its state, has normalisation, and operators that the others lack.
RNN: dict[str, object] = {"cell": "rnn", "activation": "leaky_relu", "form": "pre", "norm": "layer", "residual": True}


@pytest.fixture(scope="module")
def bundles_by_cell(
    device_files: Files, cell_files: Callable[[str], Files], export_once: ExportOnce
) -> dict[str, Files]:
    precisions = ["fp32", "fp32-cuda"]
    rnn = export_once(tiny_model(hidden=16, **RNN), "rnn", precisions)
    return {"lstm": device_files, "gru": with_precisions(cell_files("gru"), *precisions), "rnn": rnn}


@dataclass
class Pair:
    """A loop, and the graph of `steps` steps that was made of it."""

    loop: OnnxSession
    device: OnnxSession
    steps: int
    manifest: Manifest
    full: bool
    rng: np.random.Generator

    def begin(self, rows: int) -> Arrays:
        """Tokens and states of rows."""
        shape = self.manifest.model
        state = {name: self.uniform(-1, 1, rows, shape.hidden) for name in shape.state_names}
        return {"token": self.rng.integers(0, self.vocab, rows), **state}

    def given(self, rows: int) -> Arrays:
        """What else a run takes: forced and sampled steps, greedy and warm rows, some with limits."""
        size = (self.steps, rows)
        forced = np.where(self.rng.random(size) < 0.3, self.rng.integers(0, self.vocab, size), -1)
        temperature = self.rng.choice(np.array([0, 0.5, 1], np.float32), rows)
        given = {"forced": forced, "uniform": self.uniform(0, 0.999, *size), "temperature": temperature}
        if self.full:
            top_k = self.rng.integers(1, self.vocab + 1, rows)
            limits = {"top_p": self.uniform(0, 1, rows), "min_p": self.uniform(0, 0.2, rows)}
            given |= {"bias": self.uniform(-2, 2, rows, self.vocab), "top_k": top_k, **limits}
        return given

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        return self.rng.uniform(low, high, shape).astype(np.float32)

    @property
    def vocab(self) -> int:
        return len(self.manifest.symbols)


PAIRS = [tuple(pair) for pair in AllPairs([("lstm", "gru", "rnn"), DEVICE_STEPS, ("decode", "full")])]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda p: "-".join(map(str, p)))
def pair(request: pytest.FixtureRequest, bundles_by_cell: dict[str, Files]) -> Pair:
    cell, steps, kind = request.param
    manifest, files = bundles_by_cell[cell]
    file = {"decode": decode_file, "full": full_file}[kind]
    graphs = OnnxSession(files[file("fp32")]), OnnxSession(files[file("fp32-cuda", steps)])
    return Pair(*graphs, steps, manifest, kind == "full", np.random.default_rng(0))


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in found.items():
        # A device's graph has one matmul for all gates, and other operators to sample: the last bits may differ.
        tolerance = 2e-5 if array.dtype == np.float32 else 0
        np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_steps_one_after_the_other_are_the_loops(pair: Pair) -> None:
    begin = pair.begin(5)
    for _ in range(2):
        given = pair.given(5)
        found = DeviceLoop(pair.device, pair.manifest).run({**begin, **given})
        assert_equal(found, pair.loop.run({**begin, **given}))
        begin = {name: found[f"{name}_next"] for name in begin}


@pytest.mark.parametrize(("held", "staged", "rows"), [(6, 3, 9), (1, 1, 4), (2, 9, 3), (8, 2, 1)])
def test_a_row_goes_on_from_where_its_source_says(pair: Pair, held: int, staged: int, rows: int) -> None:
    """Rows in any order, some twice, some left out; more or fewer than before."""
    there, joining = pair.begin(held), pair.begin(staged)
    source = pair.rng.integers(0, held + staged, rows)
    source[0] = held + staged - 1  # the last row that is staged
    begin = {name: np.concatenate([there[name], joining[name]])[source] for name in there}
    given = pair.given(rows)
    inputs = {**there, **{f"staged_{name}": array for name, array in joining.items()}, "source": source}
    assert_equal(pair.device.run({**inputs, **given}), pair.loop.run({**begin, **given}))


def test_what_lies_in_rows_that_nobody_takes_does_no_harm(pair: Pair) -> None:
    """Unused rows of a bucket may hold anything, numbers that are none too."""
    there, joining = pair.begin(4), pair.begin(3)
    for name in pair.manifest.model.state_names:
        there[name][1], joining[name][2] = np.nan, np.inf
    source = np.array([0, 4, 3, 5])
    begin = {name: np.concatenate([there[name], joining[name]])[source] for name in there}
    given = pair.given(4)
    inputs = {**there, **{f"staged_{name}": array for name, array in joining.items()}, "source": source}
    assert_equal(pair.device.run({**inputs, **given}), pair.loop.run({**begin, **given}))


# The weights of all gates, and those of each in the loop.
JOINED = {"0.table": "0.tables.{}", "0.hidden.weight": "0.hidden.{}.weight", "1.both.weight": "1.both.{}.weight"}


def test_weights_are_there_once_under_their_names(device_files: Files) -> None:
    """Neither sixteen times as large a file, nor one in which nobody finds a weight."""
    _, files = device_files
    for file, steps in product((decode_file, full_file), DEVICE_STEPS):
        loop, device = (onnx.load_from_string(files[name]).graph for name in (file("fp32"), file("fp32-cuda", steps)))
        kept = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in device.initializer}
        gates = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loop.initializer}
        for name, of_gate in JOINED.items():
            parts = [gates[f"step.layers.{of_gate.format(gate)}"] for gate in range(4)]
            np.testing.assert_array_equal(kept[f"step.layers.{name}"], np.concatenate(parts, axis=1))
        assert sum(array.nbytes for array in kept.values()) < 1.1 * sum(array.nbytes for array in gates.values())


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_they_are_verified(
    bundles_by_cell: dict[str, Files], cell: str, tiny: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = bundles_by_cell[cell]
    models = {"lstm": tiny, "gru": OTHER_CELLS["gru"](), "rnn": tiny_model(hidden=16, **RNN)}
    found = verify(manifest, files, models[cell].model)
    assert all(verification.has_passed for verification in found), [str(v) for v in found]
    names = [f(p, k) for p in manifest.precisions[1:] for f in (decode_file, full_file) for k in DEVICE_STEPS]
    assert [v.file for v in found[3:]] == names
    assert all(v.outcomes > 500 for v in found[3:])
    monkeypatch.setattr(compare, "DEVICE_STEPS", SOME_STEPS)
    assert all(v.has_passed for v in verify(manifest, files, reference_of_bundle(manifest, files)))


def changed(data: bytes, name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    model = onnx.load_from_string(data)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(name))
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), tensor.name))
    return model.SerializeToString()


# Of the weights of all gates it is one of the candidate's; the head has fewer columns.
COLUMN = 2 * 64 + 7


def a_column_too_large(values: np.ndarray) -> np.ndarray:
    values[..., COLUMN % values.shape[-1]] *= 1.1
    return values


def a_column_upside_down(values: np.ndarray) -> np.ndarray:
    values[..., COLUMN % values.shape[-1]] *= -1
    return values


# In 16 bits a column that is a tenth too large may look like roundings.
WRONG = {"fp32-cuda": a_column_too_large, "fp16-cuda": a_column_upside_down}


@pytest.fixture
def some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of other numbers of steps are not looked at: that they pass is shown above."""
    monkeypatch.setattr(compare, "DEVICE_STEPS", SOME_STEPS)


def failed(found: list[Verification]) -> list[str]:
    return [verification.file for verification in found if not verification.has_passed]


@pytest.mark.usefixtures("some_steps")
@pytest.mark.parametrize(
    ("precision", "part"),
    [
        ("fp32-cuda", "both.weight"),
        ("fp16-cuda", "both.weight"),
        ("fp32-cuda", "table"),
        ("fp16-cuda", "head.weight"),
    ],
)
def test_verify_notices_one_wrong_number(device_files: Files, tiny: Trained, precision: str, part: str) -> None:
    manifest, files = device_files
    name = decode_file(precision, 4)
    few = manifest.model_copy(update={"precisions": (precision,)})
    assert failed(verify(few, {**files, name: changed(files[name], part, WRONG[precision])}, tiny.model)) == [name]


@pytest.mark.usefixtures("some_steps")
def test_verify_notices_rows_that_begin_elsewhere(device_files: Files, tiny: Trained) -> None:
    """Rows that stay where they are begin right; one that was staged begins as another one."""
    manifest, files = device_files
    name = decode_file("fp32-cuda", 4)
    model = onnx.load_from_string(files[name])
    (last,) = (node for node in model.graph.node if list(node.output) == ["staged_row"])
    last.input[0] = "row_0"
    few = manifest.model_copy(update={"precisions": ("fp32-cuda",)})
    found = verify(few, {**files, name: model.SerializeToString()}, tiny.model)
    assert failed(found) == [name]
    assert any("source" in failure for verification in found for failure in verification.failures)
