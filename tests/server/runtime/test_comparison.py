"""A device that computes something else than the host is refused when the model is loaded: here one that is played."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bundle.manifest import Manifest, Precision
from bundle.read import Bundle, full_file
from server.engine.plan import Area
from server.runtime import device_runner
from server.runtime import load as loading
from server.runtime.comparison import Comparison
from server.runtime.device_runner import Bound, Buffer, DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import CannotRun
from server.runtime.load import Loaded, device_graphs, load
from server.settings import ServerSettings

Files = tuple[Manifest, dict[str, bytes]]
Change = Callable[[np.ndarray], np.ndarray]
PRECISIONS: tuple[Precision, ...] = ("fp32-cuda", "fp16-cuda")


@pytest.fixture(scope="module")
def bundle(device_files: Files) -> Bundle:
    return Bundle(Path(), device_files[0], "", device_files[1])


def settings_for(precision: str) -> ServerSettings:
    return ServerSettings.model_validate({"provider": "cpu", "precision": precision, "max_rows": 4})


@pytest.fixture(scope="module")
def runners(bundle: Bundle) -> dict[Precision, DeviceRunner]:
    return {
        precision: DeviceRunner(device_graphs(bundle.files, precision), threads=1, provider="cpu", tf32=False)
        for precision in PRECISIONS
    }


class WrongRunner(DeviceRunner):
    """A device that computes one kind of runs with another graph."""

    def __init__(self, right: DeviceRunner, key: tuple[bool, int], graph: bytes) -> None:
        self.__dict__.update(right.__dict__)
        self._sessions = {**right._sessions, key: device_runner._session(graph, 1, "cpu", False)}


def with_weights(graph: bytes, part: str, change: Change) -> bytes:
    """Return a graph with other numbers in one weight."""
    model = onnx.load_from_string(graph)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(part))
    changed = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    return model.SerializeToString()


def a_column_a_tenth_too_large(values: np.ndarray) -> np.ndarray:
    values[..., 7] = (values[..., 7].astype(np.float32) * 1.1).astype(values.dtype)
    return values


def check(comparison: Comparison, runner: DeviceRunner, full: bool, steps: int) -> None:
    """Compare one kind of runs, of 4 rows. Raises CannotRun."""
    states = DeviceStore(runner, comparison.bundle.manifest, (4,)).states[Area.DECODE]
    comparison.check(states, full, 4, steps, 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_device_is_taken(bundle: Bundle, precision: Precision) -> None:
    """Without the files that a successor of an engine process does not get."""
    names = loading.files_to_load(precision)
    few = replace(bundle, files={name: data for name, data in bundle.files.items() if name in names})
    loaded = load(few, settings_for(precision))
    assert loaded.precision == precision
    loaded.store.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_device_that_computes_zeros_is_refused(
    bundle: Bundle, runners: dict[Precision, DeviceRunner], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Zeros(Buffer):
        def read(self) -> Any:
            return np.zeros_like(super().read())

    class Broken(DeviceRunner):
        def __init__(self, *_: Any, **settings: Any) -> None:
            self.__dict__.update(runners[precision].__dict__)

        def buffer(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Buffer:
            made = super().buffer(shape, dtype)
            made.__class__ = Zeros
            return made

    monkeypatch.setattr(loading, "DeviceRunner", Broken)
    with pytest.raises(CannotRun, match="does not go on from forced characters"):
        load(bundle, settings_for(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_column_that_is_a_tenth_too_large_is_refused(
    bundle: Bundle, runners: dict[Precision, DeviceRunner], precision: Precision
) -> None:
    """Whatever it is a column of, and in whichever graph; the decode graph tells nothing of the head."""
    comparison, steps = Comparison(bundle, precision, rounds=precision == "fp16-cuda"), 4
    graphs = device_graphs(bundle.files, precision)
    for full, part in product((False, True), ("layers.0.table", "0.hidden.weight", "1.both.weight", "head.weight")):
        if full or "head" not in part:
            wrong = with_weights(graphs[full, steps], part, a_column_a_tenth_too_large)
            with pytest.raises(CannotRun, match=r"4 steps, 4 rows, .* in one column \d+"):
                check(comparison, WrongRunner(runners[precision], (full, steps), wrong), full, steps)
        check(comparison, runners[precision], full, steps)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_outcomes_that_probabilities_rule_out_are_refused(
    bundle: Bundle, runners: dict[Precision, DeviceRunner], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decode graph tells no probabilities: what it samples has to fit those of the host."""
    graphs = device_graphs(bundle.files, precision)
    wrong = with_weights(graphs[False, 4], "head.weight", lambda values: -values)
    monkeypatch.setattr(
        loading, "DeviceRunner", lambda *_, **settings: WrongRunner(runners[precision], (False, 4), wrong)
    )
    with pytest.raises(
        CannotRun, match=r"the device samples \d+ of 128 characters that the host's probabilities rule out"
    ):
        load(bundle, settings_for(precision))


def to_10_bits(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(values.dtype)


def test_tf32_is_refused_where_float32_was_promised_and_taken_where_it_was_asked_for(
    bundle: Bundle, runners: dict[Precision, DeviceRunner]
) -> None:
    """Of a device with TF32 the weights, at least, have 10 bits."""
    graph = bundle.files[full_file("fp32-cuda", 4)]
    for part in ("hidden.weight", "both.weight", "head.weight"):
        graph = with_weights(graph, part, to_10_bits)
    rounding = WrongRunner(runners["fp32-cuda"], (True, 4), graph)
    with pytest.raises(CannotRun, match=r"as far from the host as weights of 16 bits would be, .*-cuda at most 0\.4"):
        check(Comparison(bundle, "fp32-cuda", rounds=False), rounding, True, 4)
    check(Comparison(bundle, "fp32-cuda", rounds=True), rounding, True, 4)


def test_a_captured_run_that_differs_from_a_plain_one_ends_the_warm_up(
    bundle: Bundle, runners: dict[Precision, DeviceRunner]
) -> None:
    """As if a graph replayed what is gone."""
    stale = list[Buffer]()

    class Stale(Bound):
        def run(self, *, captured: bool) -> None:
            super().run(captured=captured)
            if captured:
                for buffer in stale:
                    buffer.write(np.zeros_like(buffer.read()))

    class Broken(DeviceRunner):
        def __init__(self, right: DeviceRunner) -> None:
            self.__dict__.update(right.__dict__)

        def bind(self, full: bool, steps: int, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Bound:
            stale.append(outputs["tokens"])
            return Stale(self._sessions[full, steps], inputs, outputs, number=-1)

    states = DeviceStore(Broken(runners["fp32-cuda"]), bundle.manifest, (4,)).states[Area.DECODE]
    with pytest.raises(CannotRun, match=r"a captured run \(.*4 rows\) computes other characters than a plain one"):
        states.warm_up(lambda *what: None)


def test_of_two_precisions_the_faster_one_is_served(
    bundle: Bundle, runners: dict[Precision, DeviceRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(precision: Precision, step_seconds: float) -> Loaded:
        store = DeviceStore(runners[precision], bundle.manifest, (1,))
        monkeypatch.setattr(store.device, "step_seconds", lambda: step_seconds)
        return Loaded(precision, "", "", store, "")

    for half, single, best in ((2e-5, 1e-5, "fp32-cuda"), (1.05e-5, 1e-5, "fp16-cuda"), (1e-5, 2e-5, "fp16-cuda")):
        assert loading._faster(loaded("fp16-cuda", half), loaded("fp32-cuda", single), "tiny").precision == best


def test_the_time_of_a_step_is_measured(bundle: Bundle, runners: dict[Precision, DeviceRunner]) -> None:
    assert 0 < DeviceStore(runners["fp16-cuda"], bundle.manifest, (1, 4)).device.step_seconds() < 60
